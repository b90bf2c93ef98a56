package unlock

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// wait asks for the encryption of devices and RAID sets, which wait so many seconds for their machine; 0 is the default.
func (a *account) wait(seconds int64, units ...api.Device) {
	a.t.Helper()
	for _, u := range units {
		if _, err := a.EncryptDevice(a.t.Context(), u.ID, api.EncryptWrite{Confirm: u.Name, WaitSeconds: seconds}); err != nil {
			a.t.Fatal(err)
		}
	}
}

// halt stops the agent in order, so that nobody takes a job.
func (m *machine) halt() {
	m.t.Helper()
	if err := m.Stop(40 * time.Second); err != nil {
		m.t.Fatal(err)
	}
}

// without starts the halted agent without some of its disks, which back brings again.
func (m *machine) without(disks ...int) {
	m.t.Helper()
	for _, i := range disks {
		if err := os.Rename(m.disks[i], m.disks[i]+".away"); err != nil {
			m.t.Fatal(err)
		}
	}
	if err := m.Start(); err != nil {
		m.t.Fatal(err)
	}
}

// befell are the statuses in which an event of the log met a device or RAID set, the newest first.
func (a *account) befell(u api.Device, category, event string) (was []string) {
	a.t.Helper()
	if u.MemberIDs != nil {
		event = "raid-set." + event
	} else {
		event = "device." + event
	}
	for _, r := range a.audit(category) {
		if r.Event == event && r.Subject == u.ID {
			was = append(was, r.Detail["from"])
		}
	}
	return was
}

// awaited waits for the nth time that an event befalls a device or RAID set, and returns the status that it met.
func (a *account) awaited(n int, u api.Device, category, event string) string {
	a.t.Helper()
	var was []string
	within(a.t, 2*patience, func() error {
		if was = a.befell(u, category, event); len(was) != n {
			return fmt.Errorf("%s befell %s %d times, want %d", event, u.Name, len(was), n)
		}
		return nil
	})
	return was[0]
}

// A machine that does not begin within the time that it was given is not waited for any more: disk and RAID set are what they
// were, also those that the machine has lost meanwhile, and they are encrypted when a person asks again.
func TestEncrypt_machineThatDoesNotBeginIsNotWaitedFor(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(3, "")
		d := m.configure(0, api.DeviceWrite{})
		set, _ := m.newSet("stripe", 1, 2)
		m.halt()
		m.wait(1, d, set)
		if got := m.becomes(d.ID, api.DeviceConfigured); !strings.Contains(got.StatusDetail, "No machine began the encryption within 1 second") {
			t.Errorf("not waited for any more, the disk says %q", got.StatusDetail)
		}
		m.all(set, api.DeviceConfigured)
		if n := m.notices("provisioning-idle"); n != 2 {
			t.Errorf("%d notices, want one of the disk and one of the set", n)
		}

		// However slow this computer is, once the disks are gone before the wait is over.
		for n, wait := 2, int64(6); ; n, wait = n+1, 2*wait {
			m.wait(wait, d, set)
			m.without(0, 2)
			m.becomes(d.ID, api.DeviceUndetected)
			m.becomes(set.ID, api.DeviceMissing)
			disk, stripe := m.awaited(n, d, "server", "encryption-wait-over"), m.awaited(n, set, "server", "encryption-wait-over")
			m.becomes(d.ID, api.DeviceUndetected)
			m.becomes(set.ID, api.DeviceMissing)
			m.back(0)
			m.back(2)
			m.becomes(d.ID, api.DeviceConfigured)
			m.all(set, api.DeviceConfigured)
			if disk == string(api.DeviceUndetected) && stripe == string(api.DeviceMissing) {
				break
			}
			if wait > 50 {
				t.Fatalf("the wait was over for a disk that was %s and a set that was %s", disk, stripe)
			}
			m.halt()
		}
		m.wait(0, d, set)
		m.becomes(d.ID, api.DeviceEncrypted)
		m.all(set, api.DeviceEncrypted)
	})
}

// What waits for its machine is taken back although the machine has lost it meanwhile.
func TestEncrypt_takenBackWhileTheDiskIsAway(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(3, "")
		d := m.configure(0, api.DeviceWrite{})
		set, _ := m.newSet("stripe", 1, 2)
		m.halt()
		m.wait(0, d, set)
		m.without(0, 2)
		m.becomes(d.ID, api.DeviceUndetected)
		m.becomes(set.ID, api.DeviceMissing)
		for _, u := range []struct {
			api.Device
			lost api.DeviceStatus
		}{{d, api.DeviceUndetected}, {set, api.DeviceMissing}} {
			if got, err := m.CancelEncryption(t.Context(), u.ID); err != nil || got.Status != u.lost {
				t.Errorf("taken back, %s is %s, %v", u.Name, got.Status, err)
			}
			if was := m.befell(u.Device, "user", "encryption-cancelled"); len(was) != 1 || was[0] != string(u.lost) {
				t.Errorf("%s was taken back as %q", u.Name, was)
			}
		}
		m.back(0)
		m.back(2)
		m.becomes(d.ID, api.DeviceConfigured)
		m.all(set, api.DeviceConfigured)
	})
}

// A RAID set is saved anew, its encryption taken back, and tried again after a member turned out to hold data, which stays
// as it is until a person gives the word.
func TestRAID_savedTakenBackAndTriedAgain(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(2, "")
		set, first := m.newSet("stripe")
		save := func() {
			t.Helper()
			now := m.becomes(set.ID, api.DeviceConfigured, api.DeviceEncryptionError)
			in := api.RAIDSetWrite{Name: now.Name, Platform: "linux", FileSystem: "ext4", MountPoint: m.mountPoint(0), KeyBits: 192,
				MemberIDs: now.MemberIDs, Version: now.Version}
			if err := m.Do(t.Context(), http.MethodPut, "/api/v1/raid-sets/"+set.ID, in, &set); err != nil {
				t.Fatal(err)
			}
			m.all(set, api.DeviceConfigured)
		}
		save()
		m.halt()
		m.wait(0, set)
		m.all(set, api.DeviceEncryptionPending)
		if _, err := m.CancelEncryption(t.Context(), set.ID); err != nil {
			t.Fatal(err)
		}
		m.all(set, api.DeviceConfigured)

		m.wait(0, set)
		tool(t, "mkfs.ext3", "-q", "-F", m.disks[1])
		before := digest(t, m.disks[1])
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		m.all(set, api.DeviceEncryptionError)
		if got := m.becomes(set.ID, api.DeviceEncryptionError); !strings.Contains(got.StatusDetail, "disk1.img") || !strings.Contains(got.StatusDetail, "ext3") {
			t.Errorf("the error does not name the member and what it holds: %q", got.StatusDetail)
		}
		if digest(t, m.disks[1]) != before {
			t.Fatal("the member was changed")
		}
		if n := m.notices("provisioning-failed"); n != 1 {
			t.Errorf("%d notices of the set, want 1", n)
		}
		save()
		if was := m.befell(set, "user", "configured"); len(was) != 2 || was[0] != string(api.DeviceEncryptionError) || was[1] != string(api.DeviceConfigured) {
			t.Errorf("the set was saved when it was %q", was)
		}
		if _, err := m.EncryptDevice(t.Context(), set.ID, api.EncryptWrite{Confirm: set.Name, Destroy: true}); err != nil {
			t.Fatal(err)
		}
		m.all(set, api.DeviceEncrypted)
		m.approve(0, first)
		if got := m.becomes(first, api.DeviceInUse); got.Key == nil || got.Key.Bits != 192 {
			t.Errorf("opened with the key %+v", got.Key)
		}
	})
}
