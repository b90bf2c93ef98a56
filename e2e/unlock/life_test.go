package unlock

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// script writes an executable and returns its path.
func script(t *testing.T, dir, name, body string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// The teardown script runs while the volume is still mounted; then the volume goes, and comes back when a person approves
// again, with its files.
func TestRevoke_unmountsAndIsAskedAgain(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		notes := tempDir(t)
		down := script(t, notes, "down.sh", `grep -q " $KEYWARD_MOUNT_POINT " /proc/self/mountinfo && echo "mounted: $KEYWARD_REASON" >>`+notes+`/ran`)
		m := newAccount(t, s).machine(1, "scripts:\n  teardown: "+down+"\n")
		d := m.encrypt(0, api.DeviceWrite{})
		first := m.approve(0, d.ID)
		keep(t, m.mountPoint(0)+"/file")

		if _, err := m.Revoke(t.Context(), first.RequestID, api.Decision{Reason: "machine is to be looked at"}); err != nil {
			t.Fatal(err)
		}
		r := m.request(d.ID, api.KeyRevoked)
		if lab.Mounted(m.mountPoint(0)) {
			t.Error("Revoked, and still mounted")
		}
		if note, err := os.ReadFile(notes + "/ran"); err != nil || !strings.Contains(string(note), "mounted: ") {
			t.Errorf("the teardown script noted %q, %v", note, err)
		}
		if r.LeaseExpiresAt != nil || r.RequestID != first.RequestID {
			t.Errorf("revoked request: %+v", r)
		}
		m.becomes(d.ID, api.DeviceEncrypted)

		if _, err := m.Run(t.Context(), "request", d.ID); err != nil {
			t.Fatal(err)
		}
		again := m.approve(0, d.ID)
		if again.RequestID == first.RequestID {
			t.Error("the key came back by the revoked request")
		}
		kept(t, m.mountPoint(0)+"/file")
	})
}

// A read-only device is mounted read-only, and several machines may have its key.
func TestReadOnly_mountedReadOnlyAndShared(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		a := newAccount(t, s)
		m := a.machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{Access: api.AccessReadOnly})
		m.approve(0, d.ID)
		var fs unix.Statfs_t
		if err := unix.Statfs(m.mountPoint(0), &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 {
			t.Errorf("the mount is writable: flags %#x, %v", fs.Flags, err)
		}
		if err := os.WriteFile(m.mountPoint(0)+"/x", nil, 0o600); err == nil {
			t.Error("a file was written")
		}
		if _, err := m.Run(t.Context(), "publish"); err != nil { // so that nothing is left to publish later
			t.Fatal(err)
		}
		p := a.peer(machineInfo("reader"))
		p.attach(d)
		r, err := p.ask(d.ID)
		if err != nil {
			t.Fatalf("a second reader is refused: %v", err)
		}
		if _, err := m.Approve(t.Context(), r.ID, api.Decision{}); err != nil {
			t.Fatal(err)
		}
		if n := p.collect(r); n != 64 {
			t.Errorf("the second reader's key has %d bytes", n)
		}
		if !lab.Mounted(m.mountPoint(0)) {
			t.Error("the first reader lost its volume")
		}
	})
}

// A device that one machine may write to is in one machine's hands only.
func TestExclusive_secondMachineIsRefused(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		a := newAccount(t, s)
		m := a.machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		r := m.approve(0, d.ID)
		if _, err := m.Run(t.Context(), "publish"); err != nil {
			t.Fatal(err)
		}
		p := a.peer(machineInfo("thief"))
		p.attach(d)
		_, err := p.ask(d.ID)
		refusedAs(t, "the second machine asks", err, "device-in-use")
		if !strings.Contains(fmt.Sprint(err), r.InstanceName) {
			t.Errorf("the refusal does not name the machine %q: %v", r.InstanceName, err)
		}
		if _, err := m.Revoke(t.Context(), r.RequestID, api.Decision{}); err != nil {
			t.Fatal(err)
		}
		m.unmounted(0)
		within(t, patience, func() error { _, err := p.ask(d.ID); return err })
	})
}

// mount_complete runs once, when the last volume is mounted, and not before.
func TestScripts_completeRunsOnceAllAreMounted(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		notes := tempDir(t)
		up := script(t, notes, "up.sh", `echo "$KEYWARD_MOUNT_POINTS" >>`+notes+`/ran`)
		m := newAccount(t, s).machine(2, "scripts:\n  mount_complete: "+up+"\n")
		// Both devices are known as volumes before either is mounted.
		d0, d1 := m.encrypt(0, api.DeviceWrite{}), m.encrypt(1, api.DeviceWrite{})
		m.request(d1.ID, api.KeyPending)
		m.approve(0, d0.ID)
		if _, err := os.Stat(notes + "/ran"); err == nil {
			t.Error("mount_complete ran while a volume waited")
		}
		m.approve(1, d1.ID)
		var ran string
		within(t, patience, func() error {
			raw, err := os.ReadFile(notes + "/ran")
			ran = string(raw)
			return err
		})
		lines := strings.Split(strings.TrimSpace(ran), "\n")
		if len(lines) != 1 || !strings.Contains(lines[0], m.mountPoint(0)) || !strings.Contains(lines[0], m.mountPoint(1)) {
			t.Errorf("mount_complete noted %q", lines)
		}
		if out, err := m.Run(t.Context(), "wait", "--timeout", "10s"); err != nil {
			t.Errorf("wait: %v: %s", err, out)
		}
	})
}

// A stopped agent unmounts, returns its key, and the broker shows it at once; started again it asks anew.
func TestStop_unmountsAndReturnsTheKey(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		m.policy(m.device(0), auto())
		d := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		m.becomes(d.ID, api.DeviceInUse)
		keep(t, m.mountPoint(0)+"/file")
		first := m.request(d.ID, api.KeyDelivered)
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		if left := lab.Traces(m.dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		m.becomes(d.ID, api.DeviceEncrypted)
		if r, err := m.KeyRequest(t.Context(), first.RequestID); err != nil || r.Status != api.KeyExpired {
			t.Errorf("the returned key's request is %s, %v", r.Status, err)
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		m.mounted(0)
		kept(t, m.mountPoint(0)+"/file")
	})
}

// A killed agent gets its key again within the lease, and nobody has to act.
func TestAgentRestart_deliveredAgainWithoutAPerson(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		first := m.approve(0, d.ID)
		keep(t, m.mountPoint(0)+"/file")
		before := m.PID()
		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, func() error {
			r, err := m.newest(t.Context(), d.ID)
			if err == nil && (r.Status != api.KeyDelivered || r.RequestID == first.RequestID) {
				err = fmt.Errorf("request %d is %s", r.Number, r.Status)
			}
			return err
		})
		within(t, patience, func() error { _, err := os.Stat(m.mountPoint(0) + "/file"); return err })
		kept(t, m.mountPoint(0)+"/file")
		if m.PID() == before {
			t.Error("the agent was not killed")
		}
		if r := m.request(d.ID, api.KeyDelivered); r.DecidedBy != "" {
			t.Errorf("decided by %q: %s", r.DecidedBy, r.Reason)
		}
		if n := m.logged("key", "key-request.approved-within-lease"); n != 1 {
			t.Errorf("the log has %d approvals within the lease, want 1", n)
		}
	})
}
