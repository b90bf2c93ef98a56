package unlock

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// Where the policy checks, what waits or was denied is judged again until the machine complies: then it is approved, or
// left to a person, as the policy says.
func TestCheck_waitingAndDeniedAreJudgedAgain(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		door := newDoor(t)
		m := newAccount(t, s).machine(3, "")
		door.open()
		var devices [3]api.Device
		var asked [3]api.KeyRequestDetail
		for i, c := range []struct {
			name               string
			onMatch, onFailure api.Action
			first              api.KeyStatus
		}{
			{"ask a person", api.ActionApprove, api.ActionManual, api.KeyPending},
			{"refuse", api.ActionApprove, api.ActionDeny, api.KeyDenied},
			{"refuse, else ask", api.ActionManual, api.ActionDeny, api.KeyDenied},
		} {
			p := door.closed(c.name)
			p.CheckEveryHeartbeat, p.OnMatch, p.OnFailure, p.OnCheckFailure = true, c.onMatch, c.onFailure, api.CheckNotify
			m.policy(m.device(i), p)
			devices[i] = m.encrypt(i, api.DeviceWrite{})
			if asked[i] = m.request(devices[i].ID, c.first); asked[i].Integrity != api.IntegrityBad {
				t.Errorf("%s: judged %s", c.name, asked[i].Integrity)
			}
		}
		if lab.Mounted(m.mountPoint(0)) || lab.Mounted(m.mountPoint(1)) || lab.Mounted(m.mountPoint(2)) {
			t.Error("a volume is open against its policy")
		}

		door.close()
		m.mounted(0)
		m.mounted(1)
		for i, want := range []struct {
			event string
			to    api.KeyStatus
			now   api.KeyStatus
		}{{"re-appraised", api.KeyApproved, api.KeyDelivered}, {"complies-again", api.KeyApproved, api.KeyDelivered}, {"complies-again", api.KeyPending, api.KeyPending}} {
			r := m.requestBecomes(asked[i].RequestID, want.now)
			if !went(r, want.event, want.to) || r.DecidedBy != "" || r.Integrity != api.IntegrityGood {
				t.Errorf("request %d is %s, decided by %q, and went %+v", r.Number, r.Integrity, r.DecidedBy, r.History)
			}
		}
		door.open() // what waits for a person is judged on as well
		m.requestBecomes(asked[2].RequestID, api.KeyDenied)
		door.close()
		if r := m.requestBecomes(asked[2].RequestID, api.KeyPending); !went(r, "re-appraised", api.KeyDenied) {
			t.Errorf("the third request went %+v", r.History)
		}
		m.approve(2, devices[2].ID)
	})
}

// A check that only tells people takes nothing: the key stays, rated Failed until the machine complies again.
func TestCheck_thatOnlyTellsTakesNothing(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		door := newDoor(t)
		m := newAccount(t, s).machine(1, "")
		p := door.closed("web")
		p.CheckEveryHeartbeat, p.OnCheckFailure = true, api.CheckNotify
		d := m.under(p)
		keep(t, m.mountPoint(0)+"/file")
		door.open()
		m.rated(d.ID, api.IntegrityFailed)
		door.close()
		m.rated(d.ID, api.IntegrityGood)
		if r := m.request(d.ID, api.KeyDelivered); went(r, "check-failed", api.KeyRevoking) {
			t.Errorf("the key was taken: %+v", r.History)
		}
		kept(t, m.mountPoint(0)+"/file")
		if n := m.notices("integrity-failed"); n != 1 {
			t.Errorf("%d notices, want 1", n)
		}
		for _, event := range []string{"integrity.failed", "integrity.restored"} {
			if n := m.logged("key", event); n != 1 {
				t.Errorf("the log has %d %s, want 1", n, event)
			}
		}
	})
}

// The account's schedule has every machine judged again at its time, and not before.
func TestCheck_onSchedule(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		door := newDoor(t)
		m := newAccount(t, s).machine(1, "")
		d := m.under(door.closed("web"))
		r := m.request(d.ID, api.KeyDelivered)
		door.open()
		var next api.CheckSchedule
		within(t, patience, func() error { // the minute may be over before the broker has it
			at := time.Now().UTC().Add(time.Minute)
			in := api.CheckSettings{Schedule: api.ScheduleDaily, Time: at.Format("15:04"), RetrySeconds: 600}
			if err := m.Do(t.Context(), http.MethodPut, "/api/v1/integrity-settings", in, &next); err != nil {
				return err
			}
			if next.NextAt == nil || next.NextAt.After(at) {
				return fmt.Errorf("the next check of a machine in %s is %v", next.TimeZone, next.NextAt)
			}
			return nil
		})
		within(t, 3*time.Minute, func() error {
			now, err := m.KeyRequest(t.Context(), r.RequestID)
			if err == nil && now.Status != api.KeyRevoked {
				err = fmt.Errorf("request %d is %s", now.Number, now.Status)
			}
			if r = now; time.Now().Before(*next.NextAt) && went(r, "check-failed", api.KeyRevoking) {
				t.Error("judged before its time")
			}
			return err
		})
		if n := m.logged("agent", "integrity.check-scheduled"); n != 1 || !went(r, "check-failed", api.KeyRevoking) {
			t.Errorf("%d scheduled checks, and the request went %+v", n, r.History)
		}
		m.state("suspended")
		door.close()
		m.requestBecomes(r.RequestID, api.KeyDelivered)
		m.state("mounted")
	})
}

// A machine that complies no more between its approval and the collection of the key gets none; and one that reports that it
// unmounted the volume, while its key is being revoked, has given the key up. Another program speaks for this machine.
func TestCheck_takesBackAnApprovalThatWasNotCollected(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		ctx := t.Context()
		a := newAccount(t, s)
		m := a.machine(1, "")
		p := auto()
		p.CheckEnabled, p.CheckEveryHeartbeat, p.OnCheckFailure, p.OnFailure = true, true, api.CheckRevoke, api.ActionManual
		p.LeaseSeconds, p.HeartbeatSeconds = 600, 60
		p = a.policy(m.device(0), p)
		d := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		m.lock(d)

		other := a.peer(machineInfo("other"))
		other.join(a, p.ID, d)
		beats := func(system string) {
			t.Helper()
			facts := []api.Fact{{Name: api.FactGuestOS, Values: []string{system}, Source: "test", Grade: api.GradeSelfReported, At: time.Now()}}
			in := api.Heartbeat{Evidence: api.Evidence{CollectedAt: time.Now(), Facts: facts}, Held: []api.HeldKey{}, Time: time.Now()}
			if _, err := other.Heartbeat(ctx, in); err != nil {
				t.Fatal(err)
			}
		}
		r, err := other.ask(d.ID) // on another machine than its home
		if err != nil || r.Status != api.KeyPending {
			t.Fatalf("the request: %+v, %v", r, err)
		}
		if _, err := a.AssignPolicy(ctx, r.ID, api.PolicyAssignment{PolicyID: p.ID}); err != nil { // the disk is of that machine's image now
			t.Fatal(err)
		}
		if _, err := a.Approve(ctx, r.ID, api.Decision{Reason: "it moved"}); err != nil {
			t.Fatal(err)
		}
		beats("windows")
		if now := a.requestBecomes(r.ID, api.KeyPending); !went(now, "check-failed", api.KeyPending) {
			t.Errorf("the request went %+v", now.History)
		}
		_, err = other.Delivery(ctx, r.ID, api.DeliveryRequest{PublicKey: other.private.PublicKey()})
		refusedAs(t, "the key is collected all the same", err, "not-approved")

		beats("linux") // it complies again, and a person has approved it on this machine
		a.requestBecomes(r.ID, api.KeyApproved)
		if n := other.collect(r); n == 0 {
			t.Error("the machine got no key")
		}
		if _, err := a.Revoke(ctx, r.ID, api.Decision{Reason: "enough"}); err != nil {
			t.Fatal(err)
		}
		a.requestBecomes(r.ID, api.KeyRevoking)
		if err := other.Report(ctx, r.ID, api.RequestEvent{Event: api.EventUnmounted}); err != nil {
			t.Fatal(err)
		}
		if now := a.requestBecomes(r.ID, api.KeyRevoked); !went(now, "unmounted", api.KeyRevoked) {
			t.Errorf("the request went %+v", now.History)
		}
	})
}
