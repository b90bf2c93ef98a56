package job

import (
	"context"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// phases are what an encryption goes through.
var phases = map[string]bool{"header": true, "file system": true, "done": true, "failed": true}

// phaseWaiting is what a machine reports of a rotation that it has not begun.
const phaseWaiting = "waiting"

// waits keeps why a machine has not begun a rotation. The job stays queued.
func (s *Service) waits(ctx context.Context, p tenant.Principal, call idempotency.Call, id string, in api.JobProgress) error {
	why := oneLine(in.Waiting)
	if why == "" || in.Done || in.Failed != "" || in.Percent != 0 || in.Volume != nil {
		return problem.Invalid("waiting", "says why the job has not begun, and nothing else is reported with it")
	}
	_, err := idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (struct{}, error) {
		j, err := own(t, p, id)
		if err != nil {
			return struct{}{}, err
		}
		if j.Kind != kindRotate || j.Status != queued {
			return struct{}{}, ended(j)
		}
		d, err := store.In[store.Device](t).Get(j.DeviceID)
		if err != nil {
			return struct{}{}, err
		}
		s.announce(t, d)
		return struct{}{}, inventory.Refuses(t, p, &j, why)
	})
	return err
}

// maxReason is the longest reason of a failure that is kept, in characters.
const maxReason = 1024

// Progress takes a machine's report on its job.
func (s *Service) Progress(ctx context.Context, p tenant.Principal, call idempotency.Call, id string, in api.JobProgress) error {
	if in.Phase == phaseWaiting {
		return s.waits(ctx, p, call, id, in)
	}
	if !phases[in.Phase] || in.Percent < 0 || in.Percent > 100 {
		return problem.Invalid("phase", "with its percent is none of header, file system, done and failed")
	}
	if in.Done && in.Failed != "" || in.Done != (in.Phase == "done") || (in.Failed != "") != (in.Phase == "failed") {
		return problem.Invalid("done", "contradicts the phase")
	}
	if in.Done {
		// Outside the transaction: deriving the digest takes as long as the machine's iterations say.
		if err := s.verify(ctx, p, id, records(in)); err != nil {
			return err
		}
	}
	_, err := idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (struct{}, error) {
		return struct{}{}, s.progress(t, p, id, in)
	})
	return err
}

func (s *Service) progress(t *store.Tenant, p tenant.Principal, id string, in api.JobProgress) error {
	j, err := own(t, p, id)
	if err != nil {
		return err
	}
	if j.Status != running {
		return ended(j)
	}
	u, err := unitOf(t, j)
	if err != nil {
		return err
	}
	d := u.First()
	s.announce(t, *d)
	switch {
	case in.Done:
		done := records(in)
		if len(done) != len(u.Members) {
			return problem.Invalid("members", "are not those of the device or RAID set")
		}
		for i := range u.Members {
			u.Members[i].Volume, u.Members[i].HomeInstanceID = &done[i], p.Instance
		}
		if _, err := u.Move(t, p, inventory.Encrypted, inventory.Ctx{}, ""); err != nil {
			return err
		}
		j.Phase, j.Percent = in.Phase, 100
		return end(t, &j, finished, "")
	case in.Failed != "":
		return s.fail(t, p, &j, &u, oneLine(in.Failed))
	}
	j.Phase, j.Percent = in.Phase, in.Percent
	if err := store.In[store.Job](t).Update(&j); err != nil {
		return err
	}
	d.StatusDetail = fmt.Sprintf("%s, %d %%", in.Phase, in.Percent)
	return store.In[store.Device](t).Update(d)
}

// records are those of the members of a RAID set, or of a device that stands alone.
func records(in api.JobProgress) []api.VolumeRecord {
	if in.Volume != nil && len(in.Members) == 0 {
		return []api.VolumeRecord{*in.Volume}
	}
	return in.Members
}

// fail ends a job and shows why on its device. The key stays until the device is encrypted anew or unconfigured: what
// was written with it can still be looked at.
func (s *Service) fail(t *store.Tenant, p tenant.Principal, j *store.Job, u *inventory.Unit, why string) error {
	if _, err := u.Move(t, p, inventory.EncryptionFailed, inventory.Ctx{}, why); err != nil {
		return err
	}
	s.announceNotice(t)
	j.Phase = "failed"
	return end(t, j, failed, why)
}

// refuseVolume notes that a machine reported a volume that is not what it was asked to make.
func (s *Service) refuseVolume(ctx context.Context, p tenant.Principal, id, field, why string) error {
	s.Logger.Warn("a volume record was refused", "account", p.AccountID, "instance", p.Instance, "job", id, "field", field, "reason", why)
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		return audit.Append(tx.Tenant(p.AccountID), audit.Entry{Category: "key", Event: "job.volume-refused", Actor: p.Actor(), Subject: id,
			Detail: map[string]string{"field": field, "reason": why}})
	})
	if err != nil {
		return err
	}
	return problem.Invalid("volume."+field, why)
}

// oneLine makes a machine's words fit to be shown.
func oneLine(text string) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return ' '
		}
		return r
	}, text))
	if r := []rune(text); len(r) > maxReason {
		return string(r[:maxReason])
	}
	return text
}
