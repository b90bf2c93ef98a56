package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/mount"
	"keyward/agent/internal/record"
	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// The commands that exported-key prints open a volume, and a RAID set, in a stock kernel with cryptsetup and dmsetup and
// nothing of ours: mapped, mounted, every file as it was written through the agent's own code.
func TestExportedKey_printedCommandsOpenItWithoutUs(t *testing.T) {
	if os.Getenv("KEYWARD_VM") == "" {
		t.Skip("needs the kernel of the virtual machine: run the tests of e2e/vm")
	}
	for _, members := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d members", members), func(t *testing.T) {
			v := newStockVolume(t, members)
			sums := v.fill()
			commands := v.exportedKeys()
			at := filepath.Join(v.dir, "stock")
			if err := os.Mkdir(at, 0o700); err != nil {
				t.Fatal(err)
			}
			mapped := v.follow(commands)
			run(t, "e2fsck", "-f", "-n", mapped)
			if err := mount.Mount(t.Context(), mount.Options{Source: mapped, Target: at, Type: "ext4", ReadOnly: true}); err != nil {
				t.Fatal(err)
			}
			defer v.unmount(at)
			for name, want := range sums {
				data, err := os.ReadFile(filepath.Join(at, name))
				if err != nil || sha256.Sum256(data) != want {
					t.Errorf("%s through the stock kernel: %d bytes that differ from what was written (%v)", name, len(data), err)
				}
			}
		})
	}
}

// stockVolume is a volume, or a stripe of volumes, in image files.
type stockVolume struct {
	t       *testing.T
	dir     string
	images  []string
	keys    [][]byte
	records []luks2.Record
}

func newStockVolume(t *testing.T, members int) *stockVolume {
	t.Helper()
	v := &stockVolume{t: t, dir: t.TempDir()}
	set := uuid.NewString()
	for i := range members {
		image, secret := filepath.Join(v.dir, fmt.Sprintf("disk%d.img", i)), make([]byte, 64)
		_, _ = rand.Read(secret)
		dev, err := blockdev.CreateFile(image, luks2.DataOffset+24<<20)
		if err != nil {
			t.Fatal(err)
		}
		p := luks2.Params{Device: fmt.Sprintf("device-%d", i), Account: "account-1", Broker: "broker-1", KeyBits: 256, SectorSize: 4096}
		if members > 1 {
			p.RAID = &luks2.RAIDMember{Set: set, Index: i, Count: members, Chunk: 64 << 10}
		}
		key := v.secret(secret)
		rec, err := luks2.Format(dev, p, key)
		key.Wipe()
		if err := errors.Join(err, dev.Close()); err != nil {
			t.Fatal(err)
		}
		v.images, v.keys, v.records = append(v.images, image), append(v.keys, secret), append(v.records, rec)
	}
	return v
}

func (v *stockVolume) secret(b []byte) *keymem.Key {
	v.t.Helper()
	key, err := keymem.FromBytes(bytes.Clone(b))
	if err != nil {
		v.t.Fatal(err)
	}
	return key
}

// open is the volume, or the stripe of them, by our own code.
func (v *stockVolume) open() blockdev.Device {
	v.t.Helper()
	var volumes []*nbdcrypt.Volume
	for i, image := range v.images {
		disk, err := blockdev.OpenFile(image, blockdev.FileOptions{})
		if err != nil {
			v.t.Fatal(err)
		}
		vol, err := nbdcrypt.Open(disk, v.records[i], v.secret(v.keys[i]), nbdcrypt.Options{})
		if err != nil {
			v.t.Fatal(err)
		}
		volumes = append(volumes, vol)
	}
	if len(volumes) == 1 {
		return volumes[0]
	}
	stripe, err := nbdcrypt.NewStripe(volumes)
	if err != nil {
		v.t.Fatal(err)
	}
	return stripe
}

// fill makes a file system through our own block device and writes files into it. It returns their checksums.
func (v *stockVolume) fill() map[string][sha256.Size]byte {
	v.t.Helper()
	ctx, dev := context.Background(), v.open()
	at := filepath.Join(v.dir, "ours")
	if err := os.Mkdir(at, 0o700); err != nil {
		v.t.Fatal(err)
	}
	att, err := attach.Attach(ctx, dev, attach.Options{Name: "stock", VolumeUUID: v.records[0].UUID, SectorSize: 4096, RuntimeDir: filepath.Join(v.dir, "run"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		v.t.Fatal(err)
	}
	if err := errors.Join(mount.Format(ctx, mount.FormatOptions{Device: att.Path(), Type: "ext4"}),
		mount.Mount(ctx, mount.Options{Source: att.Path(), Target: at, Type: "ext4"})); err != nil {
		v.t.Fatal(err)
	}
	sums := map[string][sha256.Size]byte{}
	for i, size := range []int{1, 4096, 65537, 5 << 20} {
		data, name := make([]byte, size), fmt.Sprintf("file%d", i)
		_, _ = rand.Read(data)
		if err := os.WriteFile(filepath.Join(at, name), data, 0o600); err != nil {
			v.t.Fatal(err)
		}
		sums[name] = sha256.Sum256(data)
	}
	v.unmount(at)
	for err = att.Close(); errors.Is(err, attach.ErrBusy) && v.t.Context().Err() == nil; err = att.Close() {
	}
	if err := errors.Join(err, dev.Close()); err != nil {
		v.t.Fatal(err)
	}
	return sums
}

func (v *stockVolume) unmount(at string) {
	v.t.Helper()
	if err := mount.Unmount(context.Background(), at, mount.UnmountOptions{}); err != nil {
		v.t.Error(err)
	}
}

// exportedKeys runs exported-key on an exported file of each member and returns what it printed.
func (v *stockVolume) exportedKeys() []string {
	v.t.Helper()
	passphrase := filepath.Join(v.dir, "passphrase")
	if err := os.WriteFile(passphrase, []byte("correct horse battery\n"), 0o600); err != nil {
		v.t.Fatal(err)
	}
	var printed []string
	for i, rec := range v.records {
		text, err := sealExport(rec.Device, fmt.Sprintf("disk %d", i), record.OnWire(rec), v.keys[i], "correct horse battery")
		if err != nil {
			v.t.Fatal(err)
		}
		file := filepath.Join(v.dir, fmt.Sprintf("device-%d.xml", i))
		if err := os.WriteFile(file, text, 0o600); err != nil {
			v.t.Fatal(err)
		}
		var out, errs bytes.Buffer
		a := &app{out: &out, err: &errs, in: strings.NewReader(""), flags: map[string]*string{},
			environ: []string{"KEYWARD_AGENT_STATE_DIR=" + filepath.Join(v.dir, "state"), "KEYWARD_AGENT_RUNTIME_DIR=" + filepath.Join(v.dir, "run")}}
		if code := a.run(v.t.Context(), []string{"exported-key", file, "--passphrase-file", passphrase, "--out", filepath.Join(v.dir, fmt.Sprintf("key%d", i))}); code != exitOK {
			v.t.Fatalf("exported-key ended with %d: %s", code, errs.String())
		}
		printed = append(printed, strings.TrimSpace(out.String()))
	}
	return printed
}

// follow does what the printed lines say, with a person's part: the disks, and the members' names in their order. It
// returns the block device.
func (v *stockVolume) follow(printed []string) string {
	v.t.Helper()
	var names []string
	for i, text := range printed {
		open := words(strings.Replace(strings.Split(text, "\n")[0], "DISK", v.images[i], 1))
		run(v.t, open[0], open[1:]...)
		name := open[len(open)-1]
		names = append(names, "/dev/mapper/"+name)
		v.t.Cleanup(func() { run(v.t, "cryptsetup", "close", name) })
	}
	if len(names) == 1 {
		return names[0]
	}
	lines := strings.Split(printed[0], "\n")
	join := words(strings.Replace(strings.NewReplacer("/dev/mapper/MEMBER0", names[0], "/dev/mapper/MEMBER1", names[1]).Replace(lines[len(lines)-1]), " ... ", " ", 1))
	run(v.t, join[0], join[1:]...)
	v.t.Cleanup(func() { run(v.t, "dmsetup", "remove", join[2]) })
	return "/dev/mapper/" + join[2]
}

// words splits a printed command as a shell does; the guest has none.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1") // the guest has none that would make the device nodes
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
