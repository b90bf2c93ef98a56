package unlock

import (
	"net/http"
	"testing"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/e2e/lab"
)

// As many people as the policy wants approve, each once, and nobody what they brought about themselves.
func TestApprovals_severalPeopleAndNeverTheirOwn(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		ctx := t.Context()
		m := newAccount(t, s).machine(1, "")
		p := auto()
		p.OnMatch, p.ApprovalsNeeded, p.SeparateApprover = api.ActionManual, 2, true
		m.policy(m.device(0), p)
		d := m.encrypt(0, api.DeviceWrite{})
		r := m.request(d.ID, api.KeyPending)
		yes := api.Decision{Reason: "known machine"}
		_, err := m.Approve(ctx, r.RequestID, yes)
		refusedAs(t, "who configured the device approves its key", err, "own-request")

		kim, kai := m.logOn(m.setup.Approver), m.user("kai", api.RoleKeyApprover)
		if _, err := kim.Approve(ctx, r.RequestID, yes); err != nil {
			t.Fatal(err)
		}
		r = m.request(d.ID, api.KeyPending)
		if r.ApprovalsNeeded != 2 || len(r.Approvals) != 1 || r.Approvals[0].User != "kim" {
			t.Errorf("after one of two: needs %d, has %+v", r.ApprovalsNeeded, r.Approvals)
		}
		_, err = kim.Approve(ctx, r.RequestID, yes)
		refusedAs(t, "the first approves again", err, "already-approved")
		if lab.Mounted(m.mountPoint(0)) {
			t.Error("one person of two opened the volume")
		}
		if _, err := kai.Approve(ctx, r.RequestID, yes); err != nil {
			t.Fatal(err)
		}
		m.mounted(0)
		if r = m.request(d.ID, api.KeyDelivered); r.DecidedBy != "kim, kai" {
			t.Errorf("decided by %q", r.DecidedBy)
		}
		for _, event := range []string{"key-request.seconded", "key-request.approved"} {
			if n := m.logged("key", event); n != 1 {
				t.Errorf("the log has %d %s, want 1", n, event)
			}
		}
	})
}

// phone is a person's authenticator.
type phone struct {
	secret string
	used   int64 // the last half minute whose code was shown: each counts once
}

func (p *phone) code(t *testing.T) string {
	t.Helper()
	p.used = max(p.used+1, time.Now().Unix()/30)
	code, err := hotp.GenerateCodeCustom(p.secret, uint64(p.used), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// Where the account wants it, a password alone approves nothing: neither that of a person without a second factor, nor
// that of one who has not shown it.
func TestApprovals_wantASecondFactor(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		ctx := t.Context()
		m := newAccount(t, s).machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		factor := func(p *client.People, path string, in, out any) error {
			return p.Do(ctx, http.MethodPost, "/api/v1/second-factor"+path, in, out)
		}
		kim := m.logOn(m.setup.Approver)
		var setup api.FactorSetup
		if err := factor(kim, "", api.FactorStart{Password: m.setup.Approver.Password}, &setup); err != nil {
			t.Fatal(err)
		}
		own := phone{secret: setup.Secret}
		code := own.code(t)
		if err := factor(kim, "/confirm", api.FactorCode{Code: code}, nil); err != nil {
			t.Fatal(err)
		}
		if err := m.Do(ctx, http.MethodPut, "/api/v1/second-factor-settings", api.FactorSettings{SecondFactor: "optional", StepUp: true}, nil); err != nil {
			t.Fatal(err)
		}
		r := m.request(d.ID, api.KeyPending)
		yes := api.Decision{Reason: "known machine"}
		_, err := m.Approve(ctx, r.RequestID, yes)
		refusedAs(t, "a person without a second factor approves", err, "second-factor-stale")

		later := m.logOn(m.setup.Approver) // the password alone
		_, err = later.Approve(ctx, r.RequestID, yes)
		refusedAs(t, "a password approves", err, "second-factor-needed")
		refusedAs(t, "a code is shown twice", factor(later, "/show", api.FactorCode{Code: code}, nil), "invalid")
		_, err = later.Approve(ctx, r.RequestID, yes)
		refusedAs(t, "a used code approves", err, "second-factor-needed")
		if r = m.request(d.ID, api.KeyPending); lab.Mounted(m.mountPoint(0)) {
			t.Error("the volume is open without a second factor")
		}

		if err := factor(later, "/show", api.FactorCode{Code: own.code(t)}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := later.Approve(ctx, r.RequestID, yes); err != nil {
			t.Fatal(err)
		}
		m.mounted(0)
		if r = m.request(d.ID, api.KeyDelivered); r.DecidedBy != "kim" {
			t.Errorf("decided by %q", r.DecidedBy)
		}
	})
}

// The machine hangs while its request is approved, and a person thinks better of it: the key never leaves.
func TestDecide_deniedBeforeTheKeyIsCollected(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		r := m.request(d.ID, api.KeyPending)
		if err := m.Freeze(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Thaw() })
		if _, err := m.Approve(t.Context(), r.RequestID, api.Decision{Reason: "known machine"}); err != nil {
			t.Fatal(err)
		}
		m.requestBecomes(r.RequestID, api.KeyApproved)
		if _, err := m.Deny(t.Context(), r.RequestID, api.Decision{Reason: "it is to be looked at first"}); err != nil {
			t.Fatal(err)
		}
		if err := m.Thaw(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, func() error { _, err := m.Run(t.Context(), "request", d.ID); return err })
		again := m.request(d.ID, api.KeyPending)
		if r = m.requestBecomes(r.RequestID, api.KeyDenied); again.RequestID == r.RequestID || lab.Mounted(m.mountPoint(0)) {
			t.Errorf("the denied request went %+v", r.History)
		}
		if n := m.logged("key", "key-request.delivered"); n != 0 {
			t.Errorf("%d keys were delivered", n)
		}
		m.approve(0, d.ID)
	})
}
