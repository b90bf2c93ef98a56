package unlock

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/record"
	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

const testChunk = 64 << 10

// testSet is an encrypted RAID set in image files, with what a broker delivers for it.
type testSet struct {
	t      *testing.T
	disks  map[string]string // by identity
	keys   []byte
	device api.AssignedDevice
}

func newTestSet(t *testing.T, members int) *testSet {
	t.Helper()
	s := &testSet{t: t, disks: map[string]string{}, device: api.AssignedDevice{KeyBits: 256, MountPoint: "/nowhere",
		Set: &api.AssignedSet{ID: uuid.NewString(), Name: "stripe", Chunk: testChunk}}}
	dir := t.TempDir()
	for i := range members {
		id, identity := fmt.Sprintf("device-%d", i), fmt.Sprintf("identity-%d", i)
		secret := make([]byte, 64)
		_, _ = rand.Read(secret)
		s.disks[identity] = filepath.Join(dir, id)
		dev, err := blockdev.CreateFile(s.disks[identity], luks2.DataOffset+1<<20)
		if err != nil {
			t.Fatal(err)
		}
		key, err := keymem.FromBytes(bytes.Clone(secret))
		if err != nil {
			t.Fatal(err)
		}
		made, err := luks2.Format(dev, luks2.Params{Device: id, Account: "a", Broker: "b", KeyBits: 256, SectorSize: 4096,
			RAID: &luks2.RAIDMember{Set: s.device.Set.ID, Index: i, Count: members, Chunk: testChunk}}, key)
		key.Wipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := dev.Close(); err != nil {
			t.Fatal(err)
		}
		s.keys = append(s.keys, secret...)
		wire := record.OnWire(made)
		s.device.Set.Members = append(s.device.Set.Members, api.AssignedMember{ID: id, Identity: identity, Name: "disk " + id, Volume: &wire})
	}
	s.device.ID, s.device.SetID = "device-0", s.device.Set.ID
	return s
}

func (s *testSet) grant() *volume.Grant {
	s.t.Helper()
	key, err := keymem.FromBytes(bytes.Clone(s.keys))
	if err != nil {
		s.t.Fatal(err)
	}
	d := s.device
	set := *d.Set
	set.Members = slices.Clone(set.Members)
	d.Set = &set
	return &volume.Grant{Key: key, Device: d, Volume: *set.Members[0].Volume}
}

func (s *testSet) platform() *Platform {
	return New(Options{AccountID: "a", RuntimeDir: s.t.TempDir(), Logger: slog.New(slog.DiscardHandler),
		Disk: func(identity string) (string, bool) { path, here := s.disks[identity]; return path, here }})
}

// unseal opens what a grant brings, without making a block device of it.
func (s *testSet) unseal(g *volume.Grant) (*export, error) {
	x, err := s.platform().unseal("", Passed{Device: g.Device, Volume: g.Volume}, g.Key)
	if err != nil {
		g.Key.Wipe()
	}
	return x, err
}

func TestOpen_aRAIDSetWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	s := newTestSet(t, 3)
	x, err := s.unseal(s.grant())
	if err != nil {
		t.Fatal(err)
	}
	if x.dev.Size() != 3<<20 || x.name() != "stripe" || x.id() != s.device.Set.ID {
		t.Errorf("%s (%s) of %d bytes", x.name(), x.id(), x.dev.Size())
	}
	data := make([]byte, 3*testChunk)
	_, _ = rand.Read(data)
	if _, err := x.dev.WriteAt(data, testChunk/2); err != nil {
		t.Fatal(err)
	}
	// Suspended and resumed, it goes on; with other keys, or those of a part, it does not.
	if err := x.suspend(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(g *volume.Grant, keys []byte) []byte{
		"exchanged keys": func(_ *volume.Grant, k []byte) []byte { return slices.Concat(k[64:128], k[:64], k[128:]) },
		"one key short":  func(_ *volume.Grant, k []byte) []byte { return k[:128] },
		"another member's record": func(g *volume.Grant, k []byte) []byte {
			g.Device.Set.Members[2].Volume = g.Device.Set.Members[1].Volume
			return k
		},
		"one member less":          func(g *volume.Grant, k []byte) []byte { g.Device.Set.Members = g.Device.Set.Members[:2]; return k },
		"the first volume, no set": func(g *volume.Grant, k []byte) []byte { g.Device.Set = nil; return k[:64] },
	} {
		g := s.grant()
		g.Key.Wipe()
		if g.Key, err = keymem.FromBytes(bytes.Clone(change(g, s.keys))); err != nil {
			t.Fatal(err)
		}
		if err := x.Resume(t.Context(), g); err == nil {
			t.Fatalf("%s: resumed", name)
		}
		if g.Key.Len() != 0 {
			t.Errorf("%s: the key was not wiped", name)
		}
	}
	if err := x.Resume(t.Context(), s.grant()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if _, err := x.dev.ReadAt(got, testChunk/2); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after resuming: %v, or other bytes than were written", err)
	}
	x.spare.Wipe()
	if err := x.dev.Close(); err != nil {
		t.Error(err)
	}

	for name, c := range map[string]struct {
		change func(g *volume.Grant)
		want   string
	}{
		"a member that is not here": {func(g *volume.Grant) { g.Device.Set.Members[1].Identity = "gone" }, "member 1 of 3 of RAID set stripe, device disk device-1, is not on this machine"},
		"exchanged disks":           {func(g *volume.Grant) { exchange(g, 0, 1, func(m *api.AssignedMember) *string { return &m.Identity }) }, "raid_index"},
		"members in another order":  {func(g *volume.Grant) { m := g.Device.Set.Members; m[0], m[1] = m[1], m[0] }, "key"},
		"a record that names no place": {func(g *volume.Grant) {
			v := *g.Device.Set.Members[2].Volume
			v.RAID = nil
			g.Device.Set.Members[2].Volume = &v
		}, "raid_set"},
		"a member without a record": {func(g *volume.Grant) { g.Device.Set.Members[2].Volume = nil }, "without a volume record"},
		"another account's member": {func(g *volume.Grant) {
			v := *g.Device.Set.Members[2].Volume
			v.Account = "x"
			g.Device.Set.Members[2].Volume = &v
		}, "account"},
		"two members of three": {func(g *volume.Grant) { g.Device.Set.Members = g.Device.Set.Members[:2] }, "192 bytes"},
		"another chunk":        {func(g *volume.Grant) { g.Device.Set.Chunk = 4096 }, "its volume record says otherwise"},
		"another set":          {func(g *volume.Grant) { g.Device.Set.ID = uuid.NewString() }, "its volume record says otherwise"},
	} {
		g := s.grant()
		c.change(g)
		x, err := s.unseal(g)
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = x.dev.Close()
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q in it", name, err, c.want)
		}
	}
}

func exchange(g *volume.Grant, a, b int, field func(*api.AssignedMember) *string) {
	x, y := field(&g.Device.Set.Members[a]), field(&g.Device.Set.Members[b])
	*x, *y = *y, *x
}

// A RAID set is one block device of the kernel, goes on after it was held, and where the kernel has nbd also in the next life
// of the agent, which finds the disks where the former one had them.
func TestOpen_aRAIDSetIsOneBlockDevice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil && !attach.HasNBD(t.Context()) {
		t.Skip("needs /dev/fuse, or a kernel with nbd")
	}
	s := newTestSet(t, 2)
	p := s.platform()
	e, err := p.Open(t.Context(), "", s.grant())
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 2<<20)
	_, _ = rand.Read(data)
	s.write(e, data)
	if detail := e.Hold(t.Context(), "test"); detail != "" {
		t.Error(detail)
	}
	if err := e.Resume(t.Context(), s.grant()); err != nil {
		t.Fatal(err)
	}
	s.reads(e, data)
	if attach.HasNBD(t.Context()) {
		e = s.nextLife(p, e)
		s.reads(e, data)
		_, _ = rand.Read(data)
		s.write(e, data)
		s.reads(e, data)
	}
	if held, detail := e.GiveUp(t.Context(), "test"); held || detail != "" {
		t.Errorf("given up: held %v, %s", held, detail)
	}
	x, err := s.unseal(s.grant())
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if _, err := x.dev.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("on the disks: %v, or other bytes than were written", err)
	}
	x.spare.Wipe()
	if err := x.dev.Close(); err != nil {
		t.Error(err)
	}
}

// nextLife passes an export on as an upgrade does, to an agent that has not looked for disks yet.
func (s *testSet) nextLife(p *Platform, e volume.Export) volume.Export {
	s.t.Helper()
	passed, key, conns, err := Pass(s.t.Context(), e)
	if err != nil {
		s.t.Fatal(err)
	}
	own, err := key.Clone()
	if err == nil {
		err = closeParts(e.(*export).parts) // in an upgrade the program is replaced
	}
	if err != nil {
		s.t.Fatal(err)
	}
	key.Wipe()
	next := New(Options{AccountID: "a", RuntimeDir: p.o.RuntimeDir, Logger: p.o.Logger})
	x, err := next.Adopt(s.t.Context(), "", passed, own, conns)
	if err != nil {
		s.t.Fatal(err)
	}
	return x
}

func (s *testSet) write(e volume.Export, data []byte) {
	s.t.Helper()
	f, err := os.OpenFile(e.Info().BlockDevice, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = f.WriteAt(data, 0)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *testSet) reads(e volume.Export, want []byte) {
	s.t.Helper()
	f, err := os.Open(e.Info().BlockDevice)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil { // so that the volume is asked
		s.t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		s.t.Errorf("%s: %v, or other bytes than were written", e.Info().BlockDevice, err)
	}
}
