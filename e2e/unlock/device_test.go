package unlock

import (
	"os"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// away takes disk i out of the machine, and back puts the same one in again; the agent says so at once.
func (m *machine) away(i int) { m.moveDisk(m.disks[i], m.disks[i]+".away") }

func (m *machine) back(i int) { m.moveDisk(m.disks[i]+".away", m.disks[i]) }

func (m *machine) moveDisk(from, to string) {
	m.t.Helper()
	if err := os.Rename(from, to); err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.Run(m.t.Context(), "publish"); err != nil {
		m.t.Fatal(err)
	}
}

// lock has the machine give a mounted volume up, and waits until the broker knows of the one and the other.
func (m *machine) lock(d api.Device) {
	m.t.Helper()
	m.becomes(d.ID, api.DeviceInUse)
	if _, err := m.Run(m.t.Context(), "lock", d.ID); err != nil {
		m.t.Fatal(err)
	}
	m.becomes(d.ID, api.DeviceEncrypted)
}

// One disk through every status of the devices' picture: found, configured, waiting for its machine, taken back, encrypted,
// in use, gone and back, its key destroyed, encrypted anew, and deleted.
func TestDevice_everyStatusOfADisk(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		ctx := t.Context()
		m := newAccount(t, s).machine(1, "")
		d := m.device(0)
		if d.Status != api.DeviceNotConfigured {
			t.Errorf("a new disk is %s", d.Status)
		}
		_, err := m.EncryptDevice(ctx, d.ID, api.EncryptWrite{Confirm: d.Name})
		refusedAs(t, "encrypt what is not configured", err, "conflict")
		if d = m.configure(0, api.DeviceWrite{}); d.Status != api.DeviceConfigured {
			t.Errorf("a configured disk is %s", d.Status)
		}

		if err := m.Stop(40 * time.Second); err != nil { // nobody is there to take the job
			t.Fatal(err)
		}
		for range 2 {
			if d, err = m.EncryptDevice(ctx, d.ID, api.EncryptWrite{Confirm: d.Name}); err != nil || d.Status != api.DeviceEncryptionPending {
				t.Fatalf("asked for encryption the disk is %s, %v", d.Status, err)
			}
			if d, err = m.CancelEncryption(ctx, d.ID); err != nil || d.Status != api.DeviceConfigured {
				t.Fatalf("taken back, it is %s, %v", d.Status, err)
			}
		}
		if d, err = m.EncryptDevice(ctx, d.ID, api.EncryptWrite{Confirm: d.Name}); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		d = m.becomes(d.ID, api.DeviceEncrypted)
		_, err = m.EncryptDevice(ctx, d.ID, api.EncryptWrite{Confirm: d.Name, Destroy: true})
		refusedAs(t, "encrypt what is encrypted", err, "conflict")
		r := m.approve(0, d.ID)
		m.becomes(d.ID, api.DeviceInUse)
		keep(t, m.mountPoint(0)+"/file")

		// The inventory is advice: what is mounted is there, whatever it lists.
		m.away(0)
		if d = m.becomes(d.ID, api.DeviceInUse); !strings.Contains(d.StatusDetail, "Missing") {
			t.Errorf("in use and not listed, it says %q", d.StatusDetail)
		}
		_, err = m.UnconfigureDevice(ctx, d.ID, api.UnconfigureWrite{Confirm: d.Name})
		refusedAs(t, "unconfigure what is in use", err, "conflict")
		m.back(0)
		if d = m.becomes(d.ID, api.DeviceInUse); d.StatusDetail != "" {
			t.Errorf("listed again, it says %q", d.StatusDetail)
		}
		if _, err := m.Revoke(ctx, r.RequestID, api.Decision{Reason: "moved"}); err != nil {
			t.Fatal(err)
		}
		m.becomes(d.ID, api.DeviceEncrypted)
		refusedAs(t, "delete what is there", m.DeleteDevice(ctx, d.ID), "conflict")
		m.away(0)
		m.becomes(d.ID, api.DeviceUndetected)
		m.back(0)
		d = m.becomes(d.ID, api.DeviceEncrypted)
		m.approve(0, d.ID)
		kept(t, m.mountPoint(0)+"/file")

		// The key is destroyed for ever, and the disk can be used anew.
		m.lock(d)
		_, err = m.UnconfigureDevice(ctx, d.ID, api.UnconfigureWrite{Confirm: "another"})
		refusedAs(t, "unconfigure without its name", err, "invalid")
		if d, err = m.UnconfigureDevice(ctx, d.ID, api.UnconfigureWrite{Confirm: d.Name}); err != nil || d.Status != api.DeviceNotConfigured || d.Key != nil {
			t.Fatalf("without its key the disk is %s with %+v, %v", d.Status, d.Key, err)
		}
		d = m.configure(0, api.DeviceWrite{KeyBits: 256})
		_, err = m.EncryptDevice(ctx, d.ID, api.EncryptWrite{Confirm: d.Name})
		refusedAs(t, "encrypt over the old volume without the word", err, "device-not-empty")
		if _, err := m.EncryptDevice(ctx, d.ID, api.EncryptWrite{Confirm: d.Name, Destroy: true}); err != nil {
			t.Fatal(err)
		}
		m.becomes(d.ID, api.DeviceEncrypted)
		m.approve(0, d.ID)
		if _, err := os.Stat(m.mountPoint(0) + "/file"); err == nil {
			t.Error("the file of the destroyed volume is there")
		}
		m.lock(d)
		m.away(0)
		m.becomes(d.ID, api.DeviceUndetected)
		if err := m.DeleteDevice(ctx, d.ID); err != nil {
			t.Fatal(err)
		}
		_, err = m.Device(ctx, d.ID)
		refusedAs(t, "read what was deleted", err, "not-found")
		m.back(0)
		if again := m.device(0); again.ID == d.ID || again.Status != api.DeviceNotConfigured {
			t.Errorf("found again the disk is %s under the ID %s", again.Status, again.ID)
		}
	})
}

// The disk holds data by the time its machine comes to encrypt it: nothing is written, the error says what was found, and
// the disk is encrypted when a person gives the word.
func TestDevice_encryptionFailsAndIsTriedAgain(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		ctx := t.Context()
		m := newAccount(t, s).machine(1, "")
		d := m.configure(0, api.DeviceWrite{})
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		tool(t, "mkfs.ext3", "-q", "-F", m.disks[0])
		before := digest(t, m.disks[0])
		if _, err := m.EncryptDevice(ctx, d.ID, api.EncryptWrite{Confirm: d.Name}); err != nil { // empty, as far as is known
			t.Fatal(err)
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		if d = m.becomes(d.ID, api.DeviceEncryptionError); !strings.Contains(d.StatusDetail, "ext3") {
			t.Errorf("the error does not name what was found: %q", d.StatusDetail)
		}
		if digest(t, m.disks[0]) != before {
			t.Fatal("the disk was changed")
		}
		if n := m.logged("user", "device.encryption-failed") + m.logged("agent", "device.encryption-failed"); n != 1 {
			t.Errorf("the log has %d failures, want 1", n)
		}
		if n := m.notices("provisioning-failed"); n != 1 {
			t.Errorf("%d notices, want 1", n)
		}
		if d = m.configure(0, api.DeviceWrite{}); d.Status != api.DeviceConfigured {
			t.Errorf("saved again the device is %s", d.Status)
		}
		if _, err := m.EncryptDevice(ctx, d.ID, api.EncryptWrite{Confirm: d.Name, Destroy: true}); err != nil {
			t.Fatal(err)
		}
		m.becomes(d.ID, api.DeviceEncrypted)
		if m.approve(0, d.ID); !lab.Mounted(m.mountPoint(0)) {
			t.Error("the volume is not mounted")
		}
	})
}
