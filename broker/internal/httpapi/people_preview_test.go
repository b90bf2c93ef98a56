package httpapi_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/store"
)

func TestExplain_saysWhatFailedAndWhoMayApprove(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		p := o.policy(noPort80("web"), d)
		a := b.ask(d.ID, "22", "80")
		want := api.Shortfall{Title: "Network Services (TCP)", Actual: "22, 80", Grade: api.GradeSelfReported}
		if len(a.Failed) != 1 || a.Failed[0] != want || a.WaitsFor != "An Account Administrator or Key Approver of the account approves or denies it." {
			t.Fatalf("the machine is told %+v", a.KeyRequestStatus)
		}
		// A condition may hold what amounts to a secret, and the machine could report just what it wants.
		if text, _ := json.Marshal(a.KeyRequestStatus); strings.Contains(string(text), "does not contain") {
			t.Errorf("the machine is told what the rule wants: %s", text)
		}
		got := a.is(api.KeyPending)
		var who []string
		for _, m := range got.MayApprove {
			who = append(who, string(m.Role)+":"+m.Name)
		}
		if !slices.Equal(who, []string{"account-administrator:account-administrator", "key-approver:key-approver"}) {
			t.Errorf("may approve: %v", who)
		}
		f := got.Verdict.Findings[0]
		if f.Status != api.RuleFailed || f.Condition != "does not contain 80" || f.Actual != "22, 80" || f.Grade != api.GradeSelfReported || got.WaitsFor != a.WaitsFor {
			t.Errorf("explained as %+v, waits for %q", f, got.WaitsFor)
		}
		a.approve()
		if done := a.is(api.KeyApproved); done.WaitsFor != "" || done.MayApprove != nil {
			t.Errorf("an approved request waits for %q by %v", done.WaitsFor, done.MayApprove)
		}

		p.ImageIDs = []string{}
		p = must[api.Policy](t)(o.admin.UpdatePolicy(t.Context(), p))
		a = b.ask(d.ID, "22")
		got = a.is(api.KeyPending)
		if got.MayApprove != nil || !strings.HasPrefix(got.WaitsFor, "An Account Administrator puts the device") {
			t.Errorf("image in no policy: waits for %q by %v", got.WaitsFor, got.MayApprove)
		}
	})
}

func TestExplain_saysWhenTheDelayApproves(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		in := noPort80("web")
		in.OnMatch, in.ApproveAfterSeconds = api.ActionManual, 600
		o.policy(in, d)
		if a := b.ask(d.ID, "22"); !strings.Contains(a.WaitsFor, "or it is approved by itself at ") || len(a.Failed) != 0 {
			t.Errorf("waits for %q", a.WaitsFor)
		}
	})
}

func (o *org) preview(in api.Policy) api.PolicyPreview {
	o.t.Helper()
	return must[api.PolicyPreview](o.t)(o.admin.PreviewPolicy(o.t.Context(), in))
}

func (o *org) replay(in api.Policy) api.PolicyReplay {
	o.t.Helper()
	return must[api.PolicyReplay](o.t)(o.admin.ReplayPolicy(o.t.Context(), in, 30))
}

// Four machines: one holds the key, one waits, one was never heard of, one belongs to another policy.
func TestPreview_saysWhoWouldBeApprovedWaitDeniedOrRevoked(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		holder, waiter, silent, other := o.machine("holder"), o.machine("waiter"), o.machine("silent"), o.machine("other")
		dh, _ := holder.encrypted("held")
		dw, _ := waiter.encrypted("wanted")
		ds, _ := silent.encrypted("quiet")
		do, _ := other.encrypted("elsewhere")
		in := noPort80("web")
		in.DeviceIDs, in.ImageIDs = []string{dh.ID, dw.ID, ds.ID}, []string{dh.ImageID, dw.ImageID, ds.ImageID}
		in.LeaseSeconds, in.HeartbeatSeconds, in.RevokeMode = 60, 10, api.RevokeUnmount
		in = must[api.Policy](t)(o.admin.CreatePolicy(t.Context(), in))
		held := holder.ask(dh.ID, "22").mounted()
		wait := waiter.ask(dw.ID, "80")
		events := len(allEvents(o))

		same := o.preview(in)
		if want := (api.OutcomeCounts{Waits: 1, Keeps: 1, Unknown: 1}); same.Before != want || same.After != want || same.Changed != 0 || len(same.Rows) != 3 {
			t.Fatalf("the policy as it is: %+v", same)
		}
		draft := in
		draft.OnFailure = api.ActionDeny
		draft.CheckEnabled, draft.OnCheckFailure = true, api.CheckRevoke
		draft.Rules = []api.Rule{{Fact: api.FactTCPPorts, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpLacks, Value: "22"}, {Operator: api.OpLacks, Value: "80"}}}}
		got := o.preview(draft)
		if want := (api.OutcomeCounts{Denied: 1, Revoked: 1, Unknown: 1}); got.After != want || got.Changed != 2 || got.Unseen != 0 {
			t.Fatalf("the draft: %+v", got)
		}
		byName := map[string]api.PreviewRow{}
		for _, row := range got.Rows {
			byName[row.InstanceName] = row
		}
		h := byName["holder"]
		if h.Before.Outcome != api.OutcomeKeeps || h.After.Outcome != api.OutcomeRevoked || h.Number != held.Number || h.FactsAt == nil ||
			len(h.After.Failed) != 1 || h.After.Failed[0].Condition != "(does not contain 22) AND (does not contain 80)" || h.After.Failed[0].Actual != "22" {
			t.Errorf("who holds the key: %+v", h)
		}
		if q := byName["silent"]; q.After.Outcome != api.OutcomeUnknown || q.FactsAt != nil || !strings.Contains(q.After.Reason, "not reported") {
			t.Errorf("who never reported is %+v, and must not be guessed", q)
		}
		if got.Rows[0].InstanceName != "holder" {
			t.Errorf("the first row is %s: what takes a key away comes first", got.Rows[0].InstanceName)
		}

		// Taking a device out, and another one in: both would be judged by other policies.
		draft = in
		draft.DeviceIDs = []string{dh.ID, do.ID}
		got = o.preview(draft)
		rows := map[string]string{}
		for _, row := range got.Rows {
			rows[row.DeviceName] = row.Before.Policy + " to " + row.After.Policy
		}
		if rows["wanted"] != "web to Default Policy" || rows["elsewhere"] != "Default Policy to web" || len(rows) != 4 {
			t.Errorf("moved devices: %v", rows)
		}
		// A new policy has no ID yet.
		draft.ID, draft.Name, draft.Version = "", "new", 0
		if got = o.preview(draft); len(got.Rows) != 2 {
			t.Errorf("a new policy would touch %+v", got.Rows)
		}

		held.is(api.KeyDelivered)
		wait.is(api.KeyPending)
		if n := len(allEvents(o)); n != events {
			t.Errorf("previews left %d records", n-events)
		}
		draft.Rules[0].Fact = "shoe_size"
		_, err := o.admin.PreviewPolicy(t.Context(), draft)
		wantProblem(t, err, 422, "invalid")
	})
}

func TestPreview_aPersonsWordStandsAboveThePolicy(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		p := o.policy(noPort80("web"), d)
		a := b.ask(d.ID, "80")
		if err := o.deny(a.ID); err != nil {
			t.Fatal(err)
		}
		p.Rules = []api.Rule{{Fact: api.FactGuestOS, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "linux"}}}}
		got := o.preview(p)
		if row := got.Rows[0]; row.After.Outcome != api.OutcomeWaits || !strings.Contains(row.After.Reason, "only a person gives it back") {
			t.Errorf("after a denial the policy would give the key: %+v", row)
		}
	})
}

func (o *org) deny(requestID string) error {
	_, err := o.approver.Deny(o.t.Context(), requestID, api.Decision{})
	return err
}

func TestReplay_tellsWhatWouldHaveBeenAnsweredOtherwise(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		p := o.policy(noPort80("web"), d)
		old := b.ask(d.ID, "22") // older than a replay looks
		old.collect()
		old.report(api.EventMounted).report(api.EventUnmounted)
		r.later(31 * 24 * time.Hour)
		b.beat()

		good := b.ask(d.ID, "22")
		good.collect()
		good.report(api.EventMounted).report(api.EventUnmounted)
		bad := b.ask(d.ID, "22", "80").approve()
		bad.collect()
		bad.report(api.EventMounted).report(api.EventUnmounted)
		b.ask(d.ID, "80", "443")

		same := o.replay(p)
		if want := (api.OutcomeCounts{Approved: 1, Waits: 2}); same.Requests != 3 || same.Then != want || same.Now != want || same.Different != 0 {
			t.Fatalf("the policy as it is: %+v", same)
		}
		p.OnFailure = api.ActionDeny
		p.Rules = append(p.Rules, api.Rule{Fact: api.FactTCPPorts, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpOnly, Value: "80, 443"}}})
		p.Rules = p.Rules[1:]
		got := o.replay(p)
		if want := (api.OutcomeCounts{Approved: 1, Denied: 2}); got.Now != want || got.Different != 3 || len(got.Rows) != 3 || got.Unseen {
			t.Fatalf("the draft: %+v", got)
		}
		row := got.Rows[1]
		if row.Number != bad.Number || row.Then != api.OutcomeWaits || row.Decision != "approved by key-approver" || row.Now.Outcome != api.OutcomeDenied ||
			row.Now.Failed[0].Condition != "only these 80, 443" || row.Now.Failed[0].Actual != "22, 80" {
			t.Errorf("the request that a person approved: %+v", row)
		}
		if got.Rows[0].Now.Outcome != api.OutcomeApproved || got.Rows[2].Number != good.Number {
			t.Errorf("rows %+v", got.Rows)
		}
	})
}

// What the broker saw when a request was asked is judged again as it was then, not as it is now.
func TestReplay_usesWhatTheBrokerSawThen(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		p := o.policy(noPort80("web"), d)
		b.beat()
		r.later(3 * time.Hour)
		a := b.ask(d.ID, "22") // three hours after the last sign of life
		r.later(time.Minute)
		b.beat()
		p.Rules = []api.Rule{{Fact: api.FactLastSeen, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpGreaterEqual, Value: "now-2h"}}}}
		got := o.replay(p)
		if got.Different != 1 || got.Rows[0].Number != a.Number || got.Rows[0].Now.Outcome != api.OutcomeWaits {
			t.Errorf("replayed as %+v", got)
		}
		err := r.store.View(t.Context(), func(tx *store.Tx) error {
			row, err := store.In[store.KeyRequest](tx.Tenant(o.id)).Get(a.ID)
			if len(row.Observed) < 4 {
				t.Errorf("kept of what the broker saw: %+v", row.Observed)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
