package httpapi_test

import (
	"bytes"
	"context"
	"net/url"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
)

func TestAsk_aNonceCountsOnceAndForItsMachineOnly(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b, c := o.machine("db1"), o.machine("db2")
		d, _ := b.encrypted("data")
		in, _ := b.prepare(d.ID)
		if _, err := b.Request(ctx, in); err != nil {
			t.Fatal(err)
		}
		_, err := b.Request(ctx, in)
		wantProblem(t, err, 409, "nonce-refused")

		theirs := must[api.NonceResponse](t)(c.Nonce(ctx))
		in, _ = b.prepare(d.ID)
		in.Nonce, in.Evidence.Nonce = theirs.Nonce, theirs.Nonce
		_, err = b.Request(ctx, in)
		wantProblem(t, err, 409, "nonce-refused")

		in, _ = b.prepare(d.ID)
		in.Evidence.Nonce = "another"
		_, err = b.Request(ctx, in)
		wantProblem(t, err, 422, "invalid")

		in, _ = b.prepare(d.ID)
		r.later(6 * time.Minute)
		in.Time = r.now()
		_, err = b.Request(ctx, in)
		wantProblem(t, err, 409, "nonce-refused")

		in, _ = b.prepare(d.ID)
		in.Time = in.Time.Add(time.Hour)
		_, err = b.Request(ctx, in)
		wantProblem(t, err, 422, "clock-skew")

		in, _ = b.prepare(d.ID)
		in.PublicKey = in.PublicKey[:100]
		_, err = b.Request(ctx, in)
		wantProblem(t, err, 422, "invalid")
	})
}

func TestAsk_refusesADeviceThatTheMachineDidNotPublish(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b, c := o.machine("db1"), o.machine("db2")
		d, _ := b.encrypted("data")
		in, _ := c.prepare(d.ID)
		_, err := c.Request(ctx, in)
		wantProblem(t, err, 403, "not-your-device")
		unknown, _ := c.prepare("0197f1f0-0000-7000-8000-000000000000")
		_, err2 := c.Request(ctx, unknown)
		wantProblem(t, err2, 403, "not-your-device")
		if err.Error() != err2.Error() {
			t.Error("a machine can find out which devices exist")
		}
		if len(o.events("key-request.refused")) != 2 {
			t.Error("the log does not have the refusals")
		}
		// Another machine's request is not there, whatever is tried with it.
		a := b.ask(d.ID).approve()
		_, err = c.RequestStatus(ctx, a.ID, 0, 0)
		wantProblem(t, err, 404, "not-found")
		_, err = c.Delivery(ctx, a.ID, api.DeliveryRequest{PublicKey: a.private.PublicKey()})
		wantProblem(t, err, 404, "not-found")
		wantProblem(t, c.Report(ctx, a.ID, api.RequestEvent{Event: api.EventFailed}), 404, "not-found")
		a.is(api.KeyApproved)
	})
}

func TestAsk_refusesADeviceWithoutAVolume(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		b := r.org("acme").machine("db1")
		in, _ := b.prepare(b.publish(disk("data"))["data"].ID)
		_, err := b.Request(t.Context(), in)
		wantProblem(t, err, 409, "device-not-encrypted")
	})
}

func TestDelivery_happensOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		b := r.org("acme").machine("db1")
		d, _ := b.encrypted("data")
		a := b.ask(d.ID)
		body := api.DeliveryRequest{PublicKey: a.private.PublicKey()}
		_, err := b.Delivery(ctx, a.ID, body)
		wantProblem(t, err, 409, "not-approved")
		a.approve()
		other := must[*client.DeliveryKey](t)(client.NewDeliveryKey())
		_, err = b.Delivery(ctx, a.ID, api.DeliveryRequest{PublicKey: other.PublicKey()})
		wantProblem(t, err, 422, "invalid")
		a.collect()
		_, err = b.Delivery(ctx, a.ID, body)
		wantProblem(t, err, 409, "already-delivered")
	})
}

// An agent that crashes with the key asks again and needs no person, as long as nothing got worse and the lease runs.
func TestAsk_againWithinTheLeaseNeedsNoPerson(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, key := b.encrypted("data")
		p := noPort80("web")
		p.OnMatch = api.ActionManual
		o.policy(p, d)
		first := b.ask(d.ID, "22")
		eq(t, "integrity", first.Integrity, api.IntegrityGood)
		first.mounted()

		second := b.ask(d.ID, "22", "443")
		eq(t, "status after a crash", second.Status, api.KeyApproved)
		first.is(api.KeyExpired)
		if !bytes.Equal(second.collect(), key) {
			t.Fatal("another key")
		}
		if len(o.events("key-request.approved-within-lease")) != 1 {
			t.Error("the log does not say why nobody was asked")
		}
		second.report(api.EventMounted)

		worse := b.ask(d.ID, "22", "80")
		eq(t, "status with worse evidence", worse.Status, api.KeyPending)
		eq(t, "integrity", worse.Integrity, api.IntegrityBad)
		worse.mounted()

		// What failed when a person approved it may fail again, and nothing else.
		same := b.ask(d.ID, "80")
		eq(t, "status with the same failure", same.Status, api.KeyApproved)
		same.collect()
		same.report(api.EventMounted)

		r.later(61 * time.Second)
		eq(t, "status after the lease", b.ask(d.ID, "22").Status, api.KeyPending)
	})
}

func TestAsk_againBeforeDeliverySupersedesAndCarriesNoApproval(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		first := b.ask(d.ID).approve()
		second := b.ask(d.ID)
		eq(t, "status", second.Status, api.KeyPending)
		first.is(api.KeyExpired)
		_, err := b.Delivery(t.Context(), first.ID, api.DeliveryRequest{PublicKey: first.private.PublicKey()})
		wantProblem(t, err, 409, "not-approved")
		if rows := o.running(); rows.Total != 1 || rows.Rows[0].RequestID != second.ID {
			t.Fatalf("running instances %+v", rows)
		}
	})
}

func TestAsk_whileRevokingIsRefusedUntilTheMachineConfirms(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		a := b.ask(d.ID).mounted()
		if _, err := o.admin.Revoke(ctx, a.ID, api.Decision{}); err != nil {
			t.Fatal(err)
		}
		in, _ := b.prepare(d.ID)
		_, err := b.Request(ctx, in)
		wantProblem(t, err, 409, "revoke-in-progress")
		a.report(api.EventRevoked)
		b.ask(d.ID)
	})
}

// A person's denial or revocation stands above a policy that approves, across any number of new requests.
func TestAsk_afterAPersonsRevocationOnlyAPersonApproves(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		o.policy(noPort80("web"), d)
		a := b.ask(d.ID, "22")
		eq(t, "status by policy", a.Status, api.KeyApproved)
		a.collect()
		a.report(api.EventMounted)
		if _, err := o.approver.Revoke(ctx, a.ID, api.Decision{Reason: "suspicious"}); err != nil {
			t.Fatal(err)
		}
		a.report(api.EventRevoked)
		for range 3 {
			eq(t, "status", b.ask(d.ID, "22").Status, api.KeyPending)
		}
		b.ask(d.ID, "22").approve().collect()
		eq(t, "status after a person approved again", b.ask(d.ID, "22").Status, api.KeyApproved)
	})
}

func TestPolicy_decidesByItsActions(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		p := noPort80("web")
		p.OnFailure = api.ActionDeny
		p = o.policy(p, d)
		eq(t, "good evidence", b.ask(d.ID, "22").Status, api.KeyApproved)
		denied := b.ask(d.ID, "80")
		eq(t, "bad evidence", denied.Status, api.KeyDenied)
		detail := denied.is(api.KeyDenied)
		if len(detail.Verdict.Findings) < 4 || detail.Verdict.Findings[0].Status != api.RuleFailed || detail.Verdict.Findings[0].Actual != "80" {
			t.Fatalf("findings %+v", detail.Verdict.Findings)
		}
		var observed bool
		for _, f := range detail.Verdict.Findings {
			observed = observed || f.Fact == api.FactSourceIPv4 && f.Actual == "127.0.0.1" && f.Grade == api.GradeBrokerObserved
		}
		if !observed {
			t.Error("the source address that the broker saw is not among the findings")
		}
	})
}

func TestTimer_approvesOnlyWhatMatchedEveryRule(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		p := noPort80("web")
		p.OnMatch, p.ApproveAfterSeconds = api.ActionManual, 40
		o.policy(p, d)
		good := b.ask(d.ID, "22")
		for range 3 {
			r.later(13 * time.Second)
			b.beat()
			good.is(api.KeyPending)
		}
		r.later(2 * time.Second)
		good.is(api.KeyApproved)
		bad := b.ask(d.ID, "80")
		for range 10 {
			r.later(10 * time.Second)
			b.beat()
		}
		bad.is(api.KeyPending)
	})
}

// Without contact both sides know when a key is gone; the broker waits a little longer than the agent.
func TestLease_endsWithoutContact(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		o.policy(noPort80("web"), d) // lease 60 s, heartbeat 10 s
		a := b.ask(d.ID, "22").mounted()
		r.later(55 * time.Second)
		eq(t, "renewed leases", len(b.beat(a).Leases), 1)
		r.later(65 * time.Second)
		a.is(api.KeyDelivered)
		r.later(6 * time.Second)
		a.is(api.KeyRevoked)
		o.deviceIs(d.ID, api.DeviceEncrypted)
		// The machine comes back and still holds it: it is told to give it up.
		resp := b.beat(a)
		if len(resp.Leases) != 0 || len(resp.Commands) != 1 || resp.Commands[0].Kind != api.CommandRevoke || resp.Commands[0].RequestID != a.ID {
			t.Fatalf("heartbeat %+v", resp)
		}
		a.report(api.EventSuspended)
		eq(t, "status of the next request", b.ask(d.ID, "22").Status, api.KeyApproved)
	})
}

func TestHeartbeat_strayKeysAreCalledBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, c := o.machine("db1"), o.machine("db2")
		d, _ := b.encrypted("data")
		a := b.ask(d.ID).mounted()
		in := api.Heartbeat{Evidence: c.evidence(""), Time: r.now(), Held: []api.HeldKey{
			{RequestID: a.ID, DeviceID: d.ID}, // another machine's
			{RequestID: "0197f1f0-0000-7000-8000-000000000000", DeviceID: d.ID},
		}}
		resp := must[api.HeartbeatResponse](t)(c.Heartbeat(t.Context(), in))
		if len(resp.Leases) != 0 || len(resp.Commands) != 2 {
			t.Fatalf("heartbeat %+v", resp)
		}
		a.is(api.KeyDelivered)
		in.Time = r.now().Add(time.Hour)
		_, err := c.Heartbeat(t.Context(), in)
		wantProblem(t, err, 422, "clock-skew")
	})
}

func TestInstance_thatFallsSilentLeavesAndComesBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		o.policy(noPort80("web"), d)
		pending := b.ask(d.ID, "80")
		eq(t, "rows", o.running().Total, 1)
		r.later(29 * time.Second)
		eq(t, "rows after 29 s of silence", o.running().Total, 1)
		r.later(2 * time.Second)
		eq(t, "rows after 31 s of silence", o.running().Total, 0)
		pending.is(api.KeyExpired)
		if i := must[api.Instance](t)(instance(ctx, o, b.id)); !i.Missing {
			t.Fatal("the instance is not shown as missing")
		}
		held := b.ask(d.ID, "22").mounted() // contact: it is back
		r.later(31 * time.Second)
		eq(t, "rows of a missing machine with a key", o.running().Total, 0)
		held.is(api.KeyDelivered)
		eq(t, "renewed leases", len(b.beat(held).Leases), 1)
		eq(t, "rows after the return", o.running().Total, 1)
		if len(o.events("instance.missing")) != 2 || len(o.events("instance.returned")) != 2 {
			t.Errorf("the log has %d missing and %d returned", len(o.events("instance.missing")), len(o.events("instance.returned")))
		}
	})
}

func instance(ctx context.Context, o *org, id string) (out api.Instance, err error) {
	return out, o.admin.Do(ctx, "GET", "/api/v1/instances/"+url.PathEscape(id), nil, &out)
}

// One device is never read-write on two machines.
func TestTwoMachines_oneDevice(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b, c := o.machine("db1"), o.machine("db2")
		d, _ := b.encrypted("data")
		onB := b.ask(d.ID).approve()
		// The disk shows up on the other machine, which asks before the first has collected its key.
		c.publish(disk("data"))
		if _, err := o.admin.ConfigureDevice(ctx, d.ID, api.DeviceWrite{Name: "data", Version: must[api.Device](t)(o.admin.Device(ctx, d.ID)).Version}); err != nil {
			t.Fatal(err)
		}
		onC := c.ask(d.ID)
		eq(t, "integrity of a machine of another image", onC.Integrity, api.IntegrityUnknownImgPolicy)
		b.publish(disk("data"))
		onB.collect()
		c.publish(disk("data"))
		if _, err := o.approver.Approve(ctx, onC.ID, api.Decision{}); err == nil {
			t.Fatal("a key that another machine holds was approved")
		}
		in, _ := c.prepare(d.ID)
		_, err := c.Request(ctx, in)
		wantProblem(t, err, 409, "device-in-use")
		b.publish(disk("data"))
		onB.report(api.EventUnmounted)
		c.publish(disk("data"))
		c.ask(d.ID)
		// Both machines list it ever since, so it is a shared disk and did not move again.
		if len(o.events("device.moved")) != 1 {
			t.Errorf("the log has %d moves of the device, want 1", len(o.events("device.moved")))
		}
	})
}

// A disk that moved to a machine of another image is Unknown until a person says that it belongs there now.
func TestAssignPolicy_takesADeviceThatMovedToItsNewMachine(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, c := o.machine("db1"), o.machine("db2")
		d, key := b.encrypted("data")
		b.publish()
		c.publish(disk("data"))
		a := c.ask(d.ID)
		eq(t, "integrity", a.Integrity, api.IntegrityUnknownImgPolicy)
		_, err := o.approver.Approve(t.Context(), a.ID, api.Decision{})
		wantProblem(t, err, 409, "conflict")
		got := must[api.KeyRequestDetail](t)(o.admin.AssignPolicy(t.Context(), a.ID, api.PolicyAssignment{PolicyID: d.PolicyID}))
		eq(t, "integrity", got.Integrity, api.IntegrityUnknownNoRules)
		if opened := a.approve().collect(); !bytes.Equal(opened, key) {
			t.Fatal("another key")
		}
	})
}

func TestTwoMachines_mayShareADeviceToReadFrom(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, c := o.machine("db1"), o.machine("db2")
		d, _ := b.encrypted("data")
		d = must[api.Device](t)(o.admin.ConfigureDevice(t.Context(), d.ID, api.DeviceWrite{Name: "data", Access: api.AccessReadOnly, Version: d.Version}))
		one := b.ask(d.ID).mounted()
		c.publish(disk("data"))
		two := c.ask(d.ID).mounted()
		o.deviceIs(d.ID, api.DeviceInUse)
		one.report(api.EventUnmounted)
		o.deviceIs(d.ID, api.DeviceInUse) // mounted on the other one still
		two.report(api.EventUnmounted)
		o.deviceIs(d.ID, api.DeviceEncrypted)
	})
}

func TestAssignPolicy_judgesAnUnknownRequest(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		in := noPort80("web")
		in.LeaseSeconds, in.HeartbeatSeconds, in.RevokeMode = 60, 10, api.RevokeSuspend
		p := must[api.Policy](t)(o.admin.CreatePolicy(ctx, in))
		a := b.ask(d.ID, "80")
		eq(t, "integrity", a.Integrity, api.IntegrityUnknownNoRules)
		got := must[api.KeyRequestDetail](t)(o.admin.AssignPolicy(ctx, a.ID, api.PolicyAssignment{PolicyID: p.ID}))
		eq(t, "integrity by the policy", got.Integrity, api.IntegrityBad)
		eq(t, "policy", got.PolicyName, "web")
		a.is(api.KeyPending)
		p = must[api.Policy](t)(o.admin.Policy(ctx, p.ID))
		if len(p.DeviceIDs) != 1 || len(p.ImageIDs) != 1 {
			t.Fatalf("members %+v", p)
		}
		_, err := o.admin.AssignPolicy(ctx, a.ID, api.PolicyAssignment{PolicyID: p.ID})
		wantProblem(t, err, 409, "conflict")
		_, err = o.approver.AssignPolicy(ctx, a.ID, api.PolicyAssignment{PolicyID: p.ID})
		wantProblem(t, err, 403, "forbidden")
	})
}

func TestDecide_refusesWhatIsOver(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		a := b.ask(d.ID)
		detail := a.is(api.KeyPending)
		_, err := o.approver.Revoke(ctx, a.ID, api.Decision{})
		wantProblem(t, err, 409, "conflict")
		a.approve()
		_, err = o.approver.Deny(ctx, a.ID, api.Decision{Version: detail.Version})
		wantProblem(t, err, 409, "stale")
		a.collect()
		_, err = o.approver.Deny(ctx, a.ID, api.Decision{})
		wantProblem(t, err, 409, "conflict")
		_, err = o.approver.Ignore(ctx, a.ID, api.Decision{})
		wantProblem(t, err, 409, "conflict")
		// Heartbeats renew the lease without making the page stale that a person has open.
		detail = a.is(api.KeyDelivered)
		for range 3 {
			b.beat(a)
		}
		if _, err := o.approver.Revoke(ctx, a.ID, api.Decision{Version: detail.Version}); err != nil {
			t.Fatal(err)
		}
		a.report(api.EventFailed).is(api.KeyRevoking)
		a.report(api.EventRevoked).is(api.KeyRevoked)
	})
}

func TestReport_failureEndsTheRequest(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		a := b.ask(d.ID).approve()
		a.collect()
		if err := b.Report(t.Context(), a.ID, api.RequestEvent{Event: api.EventFailed, Detail: "mount: wrong fs type\nbad superblock"}); err != nil {
			t.Fatal(err)
		}
		detail := a.is(api.KeyFailure)
		eq(t, "reason", detail.Reason, "The machine could not open or mount the volume. mount: wrong fs type bad superblock")
		o.deviceIs(d.ID, api.DeviceEncrypted)
		wantProblem(t, b.Report(t.Context(), a.ID, api.RequestEvent{Event: "exploded"}), 422, "invalid")
	})
}

// Where nobody has to be waited for, the key comes with the answer, and counts as delivered like any other.
func TestAsk_theKeyComesWithTheAnswerWhereNobodyIsAsked(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, key := b.encrypted("data")
		askAtOnce := func(ports ...string) *asked {
			in, private := b.prepare(d.ID, ports...)
			in.Deliver = true
			return &asked{b, must[api.KeyRequestStatus](t)(b.Request(ctx, in)), private, in.Nonce}
		}
		waits := askAtOnce("22")
		if waits.Delivery != nil || waits.Status != api.KeyPending {
			t.Fatalf("a request that waits for a person: %s, delivery %v", waits.Status, waits.Delivery)
		}
		p := noPort80("web")
		o.policy(p, d)
		open := func(a *asked) []byte {
			t.Helper()
			if a.Delivery == nil || a.Status != api.KeyDelivered {
				t.Fatalf("status %s (%s), delivery %v", a.Status, a.Reason, a.Delivery)
			}
			return must[[]byte](t)(a.private.Open(*a.Delivery, api.DeliveryBinding{Purpose: "key-request", AccountID: o.id, RequestID: a.ID,
				DeviceID: d.ID, InstanceID: b.id, Nonce: a.nonce, LeaseSeconds: a.LeaseSeconds}))
		}
		first := askAtOnce("22")
		if !bytes.Equal(open(first), key) {
			t.Fatal("another key")
		}
		detail := first.is(api.KeyDelivered)
		if detail.LeaseExpiresAt == nil || len(o.events("key-request.delivered")) != 1 {
			t.Errorf("lease until %v, %d records of deliveries", detail.LeaseExpiresAt, len(o.events("key-request.delivered")))
		}
		_, err := b.Delivery(ctx, first.ID, api.DeliveryRequest{PublicKey: first.private.PublicKey()})
		wantProblem(t, err, 409, "already-delivered")
		first.report(api.EventMounted)
		o.deviceIs(d.ID, api.DeviceInUse)
		if again := askAtOnce("22"); !bytes.Equal(open(again), key) {
			t.Fatal("another key within the lease")
		}
		if bad := askAtOnce("80"); bad.Delivery != nil {
			t.Fatal("a machine that fails a rule got the key")
		}
	})
}
