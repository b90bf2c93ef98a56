package unlock

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

func digest(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(raw)
}

func tool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// A disk that holds a file system is encrypted only with the word that destroys it.
func TestEncrypt_fileSystemNeedsTheWord(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		dir := tempDir(t)
		disk := filepath.Join(dir, "disk0.img")
		if err := lab.MakeDisk(disk, diskSize); err != nil {
			t.Fatal(err)
		}
		tool(t, "mkfs.ext4", "-q", "-F", disk)
		before := digest(t, disk)
		m := newAccount(t, s).machineWith(dir, []string{disk}, "")
		d := m.configure(0, api.DeviceWrite{})
		if !strings.Contains(d.Contents, "ext4") {
			t.Errorf("the disk's contents are said to be %q", d.Contents)
		}
		_, err := m.EncryptDevice(t.Context(), d.ID, api.EncryptWrite{Confirm: d.Name})
		refusedAs(t, "encrypt without the word", err, "device-not-empty")
		_, err = m.EncryptDevice(t.Context(), d.ID, api.EncryptWrite{Confirm: "another", Destroy: true})
		refusedAs(t, "encrypt with another device's name", err, "invalid")
		if digest(t, disk) != before {
			t.Fatal("the disk was changed by a refused encryption")
		}
		if _, err := m.EncryptDevice(t.Context(), d.ID, api.EncryptWrite{Confirm: d.Name, Destroy: true}); err != nil {
			t.Fatal(err)
		}
		m.becomes(d.ID, api.DeviceEncrypted)
		tool(t, "cryptsetup", "isLuks", "--type", "luks2", disk)
	})
}

// What was empty when it was listed is looked at again before it is written: then it may hold data.
func TestEncrypt_looksAgainBeforeItWrites(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		d := m.configure(0, api.DeviceWrite{})
		if d.Contents != "empty" {
			t.Fatalf("the new disk holds %q", d.Contents)
		}
		tool(t, "mkfs.ext3", "-q", "-F", m.disks[0])
		before := digest(t, m.disks[0])
		if _, err := m.EncryptDevice(t.Context(), d.ID, api.EncryptWrite{Confirm: d.Name}); err != nil {
			// The agent may have looked and published meanwhile; then the broker is the one that refuses.
			refusedAs(t, "encrypt", err, "device-not-empty")
		} else if d = m.becomes(d.ID, api.DeviceEncryptionError); !strings.Contains(d.StatusDetail, "ext3") {
			t.Errorf("the error does not name what was found: %q", d.StatusDetail)
		}
		if digest(t, m.disks[0]) != before {
			t.Error("the disk was changed")
		}
	})
}

// The disk that the system stands on is in no inventory.
func TestInventory_neverListsTheRootDisk(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		root := rootDisk(t)
		m := newAccount(t, s).machine(1, "")
		m.device(0)
		list, err := m.Devices(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list.Devices {
			if d.Name == root || strings.Contains(d.Information+" ", "/dev/"+root+" ") {
				t.Errorf("the root disk %s is listed as %q, %s", root, d.Name, d.Information)
			}
		}
	})
}

// rootDisk is the name of the whole disk under /.
func rootDisk(t *testing.T) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/", &st); err != nil {
		t.Fatal(err)
	}
	node, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		t.Skipf("the root file system of this machine stands on no disk of its own: %v", err)
	}
	if _, err := os.Stat(node + "/partition"); err == nil {
		node = filepath.Dir(node)
	}
	return filepath.Base(node)
}

// Every Linux file system and every key size that can be chosen, as stock tools see them.
func TestEncrypt_fileSystemsAndKeySizes(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		dir := tempDir(t)
		choices := []api.DeviceWrite{{FileSystem: "ext3", KeyBits: 128}, {FileSystem: "ext4", KeyBits: 192}, {FileSystem: "xfs", KeyBits: 256}}
		var disks []string
		for i := range choices {
			disks = append(disks, filepath.Join(dir, fmt.Sprintf("disk%d.img", i)))
			if err := lab.MakeDisk(disks[i], 340*mib); err != nil { // the least that mkfs.xfs takes, and the header
				t.Fatal(err)
			}
		}
		m := newAccount(t, s).machineWith(dir, disks, "")
		for i, choice := range choices {
			d := m.encrypt(i, choice)
			if d.Key == nil || d.Key.Cipher != "AES" || d.Key.Bits != choice.KeyBits || d.Key.Mode != "XTS" || d.Key.Hash != "SHA-256" {
				t.Errorf("%s: key information %+v", choice.FileSystem, d.Key)
			}
			m.approve(i, d.ID)
			if have := strings.TrimSpace(tool(t, "findmnt", "-n", "-o", "FSTYPE", m.mountPoint(i))); have != choice.FileSystem {
				t.Errorf("%s is mounted as %q", choice.FileSystem, have)
			}
			keep(t, m.mountPoint(i)+"/file")
			kept(t, m.mountPoint(i)+"/file")
			dump := tool(t, "cryptsetup", "luksDump", disks[i])
			// An XTS key is two AES keys.
			if !strings.Contains(dump, "aes-xts-plain64") || strings.Contains(dump, "null") {
				t.Errorf("luksDump: %s", dump)
			}
			if found, err := lab.DiskHolds(disks[i], []byte(m.mountPoint(i)+"/file")); err != nil || found {
				t.Errorf("the disk holds the file in clear: %v, %v", found, err)
			}
		}
	})
}

// A full disk under the broker stops changes with a clear refusal, and takes nothing away.
func TestBroker_fullDiskLosesNothing(t *testing.T) {
	needs(t)
	t.Parallel()
	kinds[0].ready(t)
	data := filepath.Join(tempDir(t), "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", data, "tmpfs", 0, "size=16m,mode=700"); err != nil {
		t.Skipf("no tmpfs can be mounted: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(data, unix.MNT_DETACH) })
	s, err := kinds[0].start(t.Context(), lab.BrokerOptions{Dir: data})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(t) })
	m := newAccount(t, s).machine(1, "")
	d := m.encrypt(0, api.DeviceWrite{})
	m.approve(0, d.ID)

	filler := filepath.Join(data, "filler")
	fill(t, filler)
	token := api.EnrolmentTokenWrite{Uses: 1, ExpireSeconds: 600, Description: strings.Repeat("x", 100)}
	within(t, patience, func() error { // what the database still had room for goes first
		_, err := m.CreateToken(t.Context(), token)
		if err == nil {
			return fmt.Errorf("the disk is not full yet")
		}
		refusedAs(t, "a change on a full disk", err, "storage-full")
		return nil
	})
	if !lab.Mounted(m.mountPoint(0)) {
		t.Error("the volume is gone")
	}
	if got, err := m.Device(t.Context(), d.ID); err != nil || got.Status != api.DeviceInUse {
		t.Errorf("reading on a full disk: %q, %v", got.Status, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	within(t, patience, func() error { _, err := m.CreateToken(t.Context(), token); return err })
	m.request(d.ID, api.KeyDelivered)
	var log bytes.Buffer
	if err := m.AuditExport(t.Context(), &log); err != nil {
		t.Fatal(err)
	}
	verify := exec.CommandContext(t.Context(), program("keyward-broker"), "audit", "verify", "-")
	verify.Stdin = &log
	if out, err := verify.CombinedOutput(); err != nil {
		t.Errorf("the audit log after a full disk: %v: %s", err, out)
	}
}

// fill takes all room that a file system has.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}
