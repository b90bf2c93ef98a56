// Package job runs the work that people ask of machines and that outlives restarts of both sides: encrypting a device.
package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/challenge"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

const (
	// silentLife is how long a running job may go without a report.
	silentLife = 15 * time.Minute
	// remindAfter is when a machine that took a job and fell silent is asked again: it may have been restarted.
	remindAfter = 30 * time.Second
)

// The states of a job.
const (
	queued    = "queued"
	running   = "running"
	finished  = "done"
	failed    = "failed"
	cancelled = "cancelled"
)

const (
	kindEncrypt = "encrypt"
	kindRotate  = inventory.JobRotateKey
)

// Deps is what the service works with.
type Deps struct {
	Store  *store.Store
	Feed   *feed.Hub
	Root   keystore.Root
	Logger *slog.Logger
	// Challenges accepts the nonces that machines fetched.
	Challenges *challenge.Issuer
	// AgentURL names the broker in volume records, as enrolment does.
	AgentURL string
}

// Service runs jobs.
type Service struct{ Deps }

// New makes the service.
func New(d Deps) *Service {
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	return &Service{d}
}

// Encrypt asks the machine that sees a configured device, or all members of a RAID set, to encrypt it.
func (s *Service) Encrypt(ctx context.Context, p tenant.Principal, deviceID string, in api.EncryptWrite) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		u, err := inventory.UnitByID(t, deviceID)
		if err != nil {
			return err
		}
		if err := inventory.CheckConfirm(in.Confirm, u.Name()); err != nil {
			return err
		}
		wait, err := waitOf(in)
		if err != nil {
			return err
		}
		empty := u.Contents() == "empty"
		if !empty && !in.Destroy {
			return problem.New(409, "device-not-empty", "The device is not empty",
				fmt.Sprintf("Device %q holds: %s. Encrypting it destroys that for ever.", u.Name(), u.Contents()),
				"Choose another device, or say that its contents may be destroyed.")
		}
		if err := together(u); err != nil {
			return err
		}
		for i := range u.Members {
			u.Members[i].ConfiguredBy, u.Members[i].RAIDIndex = p.UserID, i // a set of an earlier release has no places
		}
		if _, err := u.Move(t, p, inventory.EncryptAsked, inventory.Ctx{Complete: u.Complete(), NotRoot: true,
			Single: true, Empty: empty, Destroy: in.Destroy}, "Waiting for the machine to begin, for at most "+span(wait)+"."); err != nil {
			return err
		}
		d := *u.First()
		j := store.Job{Kind: kindEncrypt, DeviceID: d.ID, InstanceID: d.InstanceID, Status: queued, Destroy: in.Destroy && !empty,
			ExpiresAt: t.Now().Add(wait)}
		if err := store.In[store.Job](t).Insert(&j); err != nil {
			return fmt.Errorf("queueing the encryption of device %q: %w", d.Name, err)
		}
		s.announce(t, d)
		return nil
	})
}

// together refuses a set whose members were seen by different machines last: one machine has to write to all of them.
func together(u inventory.Unit) error {
	for _, d := range u.Members {
		if d.InstanceID != u.First().InstanceID {
			return problem.Conflict(fmt.Sprintf("Devices %q and %q of RAID set %q are on different machines.", u.First().Name, d.Name, u.Name()),
				"Attach all members to one machine and publish its inventory.")
		}
	}
	return nil
}

// CancelEncryption takes back an encryption that no machine has begun.
func (s *Service) CancelEncryption(ctx context.Context, p tenant.Principal, deviceID string) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		u, err := inventory.UnitByID(t, deviceID)
		if err != nil {
			return err
		}
		if _, err := u.Move(t, p, inventory.Cancelled, inventory.Ctx{}, ""); err != nil {
			return err
		}
		d := *u.First()
		j, err := open(t, d.ID)
		if err != nil {
			return err
		}
		if err := end(t, &j, cancelled, "cancelled by a person"); err != nil {
			return err
		}
		s.announce(t, d)
		return nil
	})
}

// Commands lists the jobs that a machine has to take, or take again.
func (s *Service) Commands(t *store.Tenant, instanceID string) ([]api.Command, error) {
	jobs, err := store.In[store.Job](t).List(openOf(instanceID)...)
	if err != nil {
		return nil, err
	}
	rotate := slices.DeleteFunc(slices.Clone(jobs), func(j store.Job) bool { return j.Kind != kindRotate })
	out, err := inventory.RotationCommands(t, rotate)
	if err != nil {
		return nil, err
	}
	for _, j := range jobs {
		if j.Kind != kindEncrypt {
			continue
		}
		if j.Status == running && j.UpdatedAt.After(t.Now().Add(-remindAfter)) {
			continue
		}
		d, err := store.In[store.Device](t).Get(j.DeviceID)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		u, err := inventory.UnitOf(t, d)
		if err != nil {
			return nil, err
		}
		view := u.Assigned()
		out = append(out, api.Command{Kind: api.CommandEncrypt, JobID: j.ID, DeviceID: d.ID, Device: &view, Destroy: j.Destroy})
	}
	return out, nil
}

// CommandReads is what Commands reads in any case.
func (s *Service) CommandReads(instanceID string) []store.Read {
	return []store.Read{store.Rows[store.Job](openOf(instanceID)...)}
}

func openOf(instanceID string) []store.Filter {
	return []store.Filter{store.Eq("instance_id", instanceID), store.OneOf("status", []string{queued, running})}
}

// own reads a job of the calling machine; another machine's is not there.
func own(t *store.Tenant, p tenant.Principal, id string) (store.Job, error) {
	j, err := store.In[store.Job](t).Get(id)
	if errors.Is(err, store.ErrNotFound) || err == nil && j.InstanceID != p.Instance {
		return store.Job{}, problem.NotFound("job")
	}
	return j, err
}

// open is the job of a device that is queued or running.
func open(t *store.Tenant, deviceID string) (store.Job, error) {
	return store.In[store.Job](t).First(store.Eq("device_id", deviceID), store.Eq("kind", kindEncrypt), store.OneOf("status", []string{queued, running}))
}

func end(t *store.Tenant, j *store.Job, status, why string) error {
	now := t.Now()
	j.Status, j.Error, j.EndedAt = status, why, &now
	return store.In[store.Job](t).Update(j)
}

// unitOf is what a job is about.
func unitOf(t *store.Tenant, j store.Job) (inventory.Unit, error) {
	d, err := store.In[store.Device](t).Get(j.DeviceID)
	if errors.Is(err, store.ErrNotFound) {
		return inventory.Unit{}, problem.NotFound("device")
	}
	if err != nil {
		return inventory.Unit{}, err
	}
	return inventory.UnitOf(t, d)
}

func (s *Service) announce(t *store.Tenant, d store.Device) {
	account := t.AccountID()
	t.AfterCommit(func() { s.Feed.Publish(account, feed.TopicDevices, feed.Instance(d.InstanceID)) })
}

// announceNotice wakes who looks at the list above which notices stand.
func (s *Service) announceNotice(t *store.Tenant) {
	account := t.AccountID()
	t.AfterCommit(func() { s.Feed.Publish(account, feed.TopicKeyRequests) })
}
