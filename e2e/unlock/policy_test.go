package unlock

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// Nobody acts between "Encrypt" and the mounted file system.
func TestPolicy_approvesByItself(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "location: rack 7\nuser_data: DataKey=MySecretKey\n")
		p := auto()
		p.Rules = append(p.Rules,
			api.Rule{Fact: api.FactLocation, Match: api.MatchAny, Conditions: []api.Condition{{Operator: api.OpIn, Value: "rack 6,rack 7"}}},
			api.Rule{Fact: api.FactUserData, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpContains, Value: "MySecretKey"}}},
			api.Rule{Fact: api.FactSourceIPv4, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpIn, Value: "127.0.0.0/8"}}})
		p = m.policy(m.device(0), p)
		d := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		r := m.request(d.ID, api.KeyDelivered)
		if r.Integrity != api.IntegrityGood || r.PolicyID != p.ID || r.DecidedBy != "" {
			t.Errorf("the request is %s by policy %q, decided by %q", r.Integrity, r.PolicyName, r.DecidedBy)
		}
		if n := count(r.Verdict, api.RulePassed); n != 4 {
			t.Errorf("%d rules passed, want 4: %+v", n, r.Verdict.Findings)
		}
		if count(r.Verdict, api.RuleInformational) < 8 {
			t.Errorf("too few facts beside the rules: %+v", r.Verdict.Findings)
		}
		m.becomes(d.ID, api.DeviceInUse)
	})
}

func count(v api.Verdict, status api.RuleStatus) (n int) {
	for _, f := range v.Findings {
		if f.Status == status {
			n++
		}
	}
	return n
}

// A failed rule makes the request Bad; the policy says whether a person is asked or the key refused.
func TestPolicy_failedRuleIsBad(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(2, "")
		m.policy(m.device(0), api.Policy{Name: "ask", Rules: []api.Rule{onWindows}, OnMatch: api.ActionApprove, OnFailure: api.ActionManual})
		m.policy(m.device(1), api.Policy{Name: "refuse", Rules: []api.Rule{onLinux, onWindows}, OnMatch: api.ActionApprove, OnFailure: api.ActionDeny})
		ask, refuse := m.encrypt(0, api.DeviceWrite{}), m.encrypt(1, api.DeviceWrite{})

		r := m.request(refuse.ID, api.KeyDenied)
		if r.Integrity != api.IntegrityBad || count(r.Verdict, api.RuleFailed) != 1 || count(r.Verdict, api.RulePassed) != 1 {
			t.Errorf("denied request: %s, %+v", r.Integrity, r.Verdict.Findings)
		}
		r = m.request(ask.ID, api.KeyPending)
		if r.Integrity != api.IntegrityBad {
			t.Errorf("pending request is %s", r.Integrity)
		}
		if lab.Mounted(m.mountPoint(0)) || lab.Mounted(m.mountPoint(1)) {
			t.Error("a volume is mounted although no key was approved")
		}
		// What failed is shown with what was wanted and what was found.
		i := slices.IndexFunc(r.Verdict.Findings, func(f api.Finding) bool { return f.Status == api.RuleFailed })
		if i < 0 || !strings.Contains(r.Verdict.Findings[i].Condition, "windows") || r.Verdict.Findings[i].Actual != "linux" {
			t.Errorf("the failed rule is not explained: %+v", r.Verdict.Findings)
		}
		// The waiting machine prints number and reason, and which of its facts fell short.
		if err := lab.Eventually(t.Context(), time.Minute, func() error {
			told, err := m.Run(t.Context(), "status")
			for _, want := range []string{fmt.Sprintf("number %d, Pending, integrity Bad", r.Number), r.WaitsFor, "Guest OS Information: OS: found linux (self-reported)"} {
				if err == nil && !strings.Contains(told, want) {
					err = fmt.Errorf("status does not say %q:\n%s", want, told)
				}
			}
			return err
		}); err != nil {
			t.Error(err)
		}
		if len(r.MayApprove) == 0 {
			t.Error("nobody is named who may approve")
		}
		m.approve(0, ask.ID) // a person may overrule
		if lab.Mounted(m.mountPoint(1)) {
			t.Error("the denied volume is mounted")
		}
	})
}

// A device of the default policy, which has no rules, waits as Unknown until a person says which policy judges it; so does
// one whose policy does not have the machine's image, and that says so.
func TestPolicy_unknownIsAssigned(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(2, "")
		p := auto()
		p.LeaseSeconds, p.HeartbeatSeconds, p.RevokeMode = 120, 2, api.RevokeUnmount
		p, err := m.CreatePolicy(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		strict, err := m.CreatePolicy(t.Context(), api.Policy{Name: "Windows only", Rules: []api.Rule{onWindows}, OnMatch: api.ActionApprove,
			OnFailure: api.ActionDeny, LeaseSeconds: 120, HeartbeatSeconds: 2, DeviceIDs: []string{m.device(1).ID}})
		if err != nil {
			t.Fatal(err)
		}
		d, other := m.encrypt(0, api.DeviceWrite{}), m.encrypt(1, api.DeviceWrite{})
		r := m.request(d.ID, api.KeyPending)
		if r.Integrity != api.IntegrityUnknownNoRules {
			t.Errorf("the request is %s, want %s", r.Integrity, api.IntegrityUnknownNoRules)
		}
		if _, err := m.AssignPolicy(t.Context(), r.RequestID, api.PolicyAssignment{PolicyID: p.ID}); err != nil {
			t.Fatal(err)
		}
		m.mounted(0)
		r = m.request(d.ID, api.KeyDelivered)
		if r.Integrity != api.IntegrityGood || r.PolicyID != p.ID {
			t.Errorf("judged %s by %q", r.Integrity, r.PolicyName)
		}
		if p, err = m.Policy(t.Context(), p.ID); err != nil || !slices.Equal(p.DeviceIDs, []string{d.ID}) || !slices.Equal(p.ImageIDs, []string{d.ImageID}) {
			t.Errorf("the policy has devices %v and images %v, %v", p.DeviceIDs, p.ImageIDs, err)
		}

		r = m.request(other.ID, api.KeyPending)
		if r.Integrity != api.IntegrityUnknownImgPolicy {
			t.Errorf("the request is %s, want %s", r.Integrity, api.IntegrityUnknownImgPolicy)
		}
		if _, err := m.AssignPolicy(t.Context(), r.RequestID, api.PolicyAssignment{PolicyID: strict.ID}); err != nil {
			t.Fatal(err)
		}
		if r = m.requestBecomes(r.RequestID, api.KeyDenied); r.Integrity != api.IntegrityBad || lab.Mounted(m.mountPoint(1)) {
			t.Errorf("judged %s by %q", r.Integrity, r.PolicyName)
		}
	})
}

// A match that a person should look at approves itself when nobody does.
func TestPolicy_approvesWhenNobodyActs(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		p := auto()
		p.OnMatch, p.ApproveAfterSeconds = api.ActionManual, 2
		m.policy(m.device(0), p)
		d := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		r := m.request(d.ID, api.KeyDelivered)
		var way []api.KeyStatus
		for _, h := range r.History {
			if len(way) == 0 || way[len(way)-1] != h.To {
				way = append(way, h.To)
			}
		}
		if want := []api.KeyStatus{api.KeyPending, api.KeyApproved, api.KeyDelivered}; !slices.Equal(way, want) {
			t.Errorf("the request went %v, want %v", way, want)
		}
	})
}

// A denied machine waits, its data stays out of reach, and only a person gives the key after all.
func TestDecide_deniedStaysClosed(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		kim := m.logOn(m.setup.Approver)
		r := m.request(d.ID, api.KeyPending)
		if _, err := kim.Deny(t.Context(), r.RequestID, api.Decision{Reason: "not on the list", Version: r.Version}); err != nil {
			t.Fatal(err)
		}
		r = m.request(d.ID, api.KeyDenied)
		if r.DecidedBy != "kim" || !strings.Contains(r.Reason, "not on the list") {
			t.Errorf("decided by %q: %s", r.DecidedBy, r.Reason)
		}
		if _, err := kim.Approve(t.Context(), r.RequestID, api.Decision{}); err == nil {
			t.Error("a denied request was approved")
		}
		// A denial is final for the life of an agent; a new one asks again. Even where the policy would approve by now, the
		// person's word stands until a person takes it back.
		m.policy(d, auto())
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		m.request(d.ID, api.KeyPending)
		if lab.Mounted(m.mountPoint(0)) {
			t.Error("the denied volume is mounted")
		}
		m.approve(0, d.ID)
	})
}
