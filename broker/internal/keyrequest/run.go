package keyrequest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

const (
	// waitsForSilence marks a pending request of a machine of which another boot held the key a moment ago.
	waitsForSilence = "silence"
	// lateCall is how long calls of a former run may still arrive: longer than a client waits for an answer.
	lateCall = 15 * time.Second
	// maxFormerRuns bounds the remembered runs of a machine.
	maxFormerRuns = 16
	maxRunText    = 64
)

// meet notes which run of a machine's agent calls, on inst, which the caller stores. A run that was replaced by a newer
// one and calls again, or a count of starts that went back, means that the machine's disk exists twice: nobody but a
// person gives such an identity a key.
func (s *Service) meet(t *store.Tenant, p tenant.Principal, inst *store.Instance, run *api.Run) error {
	if run == nil {
		return nil
	}
	if run.ID == "" || !approval.Plain(run.ID, maxRunText) || !approval.Plain(run.BootID, maxRunText) || run.Generation < 0 {
		return problem.Invalid("run", "has no ID, or holds text that is not plain or longer than 64 bytes")
	}
	now := t.Now()
	if inst.RunID == run.ID {
		return nil
	}
	if i := formerRun(*inst, run.ID); i >= 0 {
		inst.FormerRuns[i].LastSeen = now
		if inst.RunSince == nil || now.Sub(*inst.RunSince) < lateCall {
			return nil
		}
		return s.suspect(t, p, inst, fmt.Sprintf("Two machines use this identity in turns: boot %s (start %d) and boot %s (start %d) are both alive.",
			brief(inst.BootID), inst.Generation, brief(run.BootID), run.Generation))
	}
	back := run.Generation > 0 && run.Generation <= inst.Generation
	former, count := inst.BootID, inst.Generation
	if inst.RunID != "" {
		seen := now
		if inst.LastSeenAt != nil {
			seen = *inst.LastSeenAt
		}
		inst.FormerRuns = append(inst.FormerRuns, store.Run{RunID: inst.RunID, BootID: inst.BootID, Generation: inst.Generation, LastSeen: seen, Pace: inst.PaceSeconds})
		inst.FormerRuns = inst.FormerRuns[max(0, len(inst.FormerRuns)-maxFormerRuns):]
	}
	inst.RunID, inst.BootID, inst.RunSince = run.ID, run.BootID, &now
	inst.Generation = max(inst.Generation, run.Generation)
	if back {
		return s.suspect(t, p, inst, fmt.Sprintf("An older copy of this machine was started: this is start %d of its agent (boot %s), and start %d was seen before (boot %s).",
			run.Generation, brief(run.BootID), count, brief(former)))
	}
	return nil
}

func formerRun(inst store.Instance, id string) int {
	return slices.IndexFunc(inst.FormerRuns, func(r store.Run) bool { return r.RunID == id })
}

// brief is enough of a boot ID to compare it with the machine's own.
func brief(bootID string) string { return bootID[:min(8, len(bootID))] }

// suspect raises a suspicion; one that stands already is not raised again.
func (s *Service) suspect(t *store.Tenant, p tenant.Principal, inst *store.Instance, why string) error {
	if inst.Suspicion != "" {
		return nil
	}
	now := t.Now()
	inst.Suspicion, inst.SuspectedAt = why, &now
	account := t.AccountID()
	t.AfterCommit(func() { s.Feed.Publish(account, feed.TopicInstances, feed.TopicKeyRequests) })
	return audit.Append(t, audit.Entry{Category: audit.Agent, Event: "instance.clone-suspected", Actor: p.Actor(), Subject: inst.ID,
		Detail: map[string]string{"host_name": inst.HostName, "reason": why, "address": p.Address}})
}

// alive says why the key that another boot of the machine was given must be believed to be there still; "" when not. An
// agent that was restarted within one boot has no key any more, and neither has a boot that fell silent.
func alive(t *store.Tenant, inst store.Instance, held store.KeyRequest) (string, error) {
	i := formerRun(inst, held.RunID)
	if i < 0 || inst.FormerRuns[i].BootID == inst.BootID {
		return "", nil
	}
	beat, _, err := paces(t, inst.ID)
	if err != nil {
		return "", err
	}
	silence := max(3*seconds(max(beat, inst.FormerRuns[i].Pace)), minSilence)
	if t.Now().Sub(inst.FormerRuns[i].LastSeen) >= silence {
		return "", nil
	}
	return fmt.Sprintf("Another boot of this machine (%s) holds the key by request %d and was heard of moments ago: this request waits until that boot has been silent for %s.",
		brief(inst.FormerRuns[i].BootID), held.Number, silence), nil
}

// afterSilence judges a request anew once the other boot of its machine is silent, or leaves it to a person when that
// turned out to be alive.
func (s *Service) afterSilence(t *store.Tenant, r store.KeyRequest) error {
	inst, err := store.In[store.Instance](t).Get(r.InstanceID)
	if err != nil {
		return ignoreMissing(err)
	}
	d, err := store.In[store.Device](t).Get(r.DeviceID)
	if err != nil {
		return ignoreMissing(err)
	}
	pol, err := policyOf(t, r.PolicyID)
	if err != nil {
		return err
	}
	p := tenant.Broker(t.AccountID())
	if inst.Suspicion != "" {
		r.WaitsFor = ""
		return s.judgeAgain(t, p, &r, pol, d, inst, nil)
	}
	held, err := store.In[store.KeyRequest](t).List(store.Eq("device_id", d.ID), store.Eq("instance_id", inst.ID), store.Ne("id", r.ID), store.OneOf("status", keyOut()))
	if err != nil {
		return err
	}
	var before *State
	for _, h := range held {
		why, err := alive(t, inst, h)
		if err != nil || why != "" || h.Status == api.KeyRevoking {
			return err
		}
		verdict, err := appraise(t, pol, d, inst, r.Evidence, r.SourceIP, r.CreatedAt)
		if err != nil {
			return err
		}
		before = former(h, pol.ID, verdict, t.Now())
		if err := s.supersede(t, p, &h); err != nil {
			return err
		}
	}
	r.WaitsFor = ""
	return s.judgeAgain(t, p, &r, pol, d, inst, before)
}

// Clear takes a person's word that a machine under suspicion is the only one of its identity now.
func (s *Service) Clear(ctx context.Context, p tenant.Principal, instanceID string, in api.Clearance) error {
	in.Reason = strings.TrimSpace(in.Reason)
	if in.Reason == "" || !approval.Plain(in.Reason, 4*approval.MaxReason) {
		return problem.Invalid("reason", "say in plain text why there is no second machine")
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		if err := stepup.Require(t, p); err != nil {
			return err
		}
		inst, err := store.In[store.Instance](t).Get(instanceID)
		if errors.Is(err, store.ErrNotFound) {
			return problem.NotFound("instance")
		}
		if err != nil {
			return err
		}
		if inst.Suspicion == "" {
			return problem.Conflict("Nothing speaks against this machine.", "Look at the list of instances; it may have been cleared by somebody else.")
		}
		was := inst.Suspicion
		inst.Suspicion, inst.SuspectedAt, inst.FormerRuns = "", nil, nil
		if err := store.In[store.Instance](t).Update(&inst); err != nil {
			return err
		}
		t.AfterCommit(func() { s.Feed.Publish(p.AccountID, feed.TopicInstances, feed.TopicKeyRequests) })
		return audit.Append(t, audit.Entry{Category: audit.User, Event: "instance.clone-cleared", Actor: p.Actor(), Subject: inst.ID,
			Detail: map[string]string{"host_name": inst.HostName, "suspicion": was, "reason": in.Reason}})
	})
}
