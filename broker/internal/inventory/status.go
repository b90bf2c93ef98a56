package inventory

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Texts that a device's status carries for people.
const (
	textUnverified = "Not verified: the copied key has not opened this device yet."
	textMissing    = "Missing from the machine's last inventory, but in use by its word."
)

// Move applies an event to a device, carries out what belongs to the device itself, stores the row and leaves the audit
// record. detail explains the new state to people. What else has to be done, such as queueing a job, is in the Result.
func Move(t *store.Tenant, p tenant.Principal, d *store.Device, e Event, c Ctx, detail string) (Result, error) {
	from := d.Status
	res, err := Apply(State{Status: d.Status, Former: d.FormerStatus}, e, c)
	if err != nil {
		return res, conflict(err, d.Name)
	}
	d.Status, d.FormerStatus = res.Next.Status, res.Next.Former
	// A device that goes and comes back is what it was: why it failed, or that nobody has verified it, is still so.
	if from != d.Status && e != Vanished && e != Published || detail != "" {
		d.StatusDetail = detail
	}
	removed := false
	for _, f := range res.Effects {
		switch f.Kind {
		case EffectDropPending:
			if err := endRotation(t, p, *d, "cancelled by a person"); err != nil {
				return res, err
			}
		case EffectDestroyKey:
			if err := endRotation(t, p, *d, "the device's key was destroyed"); err != nil {
				return res, err
			}
			if _, err := store.In[store.DeviceKey](t).DeleteWhere(store.Eq("device_id", d.ID)); err != nil {
				return res, fmt.Errorf("destroying the key of device %q: %w", d.Name, err)
			}
		case EffectClearConfig:
			d.Platform, d.FileSystem, d.MountPoint, d.Access, d.KeyBits, d.Volume, d.HomeInstanceID = "", "", "", "", 0, nil, ""
		case EffectMarkUnverified:
			d.StatusDetail = textUnverified
		case EffectMarkVerified:
			d.StatusDetail = ""
		case EffectWarnMissing:
			d.StatusDetail = textMissing
		case EffectRemove:
			removed = true
		case "audit":
			if err := audit.Append(t, audit.Entry{Category: category(p), Event: f.Name, Actor: p.Actor(), Subject: d.ID,
				Detail: filled(map[string]string{"name": d.Name, "from": string(from), "to": string(d.Status), "detail": detail})}); err != nil {
				return res, err
			}
		}
	}
	if d.RAIDSetID == "" { // of a member its set tells
		if err := tell(t, res, *d, detail); err != nil {
			return res, err
		}
	}
	if removed {
		return res, store.In[store.Device](t).Delete(d.ID)
	}
	return res, stale(store.In[store.Device](t).Update(d), "device")
}

// MoveSet is Move for a RAID set. What people are to be told is left to the caller, who knows of which member.
func MoveSet(t *store.Tenant, p tenant.Principal, r *store.RAIDSet, e Event, c Ctx, detail string) (Result, error) {
	from := r.Status
	fresh := from == ""
	if fresh { // the audit record names it before it is stored
		id, err := uuid.NewV7()
		if err != nil {
			return Result{}, fmt.Errorf("making an ID: %w", err)
		}
		r.ID = id.String()
	}
	res, err := ApplyRAID(State{Status: r.Status, Former: r.FormerStatus}, e, c)
	if err != nil {
		return res, conflict(err, r.Name)
	}
	r.Status, r.FormerStatus = res.Next.Status, res.Next.Former
	removed := false
	for _, f := range res.Effects {
		switch f.Kind {
		case EffectDestroyKey:
			if err := unconfigureMembers(t, p, r.ID); err != nil {
				return res, err
			}
		case EffectReleaseMembers:
			if err := releaseMembers(t, r.ID); err != nil {
				return res, err
			}
		case EffectClearConfig:
			r.Platform, r.FileSystem, r.MountPoint, r.KeyBits = "", "", "", 0
		case EffectRemove:
			removed = true
		case "audit":
			if err := audit.Append(t, audit.Entry{Category: category(p), Event: f.Name, Actor: p.Actor(), Subject: r.ID,
				Detail: filled(map[string]string{"name": r.Name, "from": string(from), "to": string(r.Status), "detail": detail})}); err != nil {
				return res, err
			}
		}
	}
	sets := store.In[store.RAIDSet](t)
	switch {
	case fresh:
		return res, sets.Insert(r)
	case removed:
		return res, sets.Delete(r.ID)
	}
	return res, stale(sets.Update(r), "RAID set")
}

// category groups a record by who caused it.
func category(p tenant.Principal) string {
	switch {
	case p.Instance != "":
		return "agent"
	case p.UserName != "":
		return "user"
	}
	return "server"
}

// filled drops the members that say nothing.
func filled(m map[string]string) map[string]string {
	for k, v := range m {
		if v == "" {
			delete(m, k)
		}
	}
	return m
}

// conflict turns a refusal of the machine into a problem that names the thing.
func conflict(err error, name string) error {
	var r *Refused
	if !errors.As(err, &r) {
		return err
	}
	return problem.Conflict(fmt.Sprintf("%s %q: %s.", strings.ToUpper(r.Subject[:1])+r.Subject[1:], name, r.Error()),
		"Look at its status; nothing was changed.")
}

func stale(err error, thing string) error {
	if errors.Is(err, store.ErrStale) {
		return problem.Stale(thing)
	}
	return err
}

func (s *Service) publish(t *store.Tenant, topics ...string) {
	account := t.AccountID()
	t.AfterCommit(func() { s.Feed.Publish(account, topics...) })
}

// keyOut are the statuses of key requests in which a machine may hold, or may fetch at any moment, the device's key.
var keyOut = []api.KeyStatus{api.KeyApproved, api.KeyDelivered, api.KeyRevokePending, api.KeyRevokeIgnored, api.KeyRevoking}

// noKeyOut says that no machine may hold the key of the device.
func noKeyOut(t *store.Tenant, deviceID string) (bool, error) {
	n, err := store.In[store.KeyRequest](t).Count(store.Eq("device_id", deviceID), store.OneOf("status", keyOut))
	return n == 0, err
}

func noKey(t *store.Tenant, deviceID string) (bool, error) {
	n, err := store.In[store.DeviceKey](t).Count(store.Eq("device_id", deviceID))
	return n == 0, err
}
