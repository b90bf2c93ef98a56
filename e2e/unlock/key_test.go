package unlock

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/e2e/lab"
)

const passphrase = "correct horse battery staple"

// exported takes a device's key out as the Security Administrator and returns the key as the agent's command writes it.
func (m *machine) exported(device string) (key []byte, file string) {
	m.t.Helper()
	sam := m.user("sam", api.RoleSecurityAdmin)
	refusedAs(m.t, "the Account Administrator exports a key",
		m.ExportKeys(m.t.Context(), api.ExportWrite{DeviceIDs: []string{device}, Passphrase: passphrase}, &bytes.Buffer{}), "forbidden")
	var archive bytes.Buffer
	if err := sam.ExportKeys(m.t.Context(), api.ExportWrite{DeviceIDs: []string{device}, Passphrase: passphrase}, &archive); err != nil {
		m.t.Fatal(err)
	}
	reader, err := zip.NewReader(bytes.NewReader(archive.Bytes()), int64(archive.Len()))
	if err != nil || len(reader.File) != 1 || reader.File[0].Name != device+".xml" {
		m.t.Fatalf("the export has %+v, %v", reader, err)
	}
	dir := tempDir(m.t)
	if err := os.CopyFS(dir, reader); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/passphrase", []byte(passphrase), 0o600); err != nil {
		m.t.Fatal(err)
	}
	file = dir + "/key"
	if _, err := m.Run(m.t.Context(), "exported-key", filepath.Join(dir, device+".xml"), "--passphrase-file", dir+"/passphrase", "--out", file); err != nil {
		m.t.Fatal(err)
	}
	if key, err = os.ReadFile(file); err != nil {
		m.t.Fatal(err)
	}
	return key, file
}

// rotationWaits asks for another key of a mounted volume: the real agent says that it cannot give it one yet, nothing changes
// meanwhile, and the rotation is taken back.
func (m *machine) rotationWaits(device string) {
	m.t.Helper()
	ctx := m.t.Context()
	if _, err := m.RotateDeviceKey(ctx, device, api.KeyRotationWrite{Reason: "rehearsal"}); err != nil {
		m.t.Fatal(err)
	}
	within(m.t, patience, func() error {
		d, err := m.Device(ctx, device)
		if err == nil && (d.Rotation == nil || !strings.Contains(d.Rotation.Waits, "cannot give a volume")) {
			err = fmt.Errorf("the agent has not said why the rotation waits: %+v", d.Rotation)
		}
		return err
	})
	m.mounted(0)
	if d, err := m.CancelKeyRotation(ctx, device); err != nil || d.Rotation != nil || d.Status != api.DeviceInUse {
		m.t.Fatalf("cancelled: %+v, %v", d, err)
	}
}

// A key leaves the broker only for the Security Administrator and only under a passphrase; it opens the volume without
// any of our programs. On the machine it is nowhere: not in the agent's files, not on the disk.
func TestKey_exportOpensAndNothingElseHoldsIt(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{KeyBits: 256})
		m.approve(0, d.ID)
		m.rotationWaits(d.ID)
		key, file := m.exported(d.ID)
		if len(key) != 64 {
			t.Fatalf("the key has %d bytes, want two of 32", len(key))
		}
		if n := m.logged("key", "device-key.exported") + m.logged("user", "device-key.exported"); n != 1 {
			t.Errorf("the log has %d exports, want 1", n)
		}
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		tool(t, "cryptsetup", "open", "--test-passphrase", "--type", "luks2", "--volume-key-file", file, "--key-size", "512", m.disks[0])
		// Either half of an XTS key is a secret by itself.
		for _, half := range [][]byte{key[:32], key[32:]} {
			err := filepath.WalkDir(m.dir, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || !entry.Type().IsRegular() {
					return err
				}
				found, err := lab.DiskHolds(path, half)
				if found {
					t.Errorf("%s holds the key", path)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if s.kind.name == "sqlite" {
				if found, err := lab.DiskHolds(filepath.Join(s.broker.Dir, "keyward.db"), half); err != nil || found {
					t.Errorf("the database holds the key in clear: %v, %v", found, err)
				}
			}
		}
	})
}

// A copy of an encrypted disk is opened by its source's key, once a person has said whose copy it is.
func TestClone_opensWithItsSourcesKey(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		m := newAccount(t, s).machine(2, "")
		source := m.encrypt(0, api.DeviceWrite{})
		m.approve(0, source.ID)
		keep(t, m.mountPoint(0)+"/file")
		want := m.mountPoint(0) + "/file"
		if _, err := m.Run(t.Context(), "lock", source.ID); err != nil {
			t.Fatal(err)
		}
		m.unmounted(0)
		raw, err := os.ReadFile(m.disks[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m.disks[1], raw, 0o600); err != nil { // the same file, so the same device
			t.Fatal(err)
		}
		if _, err := m.Run(t.Context(), "publish"); err != nil {
			t.Fatal(err)
		}
		clone := m.device(1)
		if !strings.Contains(clone.Contents, "LUKS2") {
			t.Errorf("the clone is said to hold %q", clone.Contents)
		}
		if clone, err = m.CopyDeviceConfiguration(t.Context(), clone.ID, client.CopyConfiguration{SourceID: source.ID}); err != nil {
			t.Fatal(err)
		}
		if clone.Status != api.DeviceEncrypted || !strings.Contains(clone.StatusDetail, "Not verified") {
			t.Errorf("the clone is %s: %s", clone.Status, clone.StatusDetail)
		}
		write := api.DeviceWrite{Name: clone.Name, MountPoint: m.mountPoint(1), Version: clone.Version}
		if clone, err = m.ConfigureDevice(t.Context(), clone.ID, write); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Run(t.Context(), "publish"); err != nil { // the machine reads what is its own now
			t.Fatal(err)
		}
		m.approve(1, clone.ID)
		if got, err := os.ReadFile(m.mountPoint(1) + "/file"); err != nil || string(got) != want {
			t.Errorf("the clone holds %q, %v", got, err)
		}
		if clone = m.becomes(clone.ID, api.DeviceInUse); clone.StatusDetail != "" {
			t.Errorf("opened, the clone still says %q", clone.StatusDetail)
		}
		if n := m.logged("user", "device.cloned"); n != 1 {
			t.Errorf("the log has %d clones, want 1", n)
		}
	})
}
