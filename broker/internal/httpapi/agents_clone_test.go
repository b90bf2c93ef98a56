package httpapi_test

import (
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// boot is a run of a machine's agent; several with one certificate are a machine and its copies.
func (b *box) boot(id string, generation int64) *booted {
	return &booted{b, api.Run{ID: "run-" + id, BootID: id + "-0000-boot", Generation: generation}}
}

type booted struct {
	*box
	run api.Run
}

func (b *booted) ask(deviceID string, ports ...string) *asked {
	b.t.Helper()
	in, private := b.prepare(deviceID, ports...)
	in.Run = &b.run
	return &asked{b.box, must[api.KeyRequestStatus](b.t)(b.Request(b.t.Context(), in)), private, in.Nonce}
}

func (b *booted) beat(held ...*asked) api.HeartbeatResponse {
	b.t.Helper()
	in := api.Heartbeat{Evidence: b.evidence("", "22"), Held: []api.HeldKey{}, Time: b.now(), Run: &b.run}
	for _, a := range held {
		in.Held = append(in.Held, api.HeldKey{RequestID: a.ID, DeviceID: a.DeviceID, Mounted: true})
	}
	return must[api.HeartbeatResponse](b.t)(b.Heartbeat(b.t.Context(), in))
}

func (o *org) suspicion(id string) string {
	o.t.Helper()
	return must[api.Instance](o.t)(instance(o.t.Context(), o, id)).Suspicion
}

// A boot that was told to report every thirty seconds is not silent after fifteen, though its policy wants more by now.
func TestClone_aBootIsSilentByThePaceThatItWasTold(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		m := o.machine("db1")
		d, _ := m.encrypted("data")
		p := noPort80("web")
		p.LeaseSeconds, p.HeartbeatSeconds = 600, 30
		p = o.policy(p, d)
		machine, copied := m.boot("aaaaaaaa", 5), m.boot("bbbbbbbb", 6)
		held := machine.ask(d.ID, "22").mounted()
		machine.beat(held)
		p.HeartbeatSeconds = 1
		must[api.Policy](t)(o.admin.UpdatePolicy(t.Context(), p))
		r.later(25 * time.Second)
		copied.beat()
		second := copied.ask(d.ID, "22")
		eq(t, "status of the copy", second.Status, api.KeyPending)
		if !strings.Contains(second.Reason, "silent for 1m30s") {
			t.Errorf("reason %q", second.Reason)
		}
		held.is(api.KeyDelivered)
	})
}

// A machine's disk is copied and the copy started while the machine runs: the copy gets no key by policy, the machine
// keeps its own, and a person is asked.
func TestClone_aSecondLiveMachineWaitsForAPerson(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		m := o.machine("db1")
		d, _ := m.encrypted("data")
		o.policy(noPort80("web"), d) // lease 60 s, heartbeat 10 s
		machine, copied := m.boot("aaaaaaaa", 5), m.boot("bbbbbbbb", 6)
		held := machine.ask(d.ID, "22").mounted()
		machine.beat(held)

		r.later(5 * time.Second)
		second := copied.ask(d.ID, "22")
		eq(t, "status of the copy", second.Status, api.KeyPending)
		if !strings.Contains(second.Reason, "Another boot of this machine (aaaaaaaa)") {
			t.Errorf("reason %q", second.Reason)
		}
		held.is(api.KeyDelivered)

		r.later(20 * time.Second)
		res := machine.beat(held)
		if len(res.Leases) != 1 || len(res.Commands) != 0 {
			t.Errorf("the machine lost its key: %+v", res)
		}
		if why := o.suspicion(m.id); !strings.Contains(why, "boot bbbbbbbb (start 6) and boot aaaaaaaa (start 5) are both alive") {
			t.Errorf("suspicion %q", why)
		}
		r.later(time.Second)
		if reason := second.is(api.KeyPending).Reason; !strings.Contains(reason, "both alive") {
			t.Errorf("reason %q", reason)
		}
		if len(o.events("instance.clone-suspected")) != 1 {
			t.Error("the log does not have the suspicion")
		}
		// Approving it does not take the key from where it is in use.
		_, err := o.approver.Approve(ctx, second.ID, api.Decision{})
		wantProblem(t, err, 409, "device-in-use")

		// Whatever asks in this name waits, until a person clears it.
		eq(t, "status under suspicion", machine.boot("cccccccc", 7).ask(d.ID, "22").Status, api.KeyPending)
		wantProblem(t, o.admin.Do(ctx, "POST", "/api/v1/instances/"+m.id+"/clear-suspicion", api.Clearance{Reason: " "}, nil), 422, "invalid")
		if err := o.approver.Do(ctx, "POST", "/api/v1/instances/"+m.id+"/clear-suspicion", api.Clearance{Reason: "the copy was deleted"}, nil); err != nil {
			t.Fatal(err)
		}
		eq(t, "suspicion", o.suspicion(m.id), "")
		if len(o.events("instance.clone-cleared")) != 1 {
			t.Error("the log does not have the clearance")
		}
		held.report(api.EventUnmounted)
		last := machine.boot("dddddddd", 8)
		eq(t, "status afterwards", last.ask(d.ID, "22").Status, api.KeyApproved)
	})
}

// A machine that crashed and started again within its lease needs no person: its former boot falls silent.
func TestClone_aRebootWithinTheLeaseWaitsForSilenceOnly(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		m := o.machine("db1")
		d, _ := m.encrypted("data")
		p := noPort80("web")
		p.OnMatch = api.ActionManual
		o.policy(p, d)
		before := m.boot("aaaaaaaa", 1)
		held := before.ask(d.ID, "22").mounted()
		before.beat(held)

		after := m.boot("bbbbbbbb", 2)
		r.later(5 * time.Second)
		second := after.ask(d.ID, "22")
		eq(t, "status at once", second.Status, api.KeyPending)
		for range 6 {
			r.later(5 * time.Second)
			after.beat()
		}
		second.is(api.KeyApproved)
		held.is(api.KeyExpired)
		second.collect()
		eq(t, "suspicion", o.suspicion(m.id), "")
		if len(o.events("key-request.approved-within-lease")) != 1 {
			t.Error("the log does not say why nobody was asked")
		}
		// An agent that is started again within one boot holds no key, so nothing has to be waited for.
		restarted := m.boot("bbbbbbbb", 3)
		restarted.run.ID = "run-other"
		eq(t, "status after a crash of the agent", restarted.ask(d.ID, "22").Status, api.KeyApproved)
	})
}

// A machine that was put back to an older snapshot of its disk counts starts that were counted before.
func TestClone_anOlderCopyOfTheDiskWaitsForAPerson(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		m := o.machine("db1")
		d, _ := m.encrypted("data")
		o.policy(noPort80("web"), d)
		m.boot("aaaaaaaa", 9).ask(d.ID, "22").mounted().report(api.EventUnmounted)
		old := m.boot("bbbbbbbb", 6)
		a := old.ask(d.ID, "22")
		eq(t, "status", a.Status, api.KeyPending)
		if !strings.Contains(a.Reason, "start 6 of its agent") || !strings.Contains(a.Reason, "start 9 was seen before") {
			t.Errorf("reason %q", a.Reason)
		}
		// What was approved before the suspicion is not handed out under it; a person's approval after it is.
		a.approve().collect()
	})
}

func TestClone_anApprovalFromBeforeTheSuspicionIsNotDelivered(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		m := o.machine("db1")
		d, _ := m.encrypted("data")
		o.policy(noPort80("web"), d)
		first, second := m.boot("aaaaaaaa", 1), m.boot("bbbbbbbb", 2)
		first.beat()
		a := second.ask(d.ID, "22")
		eq(t, "status", a.Status, api.KeyApproved)
		r.later(20 * time.Second)
		first.beat()
		_, err := m.Delivery(ctx, a.ID, api.DeliveryRequest{PublicKey: a.private.PublicKey()})
		wantProblem(t, err, 409, "machine-suspected")
		// Enrolling anew gives the identity to one machine, whose keys wait for a person once.
		n := o.machine("db1")
		eq(t, "suspicion after a new enrolment", o.suspicion(n.id), "")
		n.publish(disk("data"))
		eq(t, "status after a new enrolment", n.boot("cccccccc", 1).ask(d.ID, "22").Status, api.KeyPending)
	})
}

func TestClone_callsOfTheFormerRunThatWereOnTheirWayAreNoClone(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		m := o.machine("db1")
		before, after := m.boot("aaaaaaaa", 1), m.boot("aaaaaaaa", 2)
		after.run.ID = "run-2"
		before.beat()
		after.beat()
		r.later(5 * time.Second)
		before.beat()
		eq(t, "suspicion", o.suspicion(m.id), "")
		in := api.Heartbeat{Evidence: m.evidence(""), Held: []api.HeldKey{}, Time: r.now(), Run: &api.Run{ID: strings.Repeat("x", 65)}}
		_, err := m.Heartbeat(t.Context(), in)
		wantProblem(t, err, 422, "invalid")
	})
}
