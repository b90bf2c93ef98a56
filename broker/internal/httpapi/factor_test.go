package httpapi_test

import (
	"bytes"
	"image/png"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/store"
)

// authenticator is a person's phone.
type authenticator struct {
	*rig
	secret string
}

func (a authenticator) code() string {
	a.t.Helper()
	return must[string](a.t)(hotp.GenerateCodeCustom(a.secret, uint64(a.now().Unix()/30), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}))
}

// factor sets a second factor up for a person and returns the phone and the recovery codes.
func (o *org) factor(p *client.People) (authenticator, []string) {
	o.t.Helper()
	var setup api.FactorSetup
	if err := p.Do(o.t.Context(), "POST", "/api/v1/second-factor", api.FactorStart{Password: password}, &setup); err != nil {
		o.t.Fatalf("begin: %v", err)
	}
	phone := authenticator{o.rig, setup.Secret}
	var codes api.RecoveryCodes
	if err := p.Do(o.t.Context(), "POST", "/api/v1/second-factor/confirm", api.FactorCode{Code: phone.code()}, &codes); err != nil {
		o.t.Fatalf("confirm: %v", err)
	}
	return phone, codes.Codes
}

func (o *org) enter(user, code string) (*client.People, api.LoggedOn, error) {
	o.t.Helper()
	p, err := client.NewPeople(o.peopleAt, o.ca.CACert())
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(p.Close)
	on, err := p.LogOn(o.t.Context(), api.LogOn{Account: o.name, User: user, Password: password, Code: code})
	return p, on, err
}

func show(o *org, p *client.People, code string) error {
	return p.Do(o.t.Context(), "POST", "/api/v1/second-factor/show", api.FactorCode{Code: code}, nil)
}

func TestFactor_logOnNeedsACodeThatCountsOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		phone, codes := o.factor(o.approver)
		eq(t, "recovery codes", len(codes), 10)
		used := phone.code() // it confirmed the set-up

		p, on, err := o.enter("key-approver", "")
		if err != nil {
			t.Fatal(err)
		}
		eq(t, "stage", on.Stage, api.StageCode)
		_, err = p.RunningInstances(ctx, nil)
		wantProblem(t, err, 403, "second-factor-needed")
		wantProblem(t, p.Do(ctx, "POST", "/api/v1/second-factor", api.FactorStart{Password: password}, nil), 403, "second-factor-needed")
		wantProblem(t, show(o, p, used), 422, "invalid") // replay
		r.later(31 * time.Second)
		code := phone.code()
		if err := show(o, p, code[:3]+" "+code[3:]); err != nil {
			t.Fatal(err)
		}
		if _, err := p.RunningInstances(ctx, nil); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, show(o, p, code), 422, "invalid") // in this session neither

		// Scripts send the code with the password.
		r.later(31 * time.Second)
		if _, on, err = o.enter("key-approver", phone.code()); err != nil || on.Stage != "" {
			t.Fatalf("%v %v", on.Stage, err)
		}
		// A recovery code counts once.
		if _, on, err = o.enter("key-approver", strings.ToUpper(codes[3])); err != nil || on.Stage != "" {
			t.Fatalf("%v %v", on.Stage, err)
		}
		_, _, err = o.enter("key-approver", codes[3])
		wantProblem(t, err, 401, "log-on-refused")
		if len(o.events("user.recovery-code-used")) != 1 || len(o.events("user.second-factor-set")) != 1 || len(o.events("user.log-on-begun")) != 1 {
			t.Error("the log does not have what happened")
		}
	})
}

func TestFactor_wrongCodesLockTheUser(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		phone, _ := o.factor(o.approver)
		r.later(31 * time.Second)
		// A right password in between does not start the count anew.
		for range 3 {
			p, _, err := o.enter("key-approver", "")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				wantProblem(t, show(o, p, "000000"), 422, "invalid")
			}
			if p, _, err = o.enter("key-approver", ""); err != nil {
				wantProblem(t, err, 401, "log-on-refused")
				wantProblem(t, show(o, o.approver, phone.code()), 422, "invalid")
				return
			}
		}
		t.Fatal("six wrong codes locked nobody")
	})
}

func TestFactor_secretIsWrappedAndThePictureShowsIt(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		wantProblem(t, o.approver.Do(ctx, "POST", "/api/v1/second-factor", api.FactorStart{Password: "wrong"}, nil), 422, "invalid")
		var setup api.FactorSetup
		if err := o.approver.Do(ctx, "POST", "/api/v1/second-factor", api.FactorStart{Password: password}, &setup); err != nil {
			t.Fatal(err)
		}
		if _, err := png.Decode(bytes.NewReader(setup.Image)); err != nil {
			t.Errorf("the picture: %v", err)
		}
		if !strings.HasPrefix(setup.URL, "otpauth://totp/Keyward%20acme:key-approver?") || !strings.Contains(setup.URL, setup.Secret) {
			t.Errorf("address %q", setup.URL)
		}
		wantProblem(t, o.approver.Do(ctx, "POST", "/api/v1/second-factor/confirm", api.FactorCode{Code: "000000"}, nil), 422, "invalid")
		// Before it is confirmed it asks nobody for a code.
		if _, on, err := o.enter("key-approver", ""); err != nil || on.Stage != "" {
			t.Errorf("stage %q: %v", on.Stage, err)
		}
		err := r.store.View(ctx, func(tx *store.Tx) error {
			u, err := store.In[store.User](tx.Tenant(o.id)).First(store.Eq("name", "key-approver"))
			if bytes.Contains(u.FactorSecret, []byte(setup.Secret)) || len(u.FactorSecret) < 40 {
				t.Error("the secret is stored as it is")
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range allEvents(o) {
			for _, v := range e.Detail {
				if strings.Contains(v, setup.Secret) {
					t.Errorf("the log has the secret: %+v", e)
				}
			}
		}
	})
}

func TestFactor_requiredByTheAccount(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		wantProblem(t, o.approver.Do(ctx, "PUT", "/api/v1/second-factor-settings", api.FactorSettings{SecondFactor: "required"}, nil), 403, "forbidden")
		if err := o.admin.Do(ctx, "PUT", "/api/v1/second-factor-settings", api.FactorSettings{SecondFactor: "required"}, nil); err != nil {
			t.Fatal(err)
		}
		// Sessions that run are held up too.
		_, err := o.approver.RunningInstances(ctx, nil)
		wantProblem(t, err, 403, "second-factor-missing")
		p, on, err := o.enter("key-approver", "")
		if err != nil {
			t.Fatal(err)
		}
		eq(t, "stage", on.Stage, api.StageEnrol)
		o.factor(p)
		if _, err := p.RunningInstances(ctx, nil); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFactor_freshForApprovalsAndExports(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		pol := noPort80("manual")
		pol.OnMatch, pol.LeaseSeconds, pol.HeartbeatSeconds = api.ActionManual, 2592000, 86400
		o.policy(pol, d)
		a := b.ask(d.ID, "22")
		phone, _ := o.factor(o.approver)
		if err := o.admin.Do(ctx, "PUT", "/api/v1/second-factor-settings", api.FactorSettings{SecondFactor: "optional", StepUp: true}, nil); err != nil {
			t.Fatal(err)
		}
		// Without a second factor neither approval nor export, nor taking the setting back.
		_, err := o.admin.Approve(ctx, a.ID, api.Decision{})
		wantProblem(t, err, 403, "second-factor-stale")
		security := o.person(api.RoleSecurityAdmin)
		wantProblem(t, security.ExportKeys(ctx, api.ExportWrite{DeviceIDs: []string{d.ID}, Passphrase: "correct horse battery"}, io.Discard), 403, "second-factor-stale")
		wantProblem(t, o.admin.Do(ctx, "PUT", "/api/v1/second-factor-settings", api.FactorSettings{SecondFactor: "optional"}, nil), 403, "second-factor-stale")
		// One that was shown six minutes ago is too old; denying needs none.
		r.later(6 * time.Minute)
		_, err = o.approver.Approve(ctx, a.ID, api.Decision{})
		wantProblem(t, err, 403, "second-factor-stale")
		a.is(api.KeyPending)
		if err := show(o, o.approver, phone.code()); err != nil {
			t.Fatal(err)
		}
		must[api.KeyRequestDetail](t)(o.approver.Approve(ctx, a.ID, api.Decision{}))
		a.collect()
	})
}

func TestFactor_isRemovedWithACodeAndResetByAnotherAdministrator(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		phone, codes := o.factor(o.admin)
		wantProblem(t, o.admin.Do(ctx, "POST", "/api/v1/second-factor/remove", api.FactorCode{Code: "123"}, nil), 422, "invalid")
		var me api.User
		if err := o.admin.Do(ctx, "GET", "/api/v1/me", nil, &me); err != nil {
			t.Fatal(err)
		}
		if me.SecondFactorSince == nil {
			t.Error("the user does not show the second factor")
		}
		wantProblem(t, o.admin.Do(ctx, "DELETE", "/api/v1/users/"+me.ID+"/second-factor", nil, nil), 409, "conflict")
		r.later(31 * time.Second)
		var fresh api.RecoveryCodes
		if err := o.admin.Do(ctx, "POST", "/api/v1/second-factor/recovery-codes", api.FactorCode{Code: phone.code()}, &fresh); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, o.admin.Do(ctx, "POST", "/api/v1/second-factor/remove", api.FactorCode{Code: codes[0]}, nil), 422, "invalid")
		if err := o.admin.Do(ctx, "POST", "/api/v1/second-factor/remove", api.FactorCode{Code: fresh.Codes[0]}, nil); err != nil {
			t.Fatal(err)
		}

		o.factor(o.approver)
		var approver api.User
		if err := o.approver.Do(ctx, "GET", "/api/v1/me", nil, &approver); err != nil {
			t.Fatal(err)
		}
		if err := o.admin.Do(ctx, "DELETE", "/api/v1/users/"+approver.ID+"/second-factor", nil, nil); err != nil {
			t.Fatal(err)
		}
		_, err := o.approver.RunningInstances(ctx, nil)
		wantProblem(t, err, 401, "unauthenticated")
		if _, on, err := o.enter("key-approver", ""); err != nil || on.Stage != "" {
			t.Errorf("stage %q: %v", on.Stage, err)
		}
		if len(o.events("user.second-factor-reset")) != 1 || len(o.events("user.second-factor-removed")) != 1 {
			t.Error("the log does not have what happened")
		}
	})
}
