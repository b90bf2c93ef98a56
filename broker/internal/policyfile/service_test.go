package policyfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/policyfile"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/preview"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

// desk is an account with an image, three devices and the default policy.
type desk struct {
	t        *testing.T
	store    *store.Store
	p        tenant.Principal
	policies *policyset.Service
	*policyfile.Service
}

func newDesk(t *testing.T, st *store.Store) *desk {
	t.Helper()
	d := &desk{t: t, store: st, p: tenant.Principal{Operator: true}, policies: policyset.New(st, &feed.Hub{})}
	d.Service = policyfile.New(st, d.policies, preview.New(st))
	err := st.Tx(t.Context(), func(tx *store.Tx) error {
		a := store.Account{Name: "Acme", TimeZone: "UTC", WrappedKey: []byte{1}}
		if err := store.Global[store.Account](tx).Insert(&a); err != nil {
			return err
		}
		d.p.AccountID = a.ID
		tn := tx.Tenant(a.ID)
		home, err := policyset.Default(tn)
		if err != nil {
			return err
		}
		if err := store.In[store.Image](tn).Insert(&store.Image{Provider: "native", Identity: "debian", Name: "Debian 12"}); err != nil {
			return err
		}
		for i, name := range []string{"data", "logs", "data"} {
			err := store.In[store.Device](tn).Insert(&store.Device{Provider: "native", Identity: fmt.Sprint(i), Name: name, Status: api.DeviceConfigured, PolicyID: home.ID})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *desk) file() (policyfile.File, string) {
	d.t.Helper()
	f, err := d.Export(d.t.Context(), d.p)
	if err != nil {
		d.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := policyfile.Encode(&b, f); err != nil {
		d.t.Fatal(err)
	}
	return d.read(b.String()), b.String()
}

func (d *desk) read(text string) policyfile.File {
	d.t.Helper()
	f, err := policyfile.Decode(strings.NewReader(text))
	if err != nil {
		d.t.Fatalf("%v\n%s", err, text)
	}
	return f
}

func (d *desk) apply(f policyfile.File, remove bool) policyfile.Plan {
	d.t.Helper()
	plan, err := d.Apply(d.t.Context(), d.p, f, remove, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	again, err := d.Plan(d.t.Context(), d.p, f, remove)
	if err != nil || !again.Empty() {
		d.t.Fatalf("after it was applied there is still %+v: %v", again.Steps, err)
	}
	return plan
}

func (d *desk) events() (names []string) {
	d.t.Helper()
	err := d.store.View(d.t.Context(), func(tx *store.Tx) error {
		rows, err := store.In[store.AuditRecord](tx.Tenant(d.p.AccountID)).List()
		for _, r := range rows {
			names = append(names, r.Event)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return names
}

func text(name, devices string) string {
	return fmt.Sprintf("  - {name: %s, rules: [], on_match: manual, on_failure: manual, lease_seconds: 60, heartbeat_seconds: 10, revoke_mode: unmount, images: [Debian 12], devices: [%s]}\n", name, devices)
}

const head = "format: 1\npolicies:\n"

// The whole life of a file: made, exported, devices moved between policies in both directions, and deleted.
func TestApply_movesAndDeletesInOneTransaction(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		d := newDesk(t, st)
		plan := d.apply(d.read(head+text("Web", "logs")+text("Mail", "")), false)
		if len(plan.Steps) != 2 || plan.Preview != nil && len(plan.Preview.Rows) > 0 {
			t.Fatalf("%+v", plan)
		}
		f, exported := d.file()
		if plan, err := d.Plan(t.Context(), d.p, f, true); err != nil || !plan.Empty() {
			t.Fatalf("what was exported would change %+v: %v\n%s", plan.Steps, err, exported)
		}
		if !strings.Contains(exported, "    devices:\n      - logs\n") || strings.Contains(exported, "id:") {
			t.Errorf("exported:\n%s", exported)
		}
		// Each takes from the other what it has.
		_, exported = d.file()
		i := strings.Index(exported, "[id ")
		if i >= 0 {
			t.Errorf("devices of the default policy are in the file:\n%s", exported)
		}
		first := d.device(0)
		d.apply(d.read(head+text("Web", fmt.Sprintf("%q", "data [id "+first+"]"))+text("Mail", "logs")), false)
		d.apply(d.read(head+text("Web", "logs")+text("Mail", fmt.Sprintf("%q", "data [id "+first+"]"))), false)
		// Only --delete removes, and only a policy whose devices have another place.
		only := d.read(head + text("Web", "logs"))
		if plan := d.apply(only, false); !plan.Empty() || !slices.Equal(plan.Kept, []string{"Mail"}) {
			t.Errorf("%+v", plan)
		}
		if _, err := d.Apply(t.Context(), d.p, only, true, nil); err == nil || !strings.Contains(err.Error(), "still holds data [id ") {
			t.Errorf("a policy with devices is deleted: %v", err)
		}
		before := len(d.events())
		d.apply(d.read(head+text("Web", fmt.Sprintf("logs, %q", "data [id "+first+"]"))), true)
		got := d.events()[before:]
		for _, want := range []string{"policy.changed", "policy.device-moved", "policy.deleted", "policy.file-applied"} {
			if !slices.Contains(got, want) {
				t.Errorf("the log has no %s, only %v", want, got)
			}
		}
		if list, err := d.policies.List(t.Context(), d.p); err != nil || len(list) != 2 {
			t.Errorf("policies %+v: %v", list, err)
		}
	})
}

func (d *desk) device(i int) (id string) {
	d.t.Helper()
	err := d.store.View(d.t.Context(), func(tx *store.Tx) error {
		row, err := store.In[store.Device](tx.Tenant(d.p.AccountID)).First(store.Eq("identity", fmt.Sprint(i)))
		id = row.ID
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return id
}

// A file that fails in its middle changes nothing, and a saved plan is refused once anything changed.
func TestApply_isAllOrNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		d := newDesk(t, st)
		f := d.read(head + text("Web", "logs"))
		plan, err := d.Plan(t.Context(), d.p, f, false)
		if err != nil {
			t.Fatal(err)
		}
		before := len(d.events())
		// A name that a policy has whose case only the database ignores fails at the last step.
		if _, err := d.Apply(t.Context(), d.p, d.read(head+text("Web", "logs")+text("x", "nothing-is-named-so")), false, nil); err == nil {
			t.Fatal("a file with an unknown device is applied")
		}
		if n := len(d.events()); n != before {
			t.Errorf("a refused file left %d records", n-before)
		}
		// Somebody else makes a policy meanwhile.
		if _, err := d.policies.Create(t.Context(), d.p, api.Policy{Name: "Other", Rules: []api.Rule{}, OnMatch: api.ActionManual, OnFailure: api.ActionManual,
			LeaseSeconds: 60, HeartbeatSeconds: 10, RevokeMode: api.RevokeUnmount}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Apply(t.Context(), d.p, f, false, &plan); !errors.Is(err, policyfile.ErrOutdated) {
			t.Fatalf("a plan that no longer fits: %v", err)
		}
		if plan, err = d.Plan(t.Context(), d.p, f, false); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Apply(t.Context(), d.p, f, true, &plan); !errors.Is(err, policyfile.ErrOutdated) {
			t.Fatalf("a plan without --delete allows one with it: %v", err)
		}
		if _, err := d.Apply(t.Context(), d.p, f, false, &plan); err != nil {
			t.Fatal(err)
		}
	})
}

// What a file leaves out has the same value in the file and in what was stored: no plan stands for ever.
func TestApply_aFileWithoutARevokeModeSettles(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		d := newDesk(t, st)
		short := head + "  - {name: Web, rules: [], on_match: manual, on_failure: manual, lease_seconds: 60, heartbeat_seconds: 10}\n" +
			"  - {name: Checked, rules: [{fact: listening_tcp_ports, match: all, conditions: [{operator: does not contain, value: 80}]}], on_match: manual, on_failure: manual, lease_seconds: 60, heartbeat_seconds: 10, check_enabled: true, on_check_failure: revoke}\n"
		plan := d.apply(d.read(short), false) // which fails when a second plan is not empty
		if len(plan.Steps) != 2 {
			t.Fatalf("%+v", plan)
		}
		modes := map[string]api.RevokeMode{}
		list, err := d.policies.List(t.Context(), d.p)
		for _, p := range list {
			modes[p.Name] = p.RevokeMode
		}
		if err != nil || modes["Web"] != api.RevokeUnmount || modes["Checked"] != api.RevokeSuspend {
			t.Errorf("stored as %v, %v", modes, err)
		}
		_, exported := d.file()
		if plan, err := d.Plan(t.Context(), d.p, d.read(exported), false); err != nil || !plan.Empty() {
			t.Errorf("the export would change %+v: %v", plan.Steps, err)
		}
	})
}
