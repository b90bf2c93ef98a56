package unlock

import (
	"debug/elf"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// A broker that dies and comes back knows its people, its machines and what they hold; volumes stay mounted all the while.
func TestBrokerRestart_keepsSessionsAndLeases(t *testing.T) {
	eachOwn(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		p := auto()
		p.LeaseSeconds, p.HeartbeatSeconds = 60, 1
		m.policy(m.device(0), p)
		d := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		before := m.request(d.ID, api.KeyDelivered)
		pid := s.broker.PID()
		if err := s.broker.Kill(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, func() error {
			if s.broker.PID() == pid {
				return fmt.Errorf("the killed broker has not been started again")
			}
			return s.broker.AwaitReady(t.Context())
		})
		// The same session, the same request, and its lease goes on.
		within(t, patience, func() error {
			r, err := m.KeyRequest(t.Context(), before.RequestID)
			if err != nil {
				return err
			}
			if r.Status != api.KeyDelivered {
				return fmt.Errorf("request %d is %s", r.Number, r.Status)
			}
			if r.LeaseExpiresAt == nil || !r.LeaseExpiresAt.After(*before.LeaseExpiresAt) {
				return fmt.Errorf("the lease has not been renewed: it ends %v", r.LeaseExpiresAt)
			}
			return nil
		})
		if !lab.Mounted(m.mountPoint(0)) {
			t.Error("the volume is gone")
		}
		if r, err := m.newest(t.Context(), d.ID); err != nil || r.RequestID != before.RequestID {
			t.Errorf("the machine asked again: request %d, %v", r.Number, err)
		}
	})
}

// Cut off from its broker, the agent gives the key up by itself when the lease ends; the broker, back again, says so.
func TestLease_endsWithoutContact(t *testing.T) {
	eachOwn(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		m.policy(m.device(0), api.Policy{Name: "short", OnMatch: api.ActionManual, OnFailure: api.ActionManual, LeaseSeconds: 10, HeartbeatSeconds: 1})
		d := m.encrypt(0, api.DeviceWrite{})
		r := m.approve(0, d.ID)
		keep(t, m.mountPoint(0)+"/file")
		if err := s.broker.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		if !lab.Mounted(m.mountPoint(0)) {
			t.Error("the volume went before the lease ended")
		}
		m.unmounted(0)
		if err := s.broker.Start(); err != nil {
			t.Fatal(err)
		}
		if err := s.broker.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		within(t, patience, func() error {
			r, err := m.KeyRequest(t.Context(), r.RequestID)
			if err == nil && !slices.ContainsFunc(r.History, func(h api.KeyRequestEvent) bool { return h.To == api.KeyRevoked }) {
				err = fmt.Errorf("request %d is %s and never was Revoked", r.Number, r.Status)
			}
			return err
		})
		// It asks again by itself, and a person decides again.
		m.approve(0, d.ID)
		kept(t, m.mountPoint(0)+"/file")
	})
}

// What a volume costs while nothing happens, and how long a person waits after "Approve". The demonstration holds the
// tight bound on time; here other tests run beside.
func TestCost_approvalToMountAndIdleMemory(t *testing.T) {
	eachOwn(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		for _, who := range []string{"the agent that encrypted", "an agent that has opened nothing yet"} {
			r := m.request(d.ID, api.KeyPending)
			started := time.Now()
			if _, err := m.Approve(t.Context(), r.RequestID, api.Decision{}); err != nil {
				t.Fatal(err)
			}
			m.mounted(0)
			took := time.Since(started)
			t.Logf("%s: from approval to mounted in %s", who, took.Round(time.Millisecond))
			if took > 5*time.Second {
				t.Errorf("%s: from approval to mounted took %s", who, took)
			}
			if who == "the agent that encrypted" {
				if err := m.Stop(40 * time.Second); err != nil {
					t.Fatal(err)
				}
				if err := m.Start(); err != nil {
					t.Fatal(err)
				}
			}
		}
		m.becomes(d.ID, api.DeviceInUse)
		for _, limit := range []struct {
			name string
			pid  int
			mib  float64
		}{{"agent", m.PID(), 40}, {"broker", s.broker.PID(), 80}} {
			// Memory of the work before is given back within moments.
			within(t, patience, func() error {
				have, err := lab.ResidentMiB(limit.pid)
				if err == nil && have >= limit.mib {
					err = fmt.Errorf("the idle %s occupies %.0f MiB, want under %.0f", limit.name, have, limit.mib)
				}
				if err == nil {
					t.Logf("idle %s: %.0f MiB", limit.name, have)
				}
				return err
			})
		}
	})
}

// What is installed on a machine is one file of a few megabytes that needs no library, interpreter or kernel module of ours.
func TestAgent_isOneSmallStaticFile(t *testing.T) {
	needs(t)
	t.Parallel()
	if err := programs(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(program("keyward-agent"))
	if err != nil || info.Size() > 30*mib {
		t.Errorf("the agent has %d bytes, want at most 30 MiB; %v", info.Size(), err)
	}
	file, err := elf.Open(program("keyward-agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	libraries, err := file.ImportedLibraries()
	if err != nil || len(libraries) > 0 {
		t.Errorf("the agent needs %v, %v", libraries, err)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the agent needs a dynamic loader")
		}
	}
}
