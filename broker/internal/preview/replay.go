package preview

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// ReplayDays is how far back a replay looks unless it is told otherwise, and at most.
const ReplayDays = 30

// past is a request of the past, as a replay needs it.
type past struct {
	request  store.KeyRequest
	device   store.Device
	instance store.Instance
	events   []store.KeyRequestEvent // oldest first
}

// Replay tells what a policy would have done with the requests of the last days, newest first. A draft without ID is a
// new policy; nil lists of members leave them as they are.
func (s *Service) Replay(ctx context.Context, p tenant.Principal, draft api.Policy, days int) (api.PolicyReplay, error) {
	out := api.PolicyReplay{Rows: []api.ReplayRow{}}
	if err := policyset.Check(draft); err != nil {
		return out, err
	}
	if days < 1 || days > ReplayDays {
		return out, problem.Invalid("days", "choose 1 to 30 days")
	}
	_, world, err := s.worlds(ctx, p, []Change{{Policy: draft}})
	if err != nil {
		return out, err
	}
	id := draft.ID
	if id == "" {
		id = draftID + draft.Name
	}
	over := s.deadline(ctx)
	rows := &ranked[api.ReplayRow]{most: maxRows}
	below := int64(0) // requests are read by number, newest first
	for first := true; ; first = false {
		var found []past
		more := false
		err := s.store.View(ctx, func(tx *store.Tx) error {
			t := tx.Tenant(p.AccountID)
			if first {
				out.To = tx.Now()
				out.From = out.To.AddDate(0, 0, -days)
			}
			var err error
			found, below, more, err = world.history(t, id, out.From, below)
			return err
		})
		if err != nil {
			return out, err
		}
		for _, f := range found {
			then, decision := happened(f)
			now := world.replay(id, f)
			out.Requests++
			out.Then.Add(then)
			out.Now.Add(now.Outcome)
			if then == now.Outcome {
				continue
			}
			out.Different++
			rows.add(0, api.ReplayRow{RequestID: f.request.ID, Number: f.request.Number, At: f.request.CreatedAt, DeviceName: nameOf(f.device),
				InstanceName: f.instance.HostName, Then: then, Decision: decision, Now: now})
		}
		if !more {
			break
		}
		if over() {
			out.Unseen = true
			if len(found) > 0 {
				out.From = found[len(found)-1].request.CreatedAt
			}
			break
		}
	}
	out.Rows, out.Omitted = rows.list()
	return out, nil
}

// history reads a batch of requests since a time, those with numbers below one (0: from the newest), that the policy
// judged or would have judged. It returns where to go on, and whether there may be more.
func (w World) history(t *store.Tenant, policyID string, from time.Time, below int64) (found []past, next int64, more bool, err error) {
	// By number alone, which has an index; numbers are given in the order of time.
	filters := []store.Filter{store.Desc("number"), store.Limit(5 * batch), store.Only("id", "number", "device_id", "policy_id", "created_at")}
	if below > 0 {
		filters = append(filters, store.AtMost("number", below-1))
	}
	heads, err := store.In[store.KeyRequest](t).List(filters...)
	if err != nil {
		return nil, 0, false, err
	}
	var ids []string
	next, more = below, len(heads) == 5*batch
	for _, h := range heads {
		if h.CreatedAt.Before(from) {
			more = false
			break
		}
		if len(ids) == batch {
			more = true
			break
		}
		next = h.Number
		if held, known := w.holds(h.DeviceID); held == policyID || !known && h.PolicyID == policyID {
			ids = append(ids, h.ID)
		}
	}
	found, err = pastOf(t, ids)
	return found, next, more, err
}

func pastOf(t *store.Tenant, ids []string) ([]past, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	requests, err := store.In[store.KeyRequest](t).List(store.OneOf("id", ids))
	if err != nil {
		return nil, err
	}
	// Sorted here: a database that is asked for the order may read the whole account by it.
	slices.SortFunc(requests, func(a, b store.KeyRequest) int { return cmp.Compare(b.Number, a.Number) })
	events, err := store.In[store.KeyRequestEvent](t).List(store.OneOf("request_id", ids), store.Asc("created_at"),
		store.Only("id", "request_id", "event", "to_status", "actor"))
	if err != nil {
		return nil, err
	}
	of := map[string][]store.KeyRequestEvent{}
	for _, e := range events {
		of[e.RequestID] = append(of[e.RequestID], e)
	}
	machines := map[string][]string{}
	var devices []string
	for _, r := range requests {
		machines[r.DeviceID] = append(machines[r.DeviceID], r.InstanceID)
		devices = append(devices, r.DeviceID)
	}
	instances, err := instancesOf(t, machines)
	if err != nil {
		return nil, err
	}
	rows, err := store.In[store.Device](t).List(store.OneOf("id", devices))
	if err != nil {
		return nil, err
	}
	out := make([]past, 0, len(requests))
	for _, r := range requests {
		p := past{request: r, instance: instances[r.InstanceID], events: of[r.ID], device: store.Device{Base: store.Base{ID: r.DeviceID}}}
		if i := slices.IndexFunc(rows, func(d store.Device) bool { return d.ID == r.DeviceID }); i >= 0 {
			p.device = rows[i]
		}
		p.instance.ImageID = r.ImageID // as it was then
		out = append(out, p)
	}
	return out, nil
}

// happened is what the policy did when the request was asked, and what a person decided afterwards.
func happened(p past) (then api.Outcome, decision string) {
	then = api.OutcomeWaits
	for _, e := range p.events {
		switch keyrequest.Event(e.Event) {
		case keyrequest.EventAsked:
			then = map[api.KeyStatus]api.Outcome{api.KeyApproved: api.OutcomeApproved, api.KeyDenied: api.OutcomeDenied,
				api.KeyPending: api.OutcomeWaits}[e.ToStatus]
		case keyrequest.EventApproved:
			decision = "approved by " + p.request.DecidedBy
		case keyrequest.EventDenied:
			decision = "denied by " + person(e.Actor)
		case keyrequest.EventTimer:
			decision = "approved after the delay"
		}
	}
	return then, decision
}

func person(actor string) string { return strings.TrimPrefix(actor, "user:") }

// replay judges a request of the past on the evidence that came with it, at the time when it was asked.
func (w World) replay(policyID string, f past) api.Judgment {
	p, r := w.policies[policyID], f.request
	f.device.PolicyID = policyID
	if r.Asked != nil {
		r.Evidence, r.Verdict.Action, r.Verdict.Integrity = r.Asked.Evidence, r.Asked.Action, r.Asked.Integrity
	}
	seen := r.Observed
	if seen == nil { // of a version that did not keep it; when the machine was last seen before is not known
		f.instance.LastSeenAt = nil
		seen = keyrequest.Observed(f.instance, r.SourceIP, r.CreatedAt)
	}
	v := policy.Appraise(p, keyrequest.Circumstances(p, w.images[policyID][r.ImageID], f.device, f.instance, r.Evidence, seen, r.CreatedAt))
	then, _ := happened(f)
	c := keyrequest.Ctx{Verdict: v, PolicyDecides: decided(f, then) || p.ResourcePool && then != api.OutcomeWaits}
	why := ""
	if !c.PolicyDecides {
		why = "A person decided on this machine's requests then, whatever the policy says."
	}
	if then == api.OutcomeApproved && r.Verdict.Action == api.ActionManual {
		// It was given again within a running lease, which another policy would have done too on evidence no worse.
		c.Former = &keyrequest.State{Status: api.KeyDelivered, Integrity: r.Verdict.Integrity}
	}
	return asked(p, v, c, why)
}

// decided says whether a policy could give the key then. Where the records do not tell, it could not.
func decided(f past, then api.Outcome) bool {
	if slices.ContainsFunc(f.events, func(e store.KeyRequestEvent) bool { return e.Event == keyrequest.EventPersonDecides }) {
		return false
	}
	return then == api.OutcomeApproved || f.device.HomeInstanceID == f.request.InstanceID
}

func nameOf(d store.Device) string {
	if d.Name == "" {
		return "(deleted device)"
	}
	return d.Name
}
