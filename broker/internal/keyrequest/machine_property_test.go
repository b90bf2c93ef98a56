package keyrequest

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"keyward/broker/api"
)

func events() []Event {
	var out []Event
	for e := range help {
		out = append(out, e)
	}
	slices.Sort(out)
	return out
}

// drawCtx draws any circumstances, with the verdicts that policy.Appraise can give and those it never should.
func drawCtx(t *rapid.T) Ctx {
	c := Ctx{
		Verdict: api.Verdict{
			Integrity: rapid.SampledFrom([]api.Integrity{api.IntegrityGood, api.IntegrityBad, api.IntegrityFailed, api.IntegrityUnknownDevPolicy,
				api.IntegrityUnknownImgPolicy, api.IntegrityUnknownMismatch, api.IntegrityUnknownNoRules, ""}).Draw(t, "integrity"),
			Action:              rapid.SampledFrom([]api.Action{api.ActionApprove, api.ActionManual, api.ActionDeny, ""}).Draw(t, "action"),
			ApproveAfterSeconds: rapid.Int64Range(0, 1).Draw(t, "after"),
		},
		PolicyDecides:   rapid.Bool().Draw(t, "policy decides"),
		Enough:          rapid.Bool().Draw(t, "enough"),
		TimerDue:        rapid.Bool().Draw(t, "timer due"),
		OnCheckFailed:   rapid.SampledFrom([]CheckAction{CheckNotify, CheckRevoke, CheckPostpone, ""}).Draw(t, "on check failed"),
		ScheduledChecks: rapid.Bool().Draw(t, "scheduled checks"),
		Accepted:        rapid.Bool().Draw(t, "accepted"),
	}
	if rapid.Bool().Draw(t, "has former") {
		c.Former = &State{rapid.SampledFrom(columns).Draw(t, "former status"), rapid.SampledFrom([]api.Integrity{api.IntegrityGood, api.IntegrityBad,
			api.IntegrityUnknownNoRules, api.IntegrityFailed}).Draw(t, "former integrity")}
	}
	return c
}

// entitled says whether this event may entitle a request to a key: a person's word, a policy that approves what it
// could rate, a delay on a match, a delivered key's own machine within its lease, or compliance after a check took it.
func entitled(s State, e Event, c Ctx) bool {
	rated := c.Verdict.Integrity == api.IntegrityGood || c.Verdict.Integrity == api.IntegrityBad
	byPolicy := rated && c.Verdict.Action == api.ActionApprove && c.PolicyDecides
	switch e {
	case EventApproved:
		return c.Enough && s.Integrity != api.IntegrityUnknownDevPolicy && s.Integrity != api.IntegrityUnknownImgPolicy && s.Integrity != api.IntegrityUnknownMismatch
	case EventTimer:
		return s.Integrity == api.IntegrityGood && c.TimerDue && c.PolicyDecides
	case EventAsked, EventReappraised:
		return byPolicy || (c.Former != nil && c.Former.Status == api.KeyDelivered && c.PolicyDecides && c.Verdict.Action != api.ActionDeny)
	case EventPolicyAssigned:
		return byPolicy
	case EventCompliesAgain:
		return c.PolicyDecides && c.ScheduledChecks && c.Verdict.Action != api.ActionDeny && (byPolicy || c.Verdict.Integrity == api.IntegrityGood)
	}
	return false
}

// Walks of any length from a new request: no path leads to Delivered without an approval that still stands, and no key
// stays out past its lease or a revocation.
func TestMachine_noPathToAKeyWithoutAnApproval(t *testing.T) {
	t.Parallel()
	delivered := 0
	rapid.Check(t, func(t *rapid.T) {
		// Some walks begin behind an approval: many end early, denied or expired.
		s := rapid.SampledFrom([]State{{}, {}, {api.KeyApproved, api.IntegrityGood}, {api.KeyApproved, api.IntegrityBad}}).Draw(t, "start")
		approved := s.Status == api.KeyApproved
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			// Most events are drawn from those that are possible, or walks would hardly get anywhere.
			c, choices := drawCtx(t), events()
			if rapid.SampledFrom([]bool{true, true, true, false}).Draw(t, "possible") {
				choices = slices.DeleteFunc(choices, func(e Event) bool { _, err := Apply(s, e, c); return err != nil })
			}
			if len(choices) == 0 {
				continue
			}
			e := rapid.SampledFrom(choices).Draw(t, "event")
			res, err := Apply(s, e, c)
			if err != nil {
				if res.Next != (State{}) || len(res.Effects) > 0 {
					t.Fatalf("%s refused in %v with %v", e, s, res)
				}
				continue
			}
			next := res.Next
			if next.Status == api.KeyApproved && s.Status != api.KeyApproved {
				if !entitled(s, e, c) {
					t.Fatalf("%v became Approved by %s in %+v", s, e, c)
				}
				approved = true
			}
			if s.Status == api.KeyApproved && next.Status == api.KeyPending {
				approved = false
			}
			if next.Status == api.KeyDelivered && s.Status == api.KeyApproved {
				delivered++
			}
			if KeyOut(next.Status) && !KeyOut(s.Status) && (e != EventDelivered || s.Status != api.KeyApproved || !approved) {
				t.Fatalf("the key went out by %s from %v (approved %v)", e, s, approved)
			}
			seals := slices.Contains(res.Effects, Effect{Kind: EffectSealKey})
			if seals != (e == EventDelivered) || seals != slices.Contains(res.Effects, Effect{Kind: EffectStartLease}) {
				t.Fatalf("%s in %v has effects %v", e, s, res.Effects)
			}
			ends := slices.Contains(res.Effects, Effect{Kind: EffectEndLease})
			if ends != (KeyOut(s.Status) && !KeyOut(next.Status)) {
				t.Fatalf("%s from %v to %v with effects %v", e, s, next, res.Effects)
			}
			switch e {
			case EventLeaseEnded, EventAgentRevoked:
				if KeyOut(next.Status) {
					t.Fatalf("%s left the key out: %v", e, next)
				}
			case EventRevokedByPerson, EventQuarantined, EventDue:
				if LeaseRenewed(next.Status) || next.Status == api.KeyApproved || next.Status == api.KeyPending {
					t.Fatalf("%s left the key: %v", e, next)
				}
			}
			if next.Status == api.KeyRevoking && s.Status != api.KeyRevoking &&
				(!slices.Contains(res.Effects, Effect{Kind: EffectSendRevoke}) || !slices.Contains(res.Effects, Effect{Kind: EffectStopRenewal})) {
				t.Fatalf("%s began a revocation that nobody hears of: %v", e, res.Effects)
			}
			s = next
			if Ended(s.Status) && rapid.Bool().Draw(t, "asks anew") {
				s, approved = State{}, false
			}
		}
	})
	if delivered == 0 {
		t.Error("no walk delivered a key: the test shows nothing")
	}
}

func FuzzApply(f *testing.F) {
	f.Add("Delivered", "Good", "lease-ended", "", "", "", true, true, true, int64(0))
	f.Add("", "", "asked", "Good", "approve", "", true, false, false, int64(60))
	f.Add("Revoked", "Failed", "complies-again", "Good", "manual", "", true, false, true, int64(0))
	f.Fuzz(func(t *testing.T, status, integrity, event, verdict, action, check string, decides, due, rechecks bool, after int64) {
		s := State{api.KeyStatus(status), api.Integrity(integrity)}
		c := Ctx{Verdict: api.Verdict{Integrity: api.Integrity(verdict), Action: api.Action(action), ApproveAfterSeconds: after},
			PolicyDecides: decides, TimerDue: due, Enough: after%2 == 0, OnCheckFailed: CheckAction(check), ScheduledChecks: rechecks}
		res, err := Apply(s, Event(event), c)
		if err != nil {
			return
		}
		if !slices.Contains(columns, s.Status) || !slices.Contains(columns, res.Next.Status) || res.Next.Status == "" {
			t.Fatalf("%v by %s to %v", s, event, res.Next)
		}
		if res.Next.Status == api.KeyApproved && s.Status != api.KeyApproved && !entitled(s, Event(event), c) {
			t.Fatalf("%v became Approved by %s in %+v", s, event, c)
		}
	})
}
