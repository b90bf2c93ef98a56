package keyrequest

import (
	"context"
	"errors"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// maxHeld bounds the held keys and the devices of one heartbeat.
const maxHeld = 4096

// Heartbeat notes that a machine lives, renews the leases of the keys that it rightly holds, and tells it what to do.
func (s *Service) Heartbeat(ctx context.Context, p tenant.Principal, in api.Heartbeat) (api.HeartbeatResponse, error) {
	if err := checkHeartbeat(in); err != nil {
		return api.HeartbeatResponse{}, err
	}
	if len(in.Held) > maxHeld {
		return api.HeartbeatResponse{}, problem.Invalid("held", "are more keys than a machine can have")
	}
	var out api.HeartbeatResponse
	err := s.Store.TxAhead(ctx, p.AccountID, s.heard(p), func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		inst, err := inventory.Caller(t, p)
		if err != nil {
			return err
		}
		if err := inventory.CheckClock(t.Now(), in.Time); err != nil {
			return err
		}
		before := inst
		if err := s.meet(t, p, &inst, in.Run); err != nil {
			return err
		}
		if err := s.vouchHeartbeat(t, p, &inst, &in.Evidence); err != nil {
			return err
		}
		inst.Evidence = in.Evidence
		why, err := occasionOf(t, &inst, in)
		if err != nil {
			return err
		}
		out = api.HeartbeatResponse{Leases: []api.Lease{}, Time: t.Now()}
		if out.NextSeconds, _, err = paces(t, p.Instance); err != nil {
			return err
		}
		inst.PaceSeconds = out.NextSeconds
		if err := inventory.Seen(t, p, &inst); err != nil {
			return err
		}
		if out.Checked, err = s.judge(t, p, before, in, why); err != nil {
			return err
		}
		strays, err := s.renew(t, p, in.Held, &out)
		if err != nil {
			return err
		}
		if out.Commands, err = s.commands(t, inst); err != nil {
			return err
		}
		for _, c := range strays {
			if !slices.ContainsFunc(out.Commands, func(o api.Command) bool { return o.Kind == c.Kind && o.RequestID == c.RequestID }) {
				out.Commands = append(out.Commands, c)
			}
		}
		if before.Missing || before.CheckAskedAt != nil && inst.CheckAskedAt == nil {
			t.AfterCommit(func() { s.Feed.Publish(p.AccountID, feed.TopicInstances, feed.TopicKeyRequests) })
		}
		return nil
	})
	return out, err
}

// heard is what a heartbeat of a machine reads in any case.
func (s *Service) heard(p tenant.Principal) []store.Read {
	instanceID := p.Instance
	out := append(inventory.SightedReads(instanceID), store.Row[store.Instance](store.Eq("id", instanceID)),
		store.Rows[store.KeyRequest](underCheckOf(instanceID)...), store.Rows[store.KeyRequest](retriesOf(instanceID)...),
		store.Rows[store.KeyRequest](revokingOf(instanceID)...), inventory.AccountKeyOf(p.AccountID))
	if s.Jobs != nil {
		out = append(out, s.Jobs.CommandReads(instanceID)...)
	}
	return out
}

// renew extends the leases of held keys. A key that the machine has no right to any more comes back as a command to give
// it up: nothing but the machine's own list shows that it is there.
func (s *Service) renew(t *store.Tenant, p tenant.Principal, held []api.HeldKey, out *api.HeartbeatResponse) ([]api.Command, error) {
	var strays []api.Command
	for _, h := range held {
		r, err := store.In[store.KeyRequest](t).Get(h.RequestID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err != nil || r.InstanceID != p.Instance || r.DeviceID != h.DeviceID || !LeaseRenewed(r.Status) {
			mode := r.RevokeMode
			if err != nil || r.InstanceID != p.Instance || mode == "" {
				mode = api.RevokeUnmount
			}
			strays = append(strays, api.Command{Kind: api.CommandRevoke, RequestID: h.RequestID, DeviceID: h.DeviceID, Mode: mode,
				Reason: "The broker does not count this key as delivered to this machine."})
			continue
		}
		pol, err := policyOf(t, r.PolicyID)
		if err != nil {
			return nil, err
		}
		end := t.Now().Add(seconds(pol.LeaseSeconds))
		r.LeaseExpiresAt = &end
		if h.Mounted && !r.Mounted {
			r.Mounted = true
			if err := s.inUse(t, p, &r); err != nil {
				return nil, err
			}
			s.announce(t, &r, r.Status)
		}
		if err := store.In[store.KeyRequest](t).Update(&r); err != nil {
			return nil, err
		}
		lease := api.Lease{RequestID: r.ID, Seconds: pol.LeaseSeconds, Status: r.Status, Integrity: r.Integrity}
		if r.Integrity == api.IntegrityFailed {
			lease.Reason = r.Reason
		}
		if r.Status == api.KeyRevokePending {
			lease.RevokeAt = r.RevokeDueAt
		}
		out.Leases = append(out.Leases, lease)
	}
	return strays, nil
}

// paces are the smallest heartbeat of the policies of a machine's devices, in seconds, and the shortest silence after
// which it is missing.
func paces(t *store.Tenant, instanceID string) (beat int64, silence time.Duration, err error) {
	policies, err := inventory.SightedPolicies(t, instanceID)
	if err != nil {
		return 0, 0, err
	}
	return pacesUnder(t, policies)
}

// pacesUnder are the paces of a machine whose devices are under policies.
func pacesUnder(t *store.Tenant, policies []string) (beat int64, silence time.Duration, err error) {
	for _, id := range policies {
		pol, err := policyOf(t, id)
		if err != nil {
			return 0, 0, err
		}
		if beat == 0 || pol.HeartbeatSeconds < beat {
			beat = pol.HeartbeatSeconds
		}
		if own := silenceOf(pol); silence == 0 || own < silence {
			silence = own
		}
	}
	if beat > 0 {
		return beat, silence, nil
	}
	pol, err := policyOf(t, "")
	if errors.Is(err, store.ErrNotFound) {
		return 30, 90 * time.Second, nil // no policy yet, so no device either
	}
	return pol.HeartbeatSeconds, silenceOf(pol), err
}

// silenceOf is how long a policy lets a machine be silent before it is missing.
func silenceOf(pol store.Policy) time.Duration {
	if pol.MissingAfterSeconds > 0 {
		return max(seconds(pol.MissingAfterSeconds), minSilence)
	}
	return max(3*seconds(pol.HeartbeatSeconds), minSilence)
}

// toldList is a command list that an instance has been told.
type toldList struct {
	list []api.Command
	at   time.Time
}

// hold is how long an unchanged command list is held back.
const hold = 5 * time.Second

// Commands lists what the calling machine is asked to do, and waits until there is something new.
func (s *Service) Commands(ctx context.Context, p tenant.Principal, wait time.Duration) (api.CommandList, error) {
	out := api.CommandList{Commands: []api.Command{}}
	err := s.waitFor(ctx, p, wait, []string{feed.Instance(p.Instance)}, func() bool { return len(out.Commands) > 0 }, func() (bool, error) {
		err := s.Store.View(ctx, func(tx *store.Tx) error {
			t := tx.Tenant(p.AccountID)
			inst, err := store.In[store.Instance](t).First(store.Eq("id", p.Instance), store.Only("id", "check_asked_at", "check_nonce"))
			if ignoreMissing(err) != nil {
				return err
			}
			inst.ID = p.Instance
			list, err := s.commands(t, inst)
			if err == nil {
				out.Commands = list
			}
			return err
		})
		if err != nil || len(out.Commands) == 0 {
			return false, err
		}
		return wait <= 0 || s.news(p.Instance, out.Commands), nil
	})
	return out, err
}

// news says that a list differs from what the instance was told last, or was told long enough ago to be repeated.
func (s *Service) news(instanceID string, list []api.Command) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for id, l := range s.told {
		if now.Sub(l.at) > time.Minute {
			delete(s.told, id)
		}
	}
	last, ok := s.told[instanceID]
	if ok && sameCommands(last.list, list) && now.Sub(last.at) < hold {
		return false
	}
	s.told[instanceID] = toldList{list: list, at: now}
	return true
}

func sameCommands(a, b []api.Command) bool {
	return slices.EqualFunc(a, b, func(x, y api.Command) bool {
		return x.Kind == y.Kind && x.JobID == y.JobID && x.RequestID == y.RequestID && x.DeviceID == y.DeviceID && x.Mode == y.Mode && x.Nonce == y.Nonce
	})
}

// commands lists revocations, checks and jobs of a machine, of which only its ID and open checks are looked at.
func (s *Service) commands(t *store.Tenant, inst store.Instance) ([]api.Command, error) {
	out := []api.Command{}
	revoking, err := store.In[store.KeyRequest](t).List(revokingOf(inst.ID)...)
	if err != nil {
		return nil, err
	}
	for _, r := range revoking {
		out = append(out, api.Command{Kind: api.CommandRevoke, RequestID: r.ID, DeviceID: r.DeviceID, Mode: r.RevokeMode, Reason: r.Reason})
	}
	checks, err := checkCommands(t, inst)
	if err != nil {
		return nil, err
	}
	out = append(out, checks...)
	if s.Jobs == nil {
		return out, nil
	}
	jobs, err := s.Jobs.Commands(t, inst.ID)
	return append(out, jobs...), err
}

func revokingOf(instanceID string) []store.Filter {
	return []store.Filter{store.Eq("instance_id", instanceID), store.Eq("status", api.KeyRevoking)}
}
