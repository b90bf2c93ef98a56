package unlock

import (
	"archive/zip"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// newSet joins disks of the machine, all when none is named, to a RAID set. The first member's ID is the one that requests name.
func (m *machine) newSet(name string, disks ...int) (set api.Device, first string) {
	m.t.Helper()
	if len(disks) == 0 {
		for i := range m.disks {
			disks = append(disks, i)
		}
	}
	in := api.RAIDSetWrite{Name: name, Platform: "linux", FileSystem: "ext4", MountPoint: m.mountPoint(disks[0]), KeyBits: 256}
	for _, i := range disks {
		in.MemberIDs = append(in.MemberIDs, m.device(i).ID)
	}
	if err := m.Do(m.t.Context(), http.MethodPost, "/api/v1/raid-sets", in, &set); err != nil {
		m.t.Fatal(err)
	}
	return set, in.MemberIDs[0]
}

// encryptSet has the agent encrypt the set. A key request follows by itself.
func (m *machine) encryptSet(set api.Device) api.Device {
	m.t.Helper()
	if _, err := m.EncryptDevice(m.t.Context(), set.ID, api.EncryptWrite{Confirm: set.Name}); err != nil {
		m.t.Fatal(err)
	}
	return m.becomes(set.ID, api.DeviceEncrypted, api.DeviceInUse)
}

// big writes a file of random bytes that no single member has room for, and says what it is.
func big(t *testing.T, path string) (sum [sha256.Size]byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(f, h), rand.Reader, diskSize)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// all fails unless the set and every member have the status.
func (m *machine) all(set api.Device, want api.DeviceStatus) {
	m.t.Helper()
	for _, id := range append([]string{set.ID}, set.MemberIDs...) {
		m.becomes(id, want)
	}
}

// A RAID set lives as one volume: encrypted together, approved once, one mount, In-use, killed and given again, suspended and
// resumed, revoked with all of its keys, and its files hold.
func TestRAID_wholeLife(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(2, "")
		set, first := m.newSet("stripe")
		set = m.encryptSet(set)
		if set.Size != 2*diskSize || len(set.MemberIDs) != 2 {
			t.Errorf("the set: %+v", set)
		}
		m.approve(0, first)
		m.all(set, api.DeviceInUse)
		r := m.request(first, api.KeyDelivered)
		if r.DeviceName != "stripe" || len(r.Device.MemberIDs) != 2 || r.Device.Status != api.DeviceInUse {
			t.Errorf("the request is for %q, shown as %+v", r.DeviceName, r.Device)
		}
		if rows, err := m.RunningInstances(t.Context(), nil); err != nil || len(rows.Rows) != 1 {
			t.Errorf("one request opens the set, there are %d, %v", len(rows.Rows), err)
		}
		status, err := m.Status(t.Context())
		if err != nil || len(status.Volumes) != 1 || status.Volumes[0].Name != "stripe" {
			t.Errorf("the agent shows %+v, %v", status.Volumes, err)
		}
		file := m.mountPoint(0) + "/file"
		sum := big(t, file)
		m.holds(file, sum)

		if err := m.Kill(); err != nil {
			t.Fatal(err)
		}
		within(t, patience, func() error {
			row, err := m.newest(t.Context(), first)
			if err == nil && (row.Status != api.KeyDelivered || row.RequestID == r.RequestID) {
				err = fmt.Errorf("request %d is %s", row.Number, row.Status)
			}
			return err
		})
		within(t, patience, func() error { _, err := os.Stat(file); return err })
		m.holds(file, sum)
		r = m.request(first, api.KeyDelivered)

		if _, err := m.Revoke(t.Context(), r.RequestID, api.Decision{Reason: "machine is to be looked at"}); err != nil {
			t.Fatal(err)
		}
		m.request(first, api.KeyRevoked)
		m.all(set, api.DeviceEncrypted)
		if lab.Mounted(m.mountPoint(0)) {
			t.Error("Revoked, and still mounted")
		}
		if status, err := m.Status(t.Context()); err != nil || len(status.Volumes) != 1 || status.Volumes[0].State != "locked" {
			t.Errorf("the agent shows %+v, %v", status.Volumes, err)
		}
		if _, err := m.Run(t.Context(), "request", "stripe"); err != nil {
			t.Fatal(err)
		}
		last := m.approve(0, first)
		m.all(set, api.DeviceInUse)
		m.holds(file, sum)

		// Its keys are destroyed together, and its disks are single again.
		if _, err := m.Revoke(t.Context(), last.RequestID, api.Decision{}); err != nil {
			t.Fatal(err)
		}
		m.all(set, api.DeviceEncrypted)
		refusedAs(t, "deleting an encrypted set", m.Do(t.Context(), http.MethodDelete, "/api/v1/raid-sets/"+set.ID, nil, nil), "conflict")
		if err := m.Do(t.Context(), http.MethodPost, "/api/v1/raid-sets/"+set.ID+"/unconfigure", api.UnconfigureWrite{Confirm: "stripe"}, nil); err != nil {
			t.Fatal(err)
		}
		m.all(set, api.DeviceNotConfigured)
		if err := m.Do(t.Context(), http.MethodDelete, "/api/v1/raid-sets/"+set.ID, nil, nil); err != nil {
			t.Fatal(err)
		}
		for _, id := range set.MemberIDs {
			if d := m.becomes(id, api.DeviceNotConfigured); d.RAIDSetID != "" || d.Key != nil {
				t.Errorf("a member of a deleted set: %+v", d)
			}
		}
	})
}

func (m *machine) holds(file string, want [sha256.Size]byte) {
	m.t.Helper()
	if got := digest(m.t, file); got != want {
		m.t.Errorf("%s is not what was written", file)
	}
}

// exportedSet takes the keys of a set out as the Security Administrator and unpacks the archive. It returns the volume keys and
// the folder, with the passphrase in a file beside them.
func (m *machine) exportedSet(set api.Device) (keys [][]byte, dir string) {
	m.t.Helper()
	sam := lab.Login{Name: "sam", Password: "Just+Enough1"}
	err := m.Do(m.t.Context(), http.MethodPost, "/api/v1/users", api.UserWrite{Name: sam.Name, Role: api.RoleSecurityAdmin, Password: sam.Password}, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := m.logOn(sam).ExportKeys(m.t.Context(), api.ExportWrite{DeviceIDs: []string{set.ID}, Passphrase: passphrase}, &archive); err != nil {
		m.t.Fatal(err)
	}
	dir = tempDir(m.t)
	write(m.t, dir+"/keys.zip", archive.Bytes())
	write(m.t, dir+"/passphrase", []byte(passphrase))
	reader, err := zip.NewReader(bytes.NewReader(archive.Bytes()), int64(archive.Len()))
	if err != nil || len(reader.File) != len(set.MemberIDs) {
		m.t.Fatalf("the export has %+v, %v", reader, err)
	}
	if err := os.CopyFS(dir, reader); err != nil {
		m.t.Fatal(err)
	}
	for i, id := range set.MemberIDs {
		out := fmt.Sprintf("%s/key%d", dir, i)
		printed, err := m.Run(m.t.Context(), "exported-key", filepath.Join(dir, id+".xml"), "--passphrase-file", dir+"/passphrase", "--out", out)
		if err != nil || !strings.Contains(printed, "dmsetup create") {
			m.t.Fatalf("exported-key of a member printed %s, %v", printed, err)
		}
		key, err := os.ReadFile(out)
		if err != nil {
			m.t.Fatal(err)
		}
		if slices.ContainsFunc(keys, func(o []byte) bool { return bytes.Equal(o, key) }) {
			m.t.Error("two members have the same key")
		}
		keys = append(keys, key)
	}
	return keys, dir
}

// The keys of all members go when the policy suspends, programs wait, and go on when a person gives them again.
func TestRAID_suspendedAndResumed(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(2, "")
		set, first := m.newSet("stripe")
		p := auto()
		p.RevokeMode, p.LeaseSeconds, p.HeartbeatSeconds, p.ImageIDs, p.DeviceIDs = api.RevokeSuspend, 120, 2, []string{set.ImageID}, []string{set.ID}
		if _, err := m.CreatePolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		set = m.encryptSet(set)
		m.mounted(0)
		r := m.request(first, api.KeyDelivered)
		keys, _ := m.exportedSet(set)
		if _, err := m.Revoke(t.Context(), r.RequestID, api.Decision{Reason: "for a while"}); err != nil {
			t.Fatal(err)
		}
		m.state("suspended")
		m.request(first, api.KeyRevoked)
		for _, key := range keys {
			m.keyless(key)
		}
		during := writing(m.mountPoint(0) + "/during")
		waits(t, during)
		if _, err := m.Run(t.Context(), "request", first); err != nil {
			t.Fatal(err)
		}
		again := m.request(first, api.KeyPending)
		if _, err := m.Approve(t.Context(), again.RequestID, api.Decision{Reason: "go on"}); err != nil {
			t.Fatal(err)
		}
		goesOn(t, during)
		m.state("mounted")
		kept(t, m.mountPoint(0)+"/during")
	})
}

// A set with a member gone is refused by that member's name, one whose disks were exchanged by the place that is wrong, and
// neither is opened in part. With its exported keys it opens without a broker.
func TestRAID_missingOrExchangedMemberIsRefusedByName(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(2, "")
		set, first := m.newSet("stripe")
		m.policy(set, auto())
		set = m.encryptSet(set)
		m.mounted(0)
		m.all(set, api.DeviceInUse)
		file := m.mountPoint(0) + "/file"
		sum := big(t, file)
		_, dir := m.exportedSet(set)
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		m.all(set, api.DeviceEncrypted)

		away := m.disks[1] + ".away"
		if err := os.Rename(m.disks[1], away); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		m.becomes(set.ID, api.DeviceMissing)
		m.says(`does not see device "disk1.img" of RAID set "stripe"`)
		if err := os.Rename(away, m.disks[1]); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Run(t.Context(), "publish"); err != nil {
			t.Fatal(err)
		}
		m.mounted(0)
		m.all(set, api.DeviceInUse)
		m.holds(file, sum)
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		m.becomes(set.ID, api.DeviceEncrypted)

		exchange(t, m.disks[0], m.disks[1])
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		r := m.request(first, api.KeyFailure)
		if !strings.Contains(r.Reason, "raid_index") {
			t.Errorf("failed because: %s", r.Reason)
		}
		if lab.Mounted(m.mountPoint(0)) {
			t.Error("mounted with exchanged members")
		}
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		exchange(t, m.disks[0], m.disks[1])

		clear := filepath.Join(m.dir, "clear")
		open := []string{"open-exported", dir + "/keys.zip", "--passphrase-file", dir + "/passphrase", "--mount-point", clear, "--disk", m.disks[0]}
		if printed, err := m.Run(t.Context(), open...); err == nil || !strings.Contains(printed, "is not on") {
			t.Errorf("opened with one disk of two: %s, %v", printed, err)
		}
		if printed, err := m.Run(t.Context(), append(open, "--disk", m.disks[1])...); err != nil {
			t.Fatalf("%s: %v", printed, err)
		}
		m.holds(clear+"/file", sum)
		if _, err := m.Run(t.Context(), "close-exported", clear); err != nil {
			t.Fatal(err)
		}
		within(t, patience, func() error { // the process that served it ends by itself
			if left := lab.Traces(m.dir); len(left) > 0 {
				return fmt.Errorf("left behind: %v", left)
			}
			return nil
		})
	})
}

// says waits until the agent explains the state of a volume with text.
func (m *machine) says(text string) {
	m.t.Helper()
	within(m.t, patience, func() error {
		status, err := m.Status(m.t.Context())
		for _, v := range status.Volumes {
			if strings.Contains(v.Why, text) {
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("the agent does not say %q: %+v", text, status.Volumes))
	})
}

// exchange makes each of two disks what the other was; as files they stay the same ones.
func exchange(t *testing.T, a, b string) {
	t.Helper()
	first, errA := os.ReadFile(a)
	second, errB := os.ReadFile(b)
	if err := errors.Join(errA, errB); err != nil {
		t.Fatal(err)
	}
	write(t, a, second)
	write(t, b, first)
}
