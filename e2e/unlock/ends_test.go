package unlock

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// A volume whose header is damaged is not opened: the request ends as Failure and says why, nothing is written, and once
// the header is back a new request opens it.
func TestFailure_damagedHeaderEndsTheRequest(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		r := m.request(d.ID, api.KeyPending)
		disk, err := os.OpenFile(m.disks[0], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer disk.Close()
		header := make([]byte, 16*mib)
		_, err = disk.ReadAt(header, 0)
		if err == nil {
			_, err = disk.WriteAt(make([]byte, len(header)), 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Approve(t.Context(), r.RequestID, api.Decision{Reason: "known machine"}); err != nil {
			t.Fatal(err)
		}
		r = m.requestBecomes(r.RequestID, api.KeyFailure)
		if !went(r, "failed", api.KeyFailure) || !strings.Contains(r.Reason, "header") {
			t.Errorf("the request failed for %q", r.Reason)
		}
		if n := m.notices("key-request-failed"); n != 1 {
			t.Errorf("%d notices, want 1", n)
		}
		m.becomes(d.ID, api.DeviceEncrypted)
		if lab.Mounted(m.mountPoint(0)) {
			t.Error("a volume without a header is mounted")
		}

		if _, err := disk.WriteAt(header, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Run(t.Context(), "request", d.ID); err != nil {
			t.Fatal(err)
		}
		m.approve(0, d.ID)
	})
}

// A machine falls silent. What it asked for ends; what a person revokes from it stays Revoking until the lease has ended,
// on the machine too; it leaves Running Instances, and is back when it is heard again.
func TestSilence_endsWhatWaitsAndTakesWhatIsHeld(t *testing.T) {
	eachWired(t, func(t *testing.T, s *site, wire *lab.Wire) {
		m := newAccount(t, s).machineOn(wire, 2)
		p := auto()
		p.LeaseSeconds, p.HeartbeatSeconds, p.MissingAfterSeconds = 30, 1, 15
		m.policy(m.device(0), p)
		held := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		keep(t, m.mountPoint(0)+"/file")
		waiting := m.encrypt(1, api.DeviceWrite{})
		asked, given := m.request(waiting.ID, api.KeyPending), m.request(held.ID, api.KeyDelivered)

		if err := wire.Cut(); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Revoke(t.Context(), given.RequestID, api.Decision{Reason: "nobody answers"}); err != nil {
			t.Fatal(err)
		}
		m.requestBecomes(given.RequestID, api.KeyRevoking) // and stays so: nobody confirms
		if r := m.requestBecomes(asked.RequestID, api.KeyExpired); !went(r, "instance-missing", api.KeyExpired) {
			t.Errorf("the waiting request went %+v", r.History)
		}
		if r := m.requestBecomes(given.RequestID, api.KeyRevoked); !went(r, "lease-ended", api.KeyRevoked) {
			t.Errorf("the revoked request went %+v", r.History)
		}
		m.unmounted(0) // by the machine's own clock
		m.becomes(held.ID, api.DeviceEncrypted)
		if !m.instances()[0].Missing || m.notices("instance-missing") != 1 {
			t.Errorf("the machine is %+v, with %d notices", m.instances()[0], m.notices("instance-missing"))
		}
		if list, err := m.RunningInstances(t.Context(), nil); err != nil || len(list.Rows) != 0 {
			t.Errorf("Running Instances has %+v, %v", list.Rows, err)
		}

		if err := wire.Mend(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, func() error {
			if m.instances()[0].Missing {
				return errors.New("the machine is still missing")
			}
			return nil
		})
		if again := m.request(waiting.ID, api.KeyPending); again.RequestID == asked.RequestID {
			t.Error("the expired request waits again")
		}
		m.approve(0, held.ID) // by a person, who had taken it
		kept(t, m.mountPoint(0)+"/file")
	})
}

// The agent dies while its key is being revoked. The one that follows has no key: it confirms the revocation before anything else
// is decided, so its new request never replaces one that is being revoked, and waits for the person who took the key.
func TestRevoke_confirmedByTheAgentThatFollows(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		p := auto()
		p.LeaseSeconds, p.HeartbeatSeconds = 600, 2 // the lease does not end it
		m.policy(m.device(0), p)
		d := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		keep(t, m.mountPoint(0)+"/file")
		r := m.request(d.ID, api.KeyDelivered)
		if err := m.Freeze(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Thaw() })
		if _, err := m.Revoke(t.Context(), r.RequestID, api.Decision{Reason: "it hangs"}); err != nil {
			t.Fatal(err)
		}
		m.requestBecomes(r.RequestID, api.KeyRevoking)
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		if again := m.request(d.ID, api.KeyPending); again.RequestID == r.RequestID || again.Integrity != api.IntegrityGood {
			t.Errorf("the next request is %+v", again.RunningInstance)
		}
		// It was Revoked until the next one came, which may have been at once.
		r, err := m.KeyRequest(t.Context(), r.RequestID)
		if err != nil {
			t.Fatal(err)
		}
		if !went(r, "agent-revoked", api.KeyRevoked) || !went(r, "superseded", api.KeyExpired) {
			t.Errorf("the revoked request went %+v", r.History)
		}
		m.approve(0, d.ID)
		kept(t, m.mountPoint(0)+"/file")
	})
}

// What nobody decides ends after the policy's time and is asked anew; a taken key whose machine does not comply again
// within the period ends too, and then a new request is judged.
func TestExpiry_ofWaitingAndOfTakenKeys(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		door := newDoor(t)
		m := newAccount(t, s).machine(2, "")
		if err := m.Do(t.Context(), http.MethodPut, "/api/v1/integrity-settings", api.CheckSettings{RetrySeconds: 2}, nil); err != nil {
			t.Fatal(err)
		}
		p := door.closed("web")
		p.CheckEveryHeartbeat, p.RevokeMode = true, api.RevokeUnmount
		taken := m.under(p)
		p = auto()
		p.OnMatch, p.RequestSeconds = api.ActionManual, 60
		m.policy(m.device(1), p)
		waiting := m.encrypt(1, api.DeviceWrite{})
		first := m.request(waiting.ID, api.KeyPending)
		if first.ExpiresAt == nil {
			t.Fatal("the waiting request does not say when it ends")
		}

		given := m.request(taken.ID, api.KeyDelivered)
		door.open()
		r := m.requestBecomes(given.RequestID, api.KeyExpired)
		if !went(r, "check-failed", api.KeyRevoking) || !went(r, "period-over", api.KeyExpired) {
			t.Errorf("the taken request went %+v", r.History)
		}
		m.unmounted(0)
		door.close()
		if _, err := m.Run(t.Context(), "request", taken.ID); err != nil {
			t.Fatal(err)
		}
		m.mounted(0)

		if r = m.requestBecomes(first.RequestID, api.KeyExpired); !went(r, "expired", api.KeyExpired) {
			t.Errorf("the waiting request went %+v", r.History)
		}
		within(t, patience, func() error {
			r, err := m.newest(t.Context(), waiting.ID)
			if err == nil && (r.RequestID == first.RequestID || r.Status != api.KeyPending) {
				err = fmt.Errorf("request %d is %s", r.Number, r.Status)
			}
			return err
		})
		m.approve(1, waiting.ID)
	})
}
