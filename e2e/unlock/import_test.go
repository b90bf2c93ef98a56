package unlock

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
	"keyward/nbdcrypt/essiv"
	"keyward/nbdcrypt/xts"
)

// foreign is a volume as its owner had it before Keyward: made by cryptsetup, opened by a passphrase, with a file in it.
type foreign struct {
	cipher          string
	keyBytes, bits  int
	sector          int
	dir, disk, pass string
}

// make has cryptsetup write the header. The payload is encrypted here, because this machine may have no dm-crypt.
func (f *foreign) make(t *testing.T, dir string) {
	t.Helper()
	f.dir, f.disk, f.pass = dir, filepath.Join(dir, "old.img"), filepath.Join(dir, "pass")
	key := make([]byte, f.keyBytes)
	rand.Read(key)
	write(t, f.pass, []byte(passphrase))
	write(t, filepath.Join(dir, "vk"), key)
	if err := lab.MakeDisk(f.disk, diskSize); err != nil {
		t.Fatal(err)
	}
	tool(t, "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--cipher", f.cipher, "--key-size", strconv.Itoa(8*f.keyBytes), "--sector-size",
		strconv.Itoa(f.sector), "--volume-key-file", filepath.Join(dir, "vk"), "--key-file", f.pass, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", f.disk)
	content := filepath.Join(dir, "content")
	if err := os.Mkdir(content, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(content, "letter"), []byte("from before"))
	plain := filepath.Join(dir, "plain.img")
	tool(t, "mkfs.ext4", "-q", "-b", "4096", "-d", content, plain, strconv.Itoa(diskSize/mib-16)+"M")
	sectors, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	expand := xts.New
	if f.cipher == api.CipherESSIV {
		expand = essiv.New
	}
	c, err := expand(key)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Wipe()
	c.EncryptSectors(sectors, sectors, f.sector, 0, uint64(f.sector/512))
	out, err := os.OpenFile(f.disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.WriteAt(sectors, 16*mib); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Y-52: a volume made by cryptsetup comes under the broker with its data and lives as any other: asked for, approved, mounted,
// revoked, exported. Its owner's passphrase goes on working.
func TestImport_aVolumeOfCryptsetupLivesAsAnyOther(t *testing.T) {
	for name, f := range map[string]foreign{
		"xts-256":   {cipher: api.CipherXTS, keyBytes: 64, bits: 256, sector: 4096},
		"essiv-192": {cipher: api.CipherESSIV, keyBytes: 24, bits: 192, sector: 512},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, s *site) {
				f := f
				a := newAccount(t, s)
				dir := tempDir(t)
				f.make(t, dir)
				m := a.machineWith(dir, []string{f.disk}, "")
				before, err := os.ReadFile(f.disk)
				if err != nil {
					t.Fatal(err)
				}
				m.importRefused(f, "configure the device")
				d := m.configure(0, api.DeviceWrite{})
				write(t, filepath.Join(dir, "wrong"), []byte("not this one"))
				if out, err := m.Run(t.Context(), "import", f.disk, "--passphrase-file", filepath.Join(dir, "wrong")); err == nil {
					t.Errorf("another passphrase: %s", out)
				}
				if _, err := m.Run(t.Context(), "import", f.disk, "--passphrase-file", f.pass, "--check"); err != nil {
					t.Error(err)
				}
				if now, err := os.ReadFile(f.disk); err != nil || !bytes.Equal(now, before) {
					t.Errorf("refusals and --check changed the disk (%v)", err)
				}
				if _, err := m.Run(t.Context(), "import", f.disk, "--passphrase-file", f.pass, "--header-backup", filepath.Join(dir, "backup")); err != nil {
					t.Fatal(err)
				}
				if backup, err := os.ReadFile(filepath.Join(dir, "backup")); err != nil || !bytes.Equal(backup, before[:16*mib]) {
					t.Errorf("the header backup is not the header (%v)", err)
				}
				r := m.approve(0, d.ID)
				if got, err := os.ReadFile(filepath.Join(m.mountPoint(0), "letter")); err != nil || string(got) != "from before" {
					t.Errorf("the volume holds %q, %v", got, err)
				}
				if d := m.becomes(d.ID, api.DeviceInUse); d.KeyBits != f.bits {
					t.Errorf("the device has %d bits", d.KeyBits)
				}
				if _, err := m.Revoke(t.Context(), r.RequestID, api.Decision{Reason: "enough"}); err != nil {
					t.Fatal(err)
				}
				m.unmounted(0)
				key, file := m.exported(d.ID)
				if err := m.Stop(40 * time.Second); err != nil {
					t.Fatal(err)
				}
				if len(key) != f.keyBytes {
					t.Errorf("the exported key has %d bytes", len(key))
				}
				tool(t, "cryptsetup", "open", "--test-passphrase", "--type", "luks2", "--volume-key-file", file, "--key-size", strconv.Itoa(8*len(key)), f.disk)
				tool(t, "cryptsetup", "open", "--test-passphrase", "--key-file", f.pass, f.disk)
				if m.logged("agent", "device.imported")+m.logged("key", "device.imported") != 1 {
					t.Error("the log does not have the import")
				}
			})
		})
	}
}

func (m *machine) importRefused(f foreign, want string) {
	m.t.Helper()
	m.device(0)
	if out, err := m.Run(m.t.Context(), "import", f.disk, "--passphrase-file", f.pass); err == nil || !strings.Contains(out, want) {
		m.t.Errorf("the import was not refused with %q: %s", want, out)
	}
}

// A volume moves to another account, or another broker, by its exported key; its former record opens it no more.
func TestImport_byAnExportedKeyIntoAnotherAccount(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		from := newAccount(t, s).machine(1, "")
		d := from.encrypt(0, api.DeviceWrite{KeyBits: 128})
		from.approve(0, d.ID)
		keep(t, filepath.Join(from.mountPoint(0), "kept"))
		_, file := from.exported(d.ID)
		dir := filepath.Dir(file)
		if err := from.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		to := newAccount(t, s).machineWith(tempDir(t), from.disks, "")
		moved := to.configure(0, api.DeviceWrite{})
		args := []string{"import", to.disks[0], "--passphrase-file", dir + "/passphrase", "--exported-key", filepath.Join(dir, d.ID+".xml")}
		if out, err := to.Run(t.Context(), args...); err == nil || !strings.Contains(out, "already") {
			t.Errorf("another account's volume was taken without a word: %s", out)
		}
		if _, err := to.Run(t.Context(), append(args, "--take-over")...); err != nil {
			t.Fatal(err)
		}
		to.approve(0, moved.ID)
		if _, err := os.Stat(filepath.Join(to.mountPoint(0), "kept")); err != nil {
			t.Error(err)
		}
	})
}
