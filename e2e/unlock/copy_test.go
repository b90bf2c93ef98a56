package unlock

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// instanceID is what the running agent is known by.
func (m *machine) instanceID() string {
	m.t.Helper()
	status, err := m.Status(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return status.InstanceID
}

// copied is an agent on a copy of this one's files, which starts as another boot: the machine's disk was copied, and the
// copy is switched on beside it. Both reach the same volumes.
func (m *machine) copied() *machine {
	m.t.Helper()
	dir := tempDir(m.t)
	from, to := m.Dir, filepath.Join(dir, "a")
	if err := os.Mkdir(to, 0o700); err != nil {
		m.t.Fatal(err)
	}
	tool(m.t, "cp", "-a", filepath.Join(from, "state"), filepath.Join(to, "state"))
	text, err := os.ReadFile(filepath.Join(from, "agent.yaml"))
	if err != nil {
		m.t.Fatal(err)
	}
	write(m.t, filepath.Join(to, "agent.yaml"), []byte(strings.ReplaceAll(string(text), from+"/", to+"/")))
	agent := m.At(to)
	if err = lab.OtherBoot(&agent.Process, filepath.Join(dir, "boot_id"), home); err == nil {
		err = agent.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	c := &machine{account: m.account, Agent: agent, dir: dir, disks: m.disks}
	m.t.Cleanup(c.clean)
	return c
}

// A machine's disk is copied and the copy started while the machine runs. The copy gets no key, the machine keeps its own,
// and people are told. Not before a person has cleared the one that is left does the policy give it the key again.
func TestCopy_ofALiveMachineWaitsForAPerson(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		ctx := t.Context()
		m := newAccount(t, s).machine(1, "")
		p := auto()
		p.LeaseSeconds, p.HeartbeatSeconds = 120, 10
		m.policy(m.device(0), p)
		d := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		keep(t, m.mountPoint(0)+"/file")
		first := m.request(d.ID, api.KeyDelivered)

		c := m.copied()
		second := m.request(d.ID, api.KeyPending)
		if !strings.Contains(second.Reason, "Another boot of this machine") {
			t.Errorf("the copy waits because: %s", second.Reason)
		}
		suspicion := func() string { return m.instances()[0].Suspicion }
		within(t, patience, func() error {
			if why := suspicion(); !strings.Contains(why, "are both alive") {
				return fmt.Errorf("the suspicion is %q", why)
			}
			return nil
		})
		_, err := m.Approve(ctx, second.RequestID, api.Decision{Reason: "try"})
		refusedAs(t, "the copy is given what the machine holds", err, "device-in-use")
		if lab.MountedFor(c.PID(), m.mountPoint(0)) || !lab.Mounted(m.mountPoint(0)) {
			t.Error("the volume is not where it was")
		}
		m.requestBecomes(first.RequestID, api.KeyDelivered)

		// The machine is switched off. The policy would approve the copy, and does not while the suspicion stands.
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		m.becomes(d.ID, api.DeviceEncrypted)
		if _, err := c.Run(ctx, "request", d.ID); err != nil {
			t.Fatal(err)
		}
		second = m.request(d.ID, api.KeyPending)
		clear := "/api/v1/instances/" + second.InstanceID + "/clear-suspicion"
		if err := m.logOn(m.setup.Approver).Do(ctx, http.MethodPost, clear, api.Clearance{Reason: "the first was switched off"}, nil); err != nil {
			t.Fatal(err)
		}
		if why := suspicion(); why != "" {
			t.Errorf("cleared, and still under suspicion: %s", why)
		}
		if _, err := m.Approve(ctx, second.RequestID, api.Decision{Reason: "it takes over"}); err != nil {
			t.Fatal(err)
		}
		open := func() error {
			if !lab.MountedFor(c.PID(), m.mountPoint(0)) {
				return errors.New("the copy has not mounted the volume")
			}
			return nil
		}
		within(t, patience, open)
		seen := filepath.Join("/proc", fmt.Sprint(c.PID()), "root", m.mountPoint(0), "file")
		if got, err := os.ReadFile(seen); err != nil || string(got) != m.mountPoint(0)+"/file" {
			t.Errorf("the copy reads %q, %v", got, err)
		}
		c.lock(d)
		if _, err := c.Run(ctx, "request", d.ID); err != nil { // and from now on the policy decides
			t.Fatal(err)
		}
		within(t, patience, open)
		if r := m.request(d.ID, api.KeyDelivered); r.DecidedBy != "" {
			t.Errorf("decided by %q", r.DecidedBy)
		}
		for category, event := range map[string]string{"agent": "instance.clone-suspected", "user": "instance.clone-cleared"} {
			if n := m.logged(category, event); n != 1 {
				t.Errorf("the log has %d %s, want 1", n, event)
			}
		}
	})
}
