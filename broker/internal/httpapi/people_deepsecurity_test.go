package httpapi_test

import (
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/dsm/dsmtest"
)

// W-01, W-03: the connection is tested, saved and disabled; its API key goes nowhere but to the server it was given for.
func TestDeepSecurity_connection(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const path = "/api/v1/deep-security-settings"
		ctx := t.Context()
		o := r.org("acme")
		manager := dsmtest.New(dsmtest.Protected(7, "db1", "", "127.0.0.1"))
		defer manager.Close()
		host, port := manager.Address()
		read := func() (s api.DeepSecuritySettings) {
			t.Helper()
			if err := o.admin.Do(ctx, "GET", path, nil, &s); err != nil {
				t.Fatal(err)
			}
			return s
		}
		if s := read(); s.Enabled || s.HasAPIKey || s.Port != 4119 {
			t.Errorf("at first: %+v", s)
		}
		in := api.DeepSecuritySettingsWrite{Enabled: true, Server: host, Port: port, Authority: manager.Authority(), APIKey: dsmtest.Key}
		refused := func(name, says string, method, path string, in api.DeepSecuritySettingsWrite) {
			t.Helper()
			err := o.admin.Do(ctx, method, path, in, nil)
			if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), dsmtest.Key) {
				t.Errorf("%s: %v", name, err)
			}
		}
		without, stranger, wrong := in, in, in
		without.APIKey, stranger.Authority, wrong.APIKey = "", "", "2:wrong"
		refused("a connection without a key", "is needed to enable", "PUT", path, without)
		refused("a test without a key", "must be given to test", "POST", path+"/test", without)
		refused("a certificate of its own making", "certificate", "POST", path+"/test", stranger)
		refused("a wrong key", "refuses the API key", "POST", path+"/test", wrong)
		if err := o.admin.Do(ctx, "POST", path+"/test", in, nil); err != nil {
			t.Errorf("a test that should succeed: %v", err)
		}
		if s := read(); s.Enabled || s.HasAPIKey {
			t.Errorf("a test has changed the settings: %+v", s)
		}
		if err := o.admin.Do(ctx, "PUT", path, in, nil); err != nil {
			t.Fatal(err)
		}
		if err := r.dsm.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		if s := read(); !s.Enabled || !s.HasAPIKey || s.AnsweredAt == nil || s.Computers != 1 || s.Problem != "" {
			t.Errorf("connected: %+v", s)
		}
		if err := o.admin.Do(ctx, "POST", path+"/test", without, nil); err != nil {
			t.Errorf("a test with the stored key: %v", err)
		}

		elsewhere := without
		elsewhere.Server = "dsm.attacker.example.org"
		refused("the stored key for another server", "must be given again", "PUT", path, elsewhere)
		refused("the stored key for another server, in a test", "must be given to test", "POST", path+"/test", elsewhere)
		metadata := in
		metadata.Server, metadata.Port = "169.254.169.254", 80
		refused("the metadata service as a manager", "not an address at which a manager may be", "POST", path+"/test", metadata)

		off := without
		off.Enabled = false
		if err := o.admin.Do(ctx, "PUT", path, off, nil); err != nil {
			t.Fatal(err)
		}
		if err := r.dsm.Tick(ctx); err != nil {
			t.Fatal(err)
		}
		if s := read(); s.Enabled || !s.HasAPIKey || s.AnsweredAt != nil {
			t.Errorf("disabled: %+v", s)
		}
	})
}

// J-09, H-10, G-12: a key is given to a machine that the manager shows as well, taken when it reports a bad file, given back
// when that is gone, and judged without the manager while the connection is disabled.
func TestDeepSecurity_badFileTakesTheKeyBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const path = "/api/v1/deep-security-settings"
		ctx := t.Context()
		o := r.org("acme")
		well := dsmtest.Protected(7, "db1", "", "127.0.0.1")
		infected := dsmtest.Protected(7, "db1", "", "127.0.0.1")
		infected["computerStatus"] = map[string]any{"agentStatus": "error"}
		infected["antiMalware"] = dsmtest.Module("on", "error")
		manager := dsmtest.New(well)
		defer manager.Close()
		host, port := manager.Address()
		settings := api.DeepSecuritySettingsWrite{Enabled: true, Server: host, Port: port, Authority: manager.Authority(), APIKey: dsmtest.Key}
		look := func() {
			t.Helper()
			r.later(time.Minute)
			if err := r.dsm.Tick(ctx); err != nil {
				t.Fatal(err)
			}
		}
		save := func(enabled bool) {
			t.Helper()
			settings.Enabled = enabled
			if err := o.admin.Do(ctx, "PUT", path, settings, nil); err != nil {
				t.Fatal(err)
			}
			look()
		}
		save(true)
		policy := checking("web", api.Policy{CheckEveryHeartbeat: true, OnCheckFailure: api.CheckRevoke})
		policy.LeaseSeconds, policy.HeartbeatSeconds = 900, 30
		policy.Rules = append(policy.Rules, api.Rule{Fact: api.FactDSMAntiMalware, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "on"}}},
			api.Rule{Fact: api.FactDSMStatus, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpNotEqual, Value: "red"}}})
		b, a := held(o, "db1", policy)
		if got := b.says("", false, closed80, a); len(got.Checked) != 1 || got.Checked[0].Integrity != api.IntegrityGood {
			t.Fatalf("a machine that is well: %+v", got)
		}
		manager.Set(infected)
		look()
		b.says("", false, closed80, a)
		d := a.is(api.KeyRevoking)
		if !strings.Contains(d.Reason, "Deep Security Status: Anti-Malware") {
			t.Errorf("the reason does not name what the manager said: %s", d.Reason)
		}
		for _, f := range d.Verdict.Findings {
			if f.Fact == api.FactDSMAntiMalware && (f.Actual != "error" || f.Grade != api.GradeAPIConfirmed || f.At == nil) {
				t.Errorf("%+v", f)
			}
		}
		a.report(api.EventSuspended)
		b.says("", false, closed80)
		a.is(api.KeyRevoked)
		manager.Set(well)
		look()
		b.says("", false, closed80)
		a.is(api.KeyApproved)
		a.collect()
		a.report(api.EventMounted).is(api.KeyDelivered)

		manager.Set(infected)
		look()
		save(false)
		b.says("", false, closed80, a)
		a.is(api.KeyDelivered)
		b.says("", false, open80, a) // the other rules are used
		a.is(api.KeyRevoking)
	})
}
