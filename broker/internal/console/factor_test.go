package console_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/broker/internal/console/consoletest"
)

func TestFactor_setUpShownAndRemoved(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.as("key-approver")
	p.get("/admin/second-factor").wants(t, "page", http.StatusOK, "Set up a second factor")
	p.post("/admin/second-factor/start", url.Values{"password": {"wrong"}}).wants(t, "wrong password", http.StatusUnprocessableEntity, "The password is wrong")
	p.post("/admin/second-factor/start", url.Values{"password": {consoletest.Password}}).wants(t, "begun", http.StatusOK,
		"JBSWY3DPEHPK3PXP", `src="data:image/png;base64,`, `action="/admin/second-factor/confirm"`)
	p.post("/admin/second-factor/confirm", url.Values{"code": {"000000"}}).wants(t, "wrong code", http.StatusUnprocessableEntity)
	p.post("/admin/second-factor/confirm", url.Values{"code": {consoletest.Code}}).wants(t, "confirmed", http.StatusOK, "aaaa-bbbb-cccc-dddd", "is set up")
	a := p.get("/admin/second-factor")
	a.wants(t, "page with a factor", http.StatusOK, "Recovery codes left", "Remove the second factor")
	if strings.Contains(a.body, "aaaa-bbbb") {
		t.Error("recovery codes are shown again")
	}
	p.post("/admin/second-factor/codes", url.Values{"code": {consoletest.Code}}).wants(t, "new codes", http.StatusOK, "iiii-jjjj-kkkk-llll")
	p.post("/admin/second-factor/remove", url.Values{"code": {"1"}}).wants(t, "wrong code", http.StatusUnprocessableEntity, "no code of yours")
	p.post("/admin/second-factor/remove", url.Values{"code": {consoletest.Code}}).wants(t, "removed", http.StatusSeeOther)
	p.get("/admin/second-factor").wants(t, "page", http.StatusOK, "Set up a second factor")
}

func TestFactor_aSessionThatIsNotCompleteOpensNothingElse(t *testing.T) {
	t.Parallel()
	for stage, to := range map[api.Stage]string{api.StageCode: "/logon/code", api.StageEnrol: "/admin/second-factor"} {
		s := newSite(t)
		p := s.as("account-administrator")
		s.broker.Stage = stage
		for _, path := range []string{"/instances", "/policies", "/admin/users", "/logs/export.csv"} {
			if a := p.get(path); a.status != http.StatusSeeOther || a.location != to+"?next="+url.QueryEscape(path) {
				t.Errorf("%s in stage %s answers %d to %q", path, stage, a.status, a.location)
			}
		}
		if a := p.post("/key-requests/request-1/approve", url.Values{"version": {"1"}}); a.status != http.StatusSeeOther || a.location != to {
			t.Errorf("approving in stage %s answers %d to %q", stage, a.status, a.location)
		}
	}
	s := newSite(t)
	p := s.as("key-approver")
	s.broker.Stage = api.StageCode
	a := p.get("/logon/code?next=%2Finstances")
	a.wants(t, "code page", http.StatusOK, `autocomplete="one-time-code"`, `value="/instances"`)
	if strings.Contains(a.body, "Main menu") {
		t.Error("the code page has the menu")
	}
	p.post("/logon/code", url.Values{"code": {"9"}}).wants(t, "wrong code", http.StatusUnprocessableEntity, "no code of yours")
	if a := p.post("/logon/code", url.Values{"code": {consoletest.Code}, "next": {"/instances"}}); a.status != http.StatusSeeOther || a.location != "/instances" {
		t.Errorf("a right code answers %d to %q", a.status, a.location)
	}
	p.get("/instances").wants(t, "afterwards", http.StatusOK)
}

func TestFactor_settingsAndReset(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.as("account-administrator")
	p.get("/admin/second-factor-settings").wants(t, "settings", http.StatusOK, "Required of everybody", "code of the last five minutes")
	p.post("/admin/second-factor-settings", url.Values{"second_factor": {"required"}, "step_up": {"yes"}}).wants(t, "saved", http.StatusSeeOther)
	p.get("/key-requests/request-1").wants(t, "decision", http.StatusOK, "To approve: six digits")
	p.post("/key-requests/request-1/approve", url.Values{"version": {"1"}, "code": {"0"}}).wants(t, "wrong code", http.StatusUnprocessableEntity, "no code of yours")
	s.as("auditor").get("/admin/second-factor-settings").wants(t, "auditor", http.StatusOK, "disabled")
	p.get("/admin/users/user-2/reset-factor").wants(t, "reset", http.StatusOK, "really this person")
	p.post("/admin/users/user-2/reset-factor", nil).wants(t, "reset", http.StatusSeeOther)
}

// E-14, I-04: who has approved, and how many are missing, stands on the page.
func TestKeyRequest_saysWhoHasApproved(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.as("key-approver").get("/key-requests/request-1").wants(t, "request", http.StatusOK, "1 of 3 people have approved.", "nina",
		"I have moved this machine myself.", "Does not count: expired", "not who enrolled the machine", "Expires")
}

// G-03, K-01, I-03: a policy's pool and its demands on those who approve are in its form, and kept.
func TestPolicy_poolAndApprovalsByForms(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.as("account-administrator")
	form := url.Values{"version": {"2"}, "name": {"Laboratory"}, "on_match": {"manual"}, "on_failure": {"manual"}, "lease_seconds": {"1h"}, "heartbeat_seconds": {"1m"},
		"revoke_mode": {"unmount"}, "resource_pool": {"yes"}, "separate_approver": {"yes"}, "approvals_needed": {"0"}, "request_seconds": {"2h"}, "then": {"stay"}}
	p.post("/policies/policy-3", form).wants(t, "nobody is needed", http.StatusUnprocessableEntity, "whole number from 1 to 10")
	form.Set("approvals_needed", "3")
	p.post("/policies/policy-3", form).wants(t, "saved", http.StatusSeeOther)
	a := p.get("/policies/policy-3")
	a.wants(t, "policy", http.StatusOK, "Enable resource pooling", `name="approvals_needed" value="3"`, `name="request_seconds" value="2h"`)
	for _, name := range []string{"resource_pool", "separate_approver"} {
		if !strings.Contains(a.body, `name="`+name+`" value="yes" checked`) {
			t.Errorf("%s is not checked", name)
		}
	}
}
