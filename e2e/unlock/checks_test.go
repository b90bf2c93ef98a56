package unlock

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
	"keyward/nbdcrypt/keymem/memsearch"
)

// door is a port of this machine that a test opens and closes.
type door struct {
	t        *testing.T
	address  string
	listener net.Listener
}

func newDoor(t *testing.T) *door {
	t.Helper()
	address, err := lab.FreeAddress("")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{t: t, address: address}
	t.Cleanup(d.close)
	return d
}

func (d *door) port() string {
	_, port, _ := net.SplitHostPort(d.address)
	return port
}

func (d *door) open() {
	d.t.Helper()
	var err error
	if d.listener, err = net.Listen("tcp", d.address); err != nil {
		d.t.Fatal(err)
	}
}

func (d *door) close() {
	if d.listener != nil {
		d.listener.Close()
		d.listener = nil
	}
}

// closed is a policy that gives keys by itself while the door is closed, and looks again.
func (d *door) closed(name string) api.Policy {
	return api.Policy{Name: name, OnMatch: api.ActionApprove, OnFailure: api.ActionManual, CheckEnabled: true, OnCheckFailure: api.CheckRevoke,
		LeaseSeconds: 120, HeartbeatSeconds: 1, MissingAfterSeconds: 600, Rules: []api.Rule{{Fact: api.FactTCPPorts, Match: api.MatchAll,
			Conditions: []api.Condition{{Operator: api.OpLacks, Value: d.port()}}}}}
}

// under encrypts disk 0 under a policy, whatever its revoke mode, and waits for the mount.
func (m *machine) under(p api.Policy) api.Device {
	m.t.Helper()
	d := m.device(0)
	p.ImageIDs, p.DeviceIDs = []string{d.ImageID}, []string{d.ID}
	if _, err := m.CreatePolicy(m.t.Context(), p); err != nil {
		m.t.Fatal(err)
	}
	d = m.encrypt(0, api.DeviceWrite{})
	m.mounted(0)
	m.request(d.ID, api.KeyDelivered)
	return d
}

func (m *machine) state(want string) {
	m.t.Helper()
	if err := m.AwaitState(m.t.Context(), want, 2*patience); err != nil {
		m.t.Fatal(err)
	}
}

// writing starts to write a file, as a program does that knows nothing of keys.
func writing(path string) <-chan error {
	done := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(path)
			err = errors.Join(err, f.Sync(), f.Close())
		}
		done <- err
	}()
	return done
}

func waits(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		t.Errorf("a write to a suspended volume ended (%v) instead of waiting", err)
	case <-time.After(500 * time.Millisecond):
	}
}

func goesOn(t *testing.T, done <-chan error) {
	t.Helper()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("the write that waited: %v", err)
		}
	case <-time.After(patience):
		t.Error("the write still waits")
	}
}

// keyless fails when the agent's memory holds the device's key, or either half of it.
func (m *machine) keyless(key []byte) {
	m.t.Helper()
	for _, part := range [][]byte{key, key[:len(key)/2], key[len(key)/2:]} {
		found, err := memsearch.Search(m.PID(), memsearch.NewPattern(part))
		if err != nil {
			m.t.Fatal(err)
		}
		if len(found) > 0 {
			m.t.Errorf("the agent's memory holds the key: %v", found)
		}
	}
}

func (a *account) notices(kind string) (found int) {
	a.t.Helper()
	var list api.NoticeList
	if err := a.Do(a.t.Context(), http.MethodGet, "/api/v1/notices", nil, &list); err != nil {
		a.t.Fatal(err)
	}
	for _, n := range list.Notices {
		if n.Kind == kind {
			found++
		}
	}
	return found
}

// A port is opened on the machine after delivery: the next heartbeat takes the key, programs wait, and go on when the port
// is closed again.
func TestCheck_openedPortSuspendsAndClosedPortResumes(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		door := newDoor(t)
		m := newAccount(t, s).machine(1, "")
		p := door.closed("web")
		p.CheckEveryHeartbeat = true // without a revoke mode: a policy whose checks take keys suspends
		d := m.under(p)
		keep(t, m.mountPoint(0)+"/file")
		first := m.request(d.ID, api.KeyDelivered)
		key, _ := m.exported(d.ID)

		door.open()
		r := m.request(d.ID, api.KeyRevoked)
		if r.RequestID != first.RequestID || r.Integrity != api.IntegrityFailed || r.RetryUntil == nil || r.RevokeMode != api.RevokeSuspend {
			t.Errorf("revoked by the check: %+v", r)
		}
		if !slices.ContainsFunc(r.History, func(h api.KeyRequestEvent) bool {
			return h.To == api.KeyRevoking && strings.Contains(h.Reason, "does not contain "+door.port())
		}) {
			t.Errorf("the history does not name the offending condition: %+v", r.History)
		}
		m.state("suspended")
		if !lab.Mounted(m.mountPoint(0)) {
			t.Error("the mount went, and should wait")
		}
		m.keyless(key)
		if n := m.notices("integrity-failed"); n != 1 {
			t.Errorf("%d notices, want 1", n)
		}
		write := writing(m.mountPoint(0) + "/during")
		waits(t, write)

		door.close()
		again := m.request(d.ID, api.KeyDelivered)
		if again.RequestID != first.RequestID || again.Integrity != api.IntegrityGood {
			t.Errorf("given again: %+v", again)
		}
		goesOn(t, write)
		m.state("mounted")
		kept(t, m.mountPoint(0)+"/file")
		kept(t, m.mountPoint(0)+"/during")
	})
}

// After the grace the volume is unmounted, and mounted again by itself when the machine complies; in the grace the machine
// warns, and a person may let the failure be.
func TestCheck_graceThenUnmountedAndBack(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		door := newDoor(t)
		m := newAccount(t, s).machine(1, "")
		p := door.closed("web")
		p.CheckEveryHeartbeat, p.RevokeMode, p.PostponeSeconds = true, api.RevokeUnmount, 15
		d := m.under(p)
		keep(t, m.mountPoint(0)+"/file")

		door.open()
		r := m.request(d.ID, api.KeyRevokePending)
		if r.RevokeDueAt == nil {
			t.Error("no due time")
		}
		within(t, patience, func() error {
			out, err := m.Run(t.Context(), "status")
			if err == nil && (!strings.Contains(out, "Key taken") || !strings.Contains(out, "Revoke_Pending")) {
				err = fmt.Errorf("the machine does not warn: %s", out)
			}
			return err
		})
		if !lab.Mounted(m.mountPoint(0)) {
			t.Error("taken before the grace was over")
		}
		m.request(d.ID, api.KeyRevoked)
		m.unmounted(0)
		door.close()
		m.mounted(0)
		m.request(d.ID, api.KeyDelivered)
		kept(t, m.mountPoint(0)+"/file")

		door.open()
		r = m.request(d.ID, api.KeyRevokePending)
		if err := m.Do(t.Context(), http.MethodPost, "/api/v1/key-requests/"+r.RequestID+"/ignore", api.Decision{Reason: "wanted"}, nil); err != nil {
			t.Fatal(err)
		}
		m.request(d.ID, api.KeyRevokeIgnored)
		door.close()
		m.request(d.ID, api.KeyDelivered)
		if !lab.Mounted(m.mountPoint(0)) {
			t.Error("an ignored failure took the volume")
		}
	})
}

// Without a check with every heartbeat nothing happens until somebody asks, on the broker or on the machine.
func TestCheck_onDemand(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		door := newDoor(t)
		m := newAccount(t, s).machine(1, "")
		d := m.under(door.closed("web"))
		before := m.request(d.ID, api.KeyDelivered)
		if out, err := m.Run(t.Context(), "check"); err != nil || !strings.Contains(out, "integrity Good") {
			t.Errorf("check: %v: %s", err, out)
		}
		door.open()
		time.Sleep(3 * time.Second)
		if r := m.request(d.ID, api.KeyDelivered); r.Integrity != api.IntegrityGood || !r.CheckedAt.After(*before.CheckedAt) {
			t.Errorf("judged without being asked: %s, checked %v", r.Integrity, r.CheckedAt)
		}
		var asked api.CheckAsked
		if err := m.Do(t.Context(), http.MethodPost, "/api/v1/devices/"+d.ID+"/check", nil, &asked); err != nil || asked.Requests != 1 {
			t.Fatalf("check now: %+v, %v", asked, err)
		}
		m.request(d.ID, api.KeyRevoked)
		m.state("suspended")
		door.close()
		m.request(d.ID, api.KeyDelivered)
		m.state("mounted")
	})
}

// The cable is pulled out of a running machine: within its lease the key is out of memory and programs wait; the broker counts
// it as gone and tells people. The cable is back: the machine asks, the policy decides, programs go on.
func TestLease_endsWhenTheCableIsCut(t *testing.T) {
	eachWired(t, func(t *testing.T, s *site, wire *lab.Wire) {
		m := newAccount(t, s).machineOn(wire, 1)
		p := auto()
		p.LeaseSeconds, p.HeartbeatSeconds, p.RevokeMode = 20, 1, api.RevokeSuspend
		d := m.under(p)
		first := m.request(d.ID, api.KeyDelivered)
		keep(t, m.mountPoint(0)+"/file")
		key, _ := m.exported(d.ID)

		if err := wire.Cut(); err != nil {
			t.Fatal(err)
		}
		cut := time.Now()
		m.state("suspended")
		t.Logf("suspended %s after the cut, with a lease of 20 s", time.Since(cut).Round(100*time.Millisecond))
		m.keyless(key)
		if !lab.Mounted(m.mountPoint(0)) {
			t.Error("the mount went, and should wait")
		}
		write := writing(m.mountPoint(0) + "/during")
		waits(t, write)
		m.requestBecomes(first.RequestID, api.KeyRevoked)
		if n := m.notices("lease-ended"); n != 1 {
			t.Errorf("%d notices, want 1", n)
		}

		if err := wire.Mend(); err != nil {
			t.Fatal(err)
		}
		m.state("mounted")
		goesOn(t, write)
		kept(t, m.mountPoint(0)+"/during")
		if again := m.request(d.ID, api.KeyDelivered); again.RequestID == first.RequestID {
			t.Error("the key came back by the request whose lease had ended")
		}
	})
}
