package keyrequest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/challenge"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Nonce gives the calling machine a challenge.
func (s *Service) Nonce(p tenant.Principal) api.NonceResponse {
	now := s.Store.Now()
	return api.NonceResponse{Nonce: s.Challenges.Give(p, now), ExpireSeconds: int64(challenge.Life / time.Second), Time: now}
}

// CheckPublicKey refuses what cannot be an HPKE public key.
func CheckPublicKey(key []byte) error {
	if keystore.CheckPublicKey(key) != nil {
		return errPublicKey()
	}
	return nil
}

func errPublicKey() error { return problem.Invalid("public_key", "is not an MLKEM768-X25519 key") }

// Ask starts a key request of the calling machine.
func (s *Service) Ask(ctx context.Context, p tenant.Principal, call idempotency.Call, in api.KeyRequest) (api.KeyRequestStatus, error) {
	sealer, err := keystore.ParseSealer(in.PublicKey)
	if err != nil {
		return api.KeyRequestStatus{}, errPublicKey()
	}
	if err := checkEvidence(in.Evidence); err != nil {
		return api.KeyRequestStatus{}, err
	}
	if in.Evidence.Nonce != in.Nonce {
		return api.KeyRequestStatus{}, problem.Invalid("evidence.nonce", "answers another nonce than the request's")
	}
	if !in.Deliver {
		sealer = nil
	} else if err := sealer.Encapsulate(); err != nil {
		return api.KeyRequestStatus{}, errPublicKey()
	}
	var inst store.Instance
	call.Before = func(t *store.Tenant) (err error) {
		inst, err = inventory.Caller(t, p)
		return err
	}
	return idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (api.KeyRequestStatus, error) {
		if err := inventory.CheckClock(t.Now(), in.Time); err != nil {
			return api.KeyRequestStatus{}, err
		}
		if err := s.Challenges.Spend(t, p, in.Nonce); err != nil {
			return api.KeyRequestStatus{}, err
		}
		return s.ask(t, p, inst, in, sealer)
	}, foreseen(in, p)...)
}

// foreseen is what a request for a device reads in any case.
func foreseen(in api.KeyRequest, p tenant.Principal) []store.Read {
	return []store.Read{challenge.Spending(in.Nonce), store.Row[store.Device](store.Eq("id", in.DeviceID), store.ForUpdate()), inventory.Seeing(in.DeviceID, p.Instance),
		store.Row[store.Instance](store.Eq("id", p.Instance)), store.Rows[store.KeyRequest](heldOf(in.DeviceID)...),
		store.Row[store.KeyRequest](newestOf(in.DeviceID, p.Instance)...), inventory.CurrentKeyOf(in.DeviceID),
		store.Opening(store.Row[store.KeyRequest](lastNumber()...)), audit.Appending(), inventory.AccountKeyOf(p.AccountID)}
}

// ask files a request, and with a sealer hands the key over when it is approved at once.
func (s *Service) ask(t *store.Tenant, p tenant.Principal, inst store.Instance, in api.KeyRequest, sealer *keystore.Sealer) (api.KeyRequestStatus, error) {
	none := api.KeyRequestStatus{}
	d, err := store.In[store.Device](t).First(store.Eq("id", in.DeviceID), store.ForUpdate())
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return none, err
	}
	sees, sawErr := inventory.Sees(t, d.ID, p.Instance)
	if sawErr != nil {
		return none, sawErr
	}
	if err == nil && d.RAIDSetID != "" {
		if sees, err = seesAny(t, d, p.Instance); err != nil {
			return none, err
		}
	}
	if err != nil || !sees {
		return none, s.foreign(t, p, in.DeviceID)
	}
	if _, err := wholeUnit(t, d, p.Instance); err != nil {
		return none, err
	}
	if d.Volume == nil || d.Status != api.DeviceEncrypted && d.Status != api.DeviceInUse {
		return none, problem.New(409, "device-not-encrypted", "The device has no volume to unlock",
			fmt.Sprintf("Device %q is %q.", d.Name, d.Status), "Configure and encrypt it first.")
	}
	if err := s.meet(t, p, &inst, in.Run); err != nil {
		return none, err
	}
	if err := s.vouch(t, p, &inst, &in.Evidence, api.QuoteForRequest, in.Nonce, in.PublicKey); errors.As(err, new(errQuote)) {
		return none, refuseQuote(t, p, inst, d.ID, err)
	} else if err != nil {
		return none, err
	}
	pol, err := policyOf(t, d.PolicyID)
	if err != nil {
		return none, err
	}
	got := allotment{device: d}
	if pol.ResourcePool && d.RAIDSetID == "" { // a set is itself, and no other device stands for it
		got, err = allot(t, pol, d, inst)
	} else {
		err = exclusive(t, d, p.Instance, "")
	}
	if err != nil {
		return none, err
	}
	d = got.device
	previous, err := newest(t, d.ID, p.Instance)
	if err != nil {
		return none, err
	}
	verdict, err := appraise(t, pol, d, inst, in.Evidence, p.Address, t.Now())
	if err != nil {
		return none, err
	}
	var what parcel
	if sealer != nil { // read now: what the request writes is stored together, after the last thing that is read
		if what, err = parcelOf(t, d); err != nil {
			return none, err
		}
	}
	c := change{event: EventAsked, reason: verdict.Reason, ctx: Ctx{Verdict: verdict, PolicyDecides: true},
		detail: map[string]string{"address": p.Address}}
	why, person, err := askPerson(t, pol, d, inst, previous)
	if err != nil {
		return none, err
	}
	if why != "" && !person {
		c.detail["home"] = d.HomeInstanceID
	}
	waits := ""
	if got.none != "" {
		why, waits = got.none, waitsForPool
	}
	if previous != nil {
		stays, err := s.replace(t, p, previous, inst, in.Run)
		if err != nil {
			return none, err
		}
		switch {
		case !stays.keeps:
			c.ctx.Former = stays.former(pol.ID, verdict, t.Now())
		case why == "":
			why, waits = stays.why, waitsForSilence
		}
	}
	c.ctx.PolicyDecides = why == ""
	if why != "" && !person && verdict.Action != api.ActionDeny {
		c.reason = why + " " + verdict.Reason
	}
	number, err := nextNumber(t)
	if err != nil {
		return none, err
	}
	r := store.KeyRequest{Number: number, DeviceID: d.ID, InstanceID: inst.ID, ImageID: inst.ImageID, PolicyID: pol.ID,
		Verdict: verdict, Evidence: in.Evidence, Observed: observed(inst, p.Address, t.Now()), SourceIP: p.Address, Nonce: in.Nonce, PublicKey: in.PublicKey,
		ApprovalsNeeded: max(pol.ApprovalsNeeded, 1), SeparateApprover: pol.SeparateApprover, WaitsFor: waits}
	if in.Run != nil {
		r.RunID = in.Run.ID
	}
	if d.ID != in.DeviceID {
		r.RequestedDeviceID = in.DeviceID
	}
	ends := t.Now().Add(requestLife(pol))
	r.ExpiresAt = &ends
	res, err := s.move(t, p, &r, c)
	if err != nil {
		return none, err
	}
	if err := explainWithinLease(t, &r, res); err != nil {
		return none, err
	}
	if person {
		if err := stands(t, p, &r); err != nil {
			return none, err
		}
	}
	inst.Evidence = in.Evidence
	if err := inventory.Seen(t, p, &inst); err != nil {
		return none, err
	}
	var delivery *api.KeyDelivery
	if sealer != nil && r.Status == api.KeyApproved && d.ID == in.DeviceID && inst.Suspicion == "" {
		if delivery, err = s.handAtOnce(t, p, sealer, what, &r, d); err != nil {
			return none, err
		}
	}
	out, err := status(t, r)
	out.Delivery = delivery
	return out, err
}

// foreign refuses a device that the machine did not publish last, or that does not exist; the two look the same.
func (s *Service) foreign(t *store.Tenant, p tenant.Principal, deviceID string) error {
	if len(deviceID) > 64 {
		deviceID = deviceID[:64]
	}
	err := audit.Append(t, audit.Entry{Category: "key", Event: "key-request.refused", Actor: p.Actor(),
		Subject: strings.ToValidUTF8(strings.ReplaceAll(deviceID, "\x00", "?"), "?"),
		Detail:  map[string]string{"reason": "not this machine's device", "address": p.Address}})
	if err != nil {
		return err
	}
	return idempotency.Keep(problem.New(403, "not-your-device", "Not this machine's device",
		"The device was not in this machine's last inventory.", "Publish the inventory again, then ask for a device that it lists."))
}

// explainWithinLease says why nobody was asked, where that is so.
func explainWithinLease(t *store.Tenant, r *store.KeyRequest, res Result) error {
	if !withinLeaseTaken(res) {
		return nil
	}
	r.Reason = "Re-delivery within the lease: this machine held the key, and its evidence is no worse than when that was approved."
	return store.In[store.KeyRequest](t).UpdateLater(r)
}

// requestLife is how long a request waits for people: long enough for the policy's own timer.
func requestLife(pol store.Policy) time.Duration {
	life := pendingLife
	if pol.RequestSeconds > 0 {
		life = seconds(pol.RequestSeconds)
	}
	return max(life, seconds(pol.ApproveAfterSeconds)+time.Minute)
}

// keyOut are the statuses in which a machine may hold the key.
func keyOut() []api.KeyStatus {
	return slices.DeleteFunc([]api.KeyStatus{api.KeyPending, api.KeyApproved, api.KeyDelivered, api.KeyDenied, api.KeyRevokePending,
		api.KeyRevokeIgnored, api.KeyRevoking, api.KeyRevoked, api.KeyExpired, api.KeyFailure},
		func(k api.KeyStatus) bool { return !KeyOut(k) })
}

// newest is the machine's latest request for the device; nil when it never asked.
func newest(t *store.Tenant, deviceID, instanceID string) (*store.KeyRequest, error) {
	r, err := store.In[store.KeyRequest](t).First(newestOf(deviceID, instanceID)...)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return &r, err
}

func newestOf(deviceID, instanceID string) []store.Filter {
	return []store.Filter{store.Eq("device_id", deviceID), store.Eq("instance_id", instanceID), store.Desc("number")}
}

// predecessor is what became of a machine's earlier request when a new one was made.
type predecessor struct {
	request store.KeyRequest // as it was
	keeps   bool             // it stands beside the new one, because its key may be in use by another boot
	why     string
}

func (e predecessor) former(policyID string, v api.Verdict, at time.Time) *State {
	return former(e.request, policyID, v, at)
}

// replace ends the machine's earlier request: who asks has no key. It does not when the key of that one was given to
// another boot that must be believed to be alive, for then it is not the same machine that asks.
func (s *Service) replace(t *store.Tenant, p tenant.Principal, r *store.KeyRequest, inst store.Instance, run *api.Run) (predecessor, error) {
	before := predecessor{request: *r}
	if KeyOut(r.Status) && run != nil && r.RunID != run.ID {
		why, err := alive(t, inst, *r)
		if err != nil {
			return before, err
		}
		if why != "" || inst.Suspicion != "" {
			before.keeps, before.why = true, why
			return before, nil
		}
	}
	return before, s.supersede(t, p, r)
}

// supersede ends the machine's earlier request, which a new one replaces: who asks has no key.
func (s *Service) supersede(t *store.Tenant, p tenant.Principal, r *store.KeyRequest) error {
	if Ended(r.Status) {
		return nil
	}
	if r.Status == api.KeyRevoking {
		return problem.New(409, "revoke-in-progress", "The key is being revoked",
			fmt.Sprintf("Request %d of this machine is being revoked, and the machine has not confirmed it.", r.Number),
			"Report \"revoked\" for that request first; it also ends with its lease.")
	}
	reason := "Superseded by a new request of the same machine."
	if KeyOut(r.Status) {
		reason = "The agent restarted and asked again."
	}
	_, err := s.move(t, p, r, change{event: EventSuperseded, reason: reason})
	return err
}

// former is the state of an earlier request whose key may be delivered again without a person: its lease runs, the same
// policy judges, and no rule fails now that did not fail when it was approved.
func former(r store.KeyRequest, policyID string, now api.Verdict, at time.Time) *State {
	if r.Status != api.KeyDelivered || r.PolicyID != policyID || r.LeaseExpiresAt == nil || !r.LeaseExpiresAt.After(at) {
		return nil
	}
	for _, rule := range failedRules(now) {
		if !slices.Contains(r.Accepted, rule) {
			return nil
		}
	}
	return &State{Status: r.Status, Integrity: r.Integrity}
}

func failedRules(v api.Verdict) []string {
	var out []string
	for _, f := range v.Findings {
		if f.Status == api.RuleFailed {
			out = append(out, ruleName(f))
		}
	}
	return out
}

func ruleName(f api.Finding) string { return string(f.Fact) + " " + f.Subject + " " + f.Condition }

func withinLeaseTaken(res Result) bool {
	return slices.ContainsFunc(res.Effects, func(e Effect) bool {
		return e.Kind == "audit" && e.Name == "key-request.approved-within-lease"
	})
}

func nextNumber(t *store.Tenant) (int64, error) {
	at := numberKey{t.AccountID()}
	last, err := store.Keep(t.Tx(), at, func() (int64, error) {
		last, err := store.In[store.KeyRequest](t).First(lastNumber()...)
		if errors.Is(err, store.ErrNotFound) {
			return 0, nil
		}
		return last.Number, err
	})
	if err == nil {
		store.Replace(t.Tx(), at, last+1)
	}
	return last + 1, err
}

func lastNumber() []store.Filter { return []store.Filter{store.Desc("number"), store.Only("number")} }

// numberKey is where the last number of an account's requests is kept among transactions that share a commit.
type numberKey struct{ account string }

// appraise judges evidence by the device's policy.
func appraise(t *store.Tenant, pol store.Policy, d store.Device, inst store.Instance, e api.Evidence, address string, asked time.Time) (api.Verdict, error) {
	in, err := store.In[store.PolicyImage](t).SteadyCount(pol.ID+" "+inst.ImageID, store.Eq("policy_id", pol.ID), store.Eq("image_id", inst.ImageID))
	if err != nil {
		return api.Verdict{}, err
	}
	p := policyset.View(pol)
	return policy.Appraise(p, Circumstances(p, in > 0, d, inst, e, observed(inst, address, asked), t.Now())), nil
}
