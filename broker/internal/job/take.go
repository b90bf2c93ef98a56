package job

import (
	"context"
	"fmt"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// keyLease is the lease in the binding of a job's key: as long as a running job may be silent.
const keyLease = int64(silentLife / 1e9)

// Take gives an encrypt job to its machine: the device key, or those of all members of a RAID set, sealed to the machine's
// public key. A machine that was
// restarted takes its job again and gets the same key.
func (s *Service) Take(ctx context.Context, p tenant.Principal, call idempotency.Call, id string, in api.JobKeyRequest) (api.KeyDelivery, error) {
	if err := keyrequest.CheckPublicKey(in.PublicKey); err != nil {
		return api.KeyDelivery{}, err
	}
	return idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (api.KeyDelivery, error) {
		j, err := own(t, p, id)
		if err != nil {
			return api.KeyDelivery{}, err
		}
		if j.Kind != kindEncrypt {
			return api.KeyDelivery{}, problem.Conflict("No agent can give a volume's data another key in this release.",
				"Leave the volume as it is; say with the job's progress that it waits.")
		}
		if j.Status != queued && j.Status != running {
			return api.KeyDelivery{}, ended(j)
		}
		if err := s.Challenges.Spend(t, p, in.Nonce); err != nil {
			return api.KeyDelivery{}, err
		}
		u, err := unitOf(t, j)
		if err != nil {
			return api.KeyDelivery{}, err
		}
		if slices.ContainsFunc(u.Members, func(d store.Device) bool { return d.InstanceID != p.Instance }) {
			return api.KeyDelivery{}, problem.New(403, "not-your-device", "Not this machine's device",
				"The device was published by another machine since the job was queued.", "Publish the inventory again.")
		}
		res, err := u.Move(t, p, inventory.AgentTookJob, inventory.Ctx{}, "Beginning.")
		if err != nil {
			return api.KeyDelivery{}, err
		}
		keys, err := s.keys(t, u, res)
		if err != nil {
			return api.KeyDelivery{}, err
		}
		d := *u.First()
		if err := s.take(t, p, &j, d); err != nil {
			return api.KeyDelivery{}, err
		}
		account, err := inventory.AccountKey(t)
		if err != nil {
			return api.KeyDelivery{}, err
		}
		out, err := keystore.SealFor(s.Root, in.PublicKey, api.DeliveryBinding{Purpose: keystore.PurposeEncryptJob, AccountID: p.AccountID,
			RequestID: j.ID, DeviceID: d.ID, InstanceID: p.Instance, Nonce: in.Nonce, LeaseSeconds: keyLease}, account, keys, api.VolumeRecord{}, u.Assigned())
		if err != nil {
			return api.KeyDelivery{}, fmt.Errorf("sealing the key of job %s: %w", j.ID, err)
		}
		return out, nil
	})
}

// keys are the members' keys: new ones when the job is taken for the first time.
func (s *Service) keys(t *store.Tenant, u inventory.Unit, res inventory.Result) ([]keystore.DeviceKey, error) {
	if slices.ContainsFunc(res.Effects, func(e inventory.Effect) bool { return e.Kind == inventory.EffectNewKey }) {
		for _, d := range u.Members {
			if _, err := inventory.NewKey(t, s.Root, d); err != nil {
				return nil, err
			}
		}
	}
	return u.Keys(t)
}

func (s *Service) take(t *store.Tenant, p tenant.Principal, j *store.Job, d store.Device) error {
	event := "job.taken"
	if j.Status == running {
		event = "job.taken-again"
	}
	j.Status, j.Phase, j.Percent = running, "", 0
	if err := store.In[store.Job](t).Update(j); err != nil {
		return err
	}
	s.announce(t, d)
	return audit.Append(t, audit.Entry{Category: "key", Event: event, Actor: p.Actor(), Subject: j.ID,
		Detail: map[string]string{"device": d.ID, "name": d.Name, "bits": fmt.Sprint(d.KeyBits)}})
}

func ended(j store.Job) error {
	return problem.New(409, "job-ended", "The job is over", fmt.Sprintf("The job is %s.", j.Status),
		"Wipe the key and leave the device as it is; people see its state in the console.")
}
