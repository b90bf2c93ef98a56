package keyrequest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// occasion is why a heartbeat is judged, beside what policies want with every one.
type occasion struct {
	scheduled bool // it answers the account's last scheduled check
	demanded  bool // it answers a person who wants the machine checked, or the machine itself asks
}

// occasionOf looks what a heartbeat answers, and takes note of it in inst.
func occasionOf(t *store.Tenant, inst *store.Instance, in api.Heartbeat) (occasion, error) {
	o := occasion{demanded: in.Check}
	nonce := in.Evidence.Nonce
	if nonce == "" {
		return o, nil
	}
	if nonce == inst.CheckNonce {
		o.demanded = true
		inst.CheckAskedAt, inst.CheckNonce = nil, ""
	}
	acc, err := store.Global[store.Account](t.Tx()).Steady(t.AccountID())
	o.scheduled = nonce == acc.CheckNonce
	return o, err
}

// underCheck are the statuses that checks look at whenever the policy wants one.
func underCheck() []api.KeyStatus { return append(slices.Clone(holding), waiting...) }

func underCheckOf(instanceID string) []store.Filter {
	return []store.Filter{store.Eq("instance_id", instanceID), store.OneOf("status", underCheck())}
}

// retriesOf select the requests of a machine for which a period for attempts was set.
func retriesOf(instanceID string) []store.Filter {
	return []store.Filter{store.Eq("instance_id", instanceID), store.NotNull("retry_until")}
}

// judge appraises a machine's fresh evidence for its open requests, where policy, schedule or person want it. before is
// the machine as it was known before this contact.
func (s *Service) judge(t *store.Tenant, p tenant.Principal, before store.Instance, in api.Heartbeat, o occasion) ([]api.CheckedKey, error) {
	requests := store.In[store.KeyRequest](t)
	rows, err := requests.List(underCheckOf(before.ID)...)
	if err != nil {
		return nil, err
	}
	taken, err := requests.List(retriesOf(before.ID)...)
	if err != nil {
		return nil, err
	}
	taken = slices.DeleteFunc(taken, func(r store.KeyRequest) bool { return !r.RetryUntil.After(t.Now()) })
	var out []api.CheckedKey
	for _, r := range append(rows, taken...) {
		done, err := s.check(t, p, before, &r, in, o)
		if err != nil {
			return nil, fmt.Errorf("checking request %d: %w", r.Number, err)
		}
		if done {
			out = append(out, api.CheckedKey{RequestID: r.ID, DeviceID: r.DeviceID, Status: r.Status, Integrity: r.Integrity, Reason: r.Verdict.Reason})
		}
	}
	return out, nil
}

// check judges one request, and reports whether it did.
func (s *Service) check(t *store.Tenant, p tenant.Principal, inst store.Instance, r *store.KeyRequest, in api.Heartbeat, o occasion) (bool, error) {
	d, err := store.In[store.Device](t).Get(r.DeviceID)
	if err != nil || d.Volume == nil {
		return false, ignoreMissing(err)
	}
	if !slices.Contains(holding, r.Status) { // who holds a key is judged wherever the device is seen now
		sees, err := inventory.Sees(t, d.ID, inst.ID)
		if err != nil || !sees {
			return false, err
		}
	}
	pol, err := policyOf(t, d.PolicyID)
	if err != nil {
		return false, err
	}
	moved := r.PolicyID != pol.ID && slices.Contains(holding, r.Status)
	if moved { // from now on the device's new policy says what the key's lease and checks are
		r.PolicyID = pol.ID
	}
	if !wanted(pol, *r, o) {
		if moved {
			return false, store.In[store.KeyRequest](t).Update(r)
		}
		return false, nil
	}
	if r.Status == api.KeyDenied || r.Status == api.KeyRevoked {
		last, err := newest(t, d.ID, inst.ID)
		if err != nil || last.ID != r.ID {
			return false, err
		}
	}
	e := evidenceFor(d.ID, in)
	verdict, err := appraise(t, pol, d, inst, e, p.Address, r.CreatedAt)
	if err != nil {
		return false, err
	}
	c, err := s.checked(t, pol, *r, verdict)
	if err != nil {
		return false, err
	}
	now := t.Now()
	keepAsked(r)
	r.PolicyID, r.Verdict, r.Evidence, r.CheckedAt = pol.ID, verdict, e, &now
	if c.event != "" {
		c.detail = map[string]string{"address": p.Address, "policy_name": pol.Name}
		res, err := Apply(State{Status: r.Status, Integrity: r.Integrity}, c.event, c.ctx)
		if err == nil && (res.Next.Status != r.Status || len(res.Effects) > 0) {
			_, err = s.move(t, tenant.Broker(t.AccountID()), r, c)
			return true, err
		}
		if err == nil {
			r.Integrity = res.Next.Integrity
		}
	}
	return true, store.In[store.KeyRequest](t).Update(r)
}

// wanted says whether a heartbeat is judged for a request. What has failed is judged with every heartbeat until it
// complies, so that nobody waits for the next day.
func wanted(pol store.Policy, r store.KeyRequest, o occasion) bool {
	if !pol.CheckEnabled {
		return o.demanded && slices.Contains(holding, r.Status)
	}
	failing := r.Integrity == api.IntegrityFailed || r.Status == api.KeyRevoked || r.Status == api.KeyDenied
	return o.demanded || o.scheduled || pol.CheckEveryHeartbeat || failing
}

// checked says what a verdict is to a request that has been judged before; no event when it changes nothing.
func (s *Service) checked(t *store.Tenant, pol store.Policy, r store.KeyRequest, v api.Verdict) (change, error) {
	c := change{ctx: Ctx{Verdict: v, OnCheckFailed: checkAction(policyset.View(pol)), ScheduledChecks: pol.CheckEnabled}}
	switch r.Status {
	case api.KeyPending:
		if r.WaitsFor != "" || v.Integrity == r.Integrity && v.Action == r.Verdict.Action {
			return c, nil
		}
		c.event, c.reason = EventReappraised, v.Reason
	case api.KeyRevoked, api.KeyDenied:
		if v.Integrity != api.IntegrityGood {
			return c, nil
		}
		c.event, c.reason = EventCompliesAgain, "The machine complies again with policy \""+pol.Name+"\"."
	default:
		c.event, c.ctx, c.reason = Recheck(policyset.View(pol), r, v)
		return c, nil
	}
	var err error
	c.ctx.PolicyDecides, err = mayDecide(t, r)
	return c, err
}

// Recheck is what a verdict is to a request whose key is approved or out; no event when it changes nothing. It is pure:
// checks and previews of them must not differ.
func Recheck(p api.Policy, r store.KeyRequest, v api.Verdict) (e Event, c Ctx, reason string) {
	c = Ctx{Verdict: v, OnCheckFailed: checkAction(p), ScheduledChecks: p.CheckEnabled}
	rated := v.Integrity == api.IntegrityGood || v.Integrity == api.IntegrityBad
	if !rated || r.Status == api.KeyApproved && c.OnCheckFailed == CheckNotify {
		return "", c, "" // nothing can be said against the machine, the verdict shows why; or it is told of once it has the key
	}
	worse := worseRules(r.Accepted, v)
	c.Accepted = len(worse) == 0
	if v.Integrity == api.IntegrityBad && len(worse) > 0 {
		return EventCheckFailed, c, failure(worse)
	}
	return EventCheckPassed, c, "The machine complies again with policy \"" + p.Name + "\"."
}

// keepAsked keeps what a request was asked with before a check puts newer evidence in its place: replays judge that.
func keepAsked(r *store.KeyRequest) {
	if r.Asked == nil {
		r.Asked = &store.Asked{Evidence: r.Evidence, Action: r.Verdict.Action, Integrity: r.Verdict.Integrity}
	}
}

// checkAction is what a policy does when a check fails.
func checkAction(pol api.Policy) CheckAction {
	switch {
	case !pol.CheckEnabled || pol.OnCheckFailure != api.CheckRevoke:
		return CheckNotify
	case pol.PostponeSeconds > 0:
		return CheckPostpone
	}
	return CheckRevoke
}

// worseRules are the failed rules that had not failed when the key was approved.
func worseRules(accepted []string, v api.Verdict) []api.Finding {
	var out []api.Finding
	for _, f := range v.Findings {
		if f.Status == api.RuleFailed && !slices.Contains(accepted, ruleName(f)) {
			out = append(out, f)
		}
	}
	return out
}

// failure names the offending conditions.
func failure(worse []api.Finding) string {
	const most = 3
	var parts []string
	for _, f := range worse[:min(len(worse), most)] {
		parts = append(parts, fmt.Sprintf("%s is %s, and must satisfy %s", f.Title, shorten(f.Actual), shorten(f.Condition)))
	}
	text := "The integrity check failed: " + strings.Join(parts, "; ")
	if more := len(worse) - most; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text + "."
}

// shorten keeps a value readable inside a sentence; the whole is in the findings.
func shorten(text string) string {
	const most = 120
	r := []rune(text)
	if len(r) <= most {
		return text
	}
	return string(r[:most]) + "…"
}

// evidenceFor is what a heartbeat says of the machine and of one device.
func evidenceFor(deviceID string, in api.Heartbeat) api.Evidence {
	e := in.Evidence
	i := slices.IndexFunc(in.Devices, func(d api.DeviceFacts) bool { return d.DeviceID == deviceID })
	if i >= 0 {
		e.Facts = slices.Concat(e.Facts, in.Devices[i].Facts)
	}
	return e
}

// settle keeps with a request what its new status brings: since when, what was accepted, and how long the key may come
// back by itself.
func settle(t *store.Tenant, r *store.KeyRequest, from api.KeyStatus, c change) error {
	now := t.Now()
	if c.event == EventAsked {
		r.CheckedAt = &now
	}
	if r.Status == from {
		return nil
	}
	r.StatusAt, r.RetryUntil = now, nil
	switch r.Status {
	case api.KeyPending: // an approval that was withdrawn is asked for anew, from everybody
		if from == api.KeyApproved {
			_, err := store.In[store.KeyRequestApproval](t).DeleteWhere(store.Eq("request_id", r.ID))
			return err
		}
	case api.KeyApproved: // the key may be collected, again if it was before
		r.Accepted, r.DeliveredAt = failedRules(r.Verdict), nil
	case api.KeyRevoked, api.KeyDenied:
		until, err := retryUntil(t, *r, c)
		r.RetryUntil = until
		return err
	}
	return nil
}

// retryUntil is the end of the period in which a taken or denied key is given again: never after a person's word.
func retryUntil(t *store.Tenant, r store.KeyRequest, c change) (*time.Time, error) {
	pol, err := policyOf(t, r.PolicyID)
	if errors.Is(err, store.ErrNotFound) || err == nil && !pol.CheckEnabled {
		return nil, nil
	}
	if err != nil || slices.Contains([]Event{EventDenied, EventRevokedByPerson, EventQuarantined}, c.event) {
		return nil, err
	}
	decides := c.ctx.PolicyDecides
	if r.ID != "" {
		if decides, err = mayDecide(t, r); err != nil {
			return nil, err
		}
	}
	acc, err := store.Global[store.Account](t.Tx()).Get(t.AccountID())
	if err != nil || !decides || settingsOf(acc).RetrySeconds == 0 {
		return nil, err
	}
	until := t.Now().Add(seconds(settingsOf(acc).RetrySeconds))
	return &until, nil
}
