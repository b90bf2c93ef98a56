package unlock

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keyward/broker/api"
)

// press makes file systems for an agent, each when the test says so: mkfs is as slow as on a large and busy disk.
type press struct {
	t    *testing.T
	gate string
}

// onPress starts the agent anew, with the press as its mkfs.
func (m *machine) onPress() press {
	m.t.Helper()
	dir := tempDir(m.t)
	p := press{t: m.t, gate: filepath.Join(dir, "gate")}
	if err := unix.Mkfifo(p.gate, 0o600); err != nil {
		m.t.Fatal(err)
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		m.t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nread -r word < %s\n[ \"$word\" = go ] && exec %s \"$@\"\necho 'the disk went away' >&2\nexit 1\n", p.gate, mkfs)
	if err := os.WriteFile(filepath.Join(dir, "mkfs.ext4"), []byte(script), 0o700); err != nil {
		m.t.Fatal(err)
	}
	m.halt()
	m.Process.Args = append([]string{"env", "PATH=" + dir + ":" + os.Getenv("PATH")}, m.Process.Args...)
	if err := m.Start(); err != nil {
		m.t.Fatal(err)
	}
	return p
}

// reached returns when mkfs waits; what is written then says how it goes on.
func (p press) reached() (gate *os.File) {
	p.t.Helper()
	within(p.t, patience, func() (err error) {
		gate, err = os.OpenFile(p.gate, os.O_WRONLY|unix.O_NONBLOCK, 0) // refused while nobody reads
		return err
	})
	p.t.Cleanup(func() { gate.Close() })
	return gate
}

// Disks are taken out of the machine while it encrypts them. The machine that does the work has the last word: the broker
// takes its report of how it ended, and shows that once the disk is back.
func TestEncrypt_disksThatGoAwayMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(3, "")
		press := m.onPress()
		d := m.configure(0, api.DeviceWrite{})
		set, first := m.newSet("stripe", 1, 2)

		// end has a disk go away while mkfs waits, and returns when the broker knows how the job ended.
		end := func(u api.Device, disk int, lost api.DeviceStatus, word, event string) {
			t.Helper()
			gate := press.reached()
			m.becomes(u.ID, api.DeviceEncrypting)
			m.away(disk)
			m.becomes(u.ID, lost)
			_, err := gate.WriteString(word + "\n")
			if err := errors.Join(err, gate.Close()); err != nil {
				t.Fatal(err)
			}
			if was := m.awaited(1, u, "agent", event); was != string(lost) {
				t.Errorf("%s: %s met it as %s", u.Name, event, was)
			}
			m.becomes(u.ID, lost)
			m.back(disk)
		}
		for _, u := range []struct {
			api.Device
			disk int
			lost api.DeviceStatus
		}{{d, 0, api.DeviceUndetected}, {set, 2, api.DeviceMissing}} {
			m.wait(0, u.Device)
			end(u.Device, u.disk, u.lost, "stop", "encryption-failed")
			if got := m.becomes(u.ID, api.DeviceEncryptionError); !strings.Contains(got.StatusDetail, "the disk went away") {
				t.Errorf("back, %s says %q", u.Name, got.StatusDetail)
			}
		}
		m.configure(0, api.DeviceWrite{})
		now := m.becomes(set.ID, api.DeviceEncryptionError)
		in := api.RAIDSetWrite{Name: set.Name, Platform: "linux", FileSystem: "ext4", MountPoint: set.MountPoint, KeyBits: 256, MemberIDs: set.MemberIDs, Version: now.Version}
		if err := m.Do(t.Context(), http.MethodPut, "/api/v1/raid-sets/"+set.ID, in, nil); err != nil {
			t.Fatal(err)
		}
		for _, u := range []struct {
			api.Device
			disk int
			lost api.DeviceStatus
		}{{d, 0, api.DeviceUndetected}, {set, 2, api.DeviceMissing}} {
			if _, err := m.EncryptDevice(t.Context(), u.ID, api.EncryptWrite{Confirm: u.Name, Destroy: true}); err != nil { // its header is there already
				t.Fatal(err)
			}
			end(u.Device, u.disk, u.lost, "go", "encrypted")
			m.becomes(u.ID, api.DeviceEncrypted)
		}
		m.approve(0, d.ID)
		keep(t, m.mountPoint(0)+"/file")
		m.approve(1, first)
		m.all(set, api.DeviceInUse)

		// A set without one of its members can only be dissolved. What is away is an empty disk when it is back.
		if _, err := m.Run(t.Context(), "lock", first); err != nil {
			t.Fatal(err)
		}
		m.all(set, api.DeviceEncrypted)
		m.away(2)
		m.becomes(set.ID, api.DeviceMissing)
		if failed, missing := m.notices("provisioning-failed"), m.notices("raid-member-missing"); failed != 2 || missing != 3 {
			t.Errorf("%d notices of failures and %d of the missing member, want 2 and 3", failed, missing)
		}
		if err := m.Do(t.Context(), http.MethodDelete, "/api/v1/raid-sets/"+set.ID, nil, nil); err != nil {
			t.Fatal(err)
		}
		m.becomes(set.MemberIDs[0], api.DeviceNotConfigured)
		if got := m.becomes(set.MemberIDs[1], api.DeviceUndetected); got.Key != nil || got.RAIDSetID != "" {
			t.Errorf("the member that is away is still %+v", got)
		}
		m.back(2)
		m.becomes(set.MemberIDs[1], api.DeviceNotConfigured)
		m.becomes(d.ID, api.DeviceInUse)
		kept(t, m.mountPoint(0)+"/file")
	})
}
