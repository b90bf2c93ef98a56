package provider

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/agent/internal/discover"
)

var _ Provider = (*Native)(nil)

// host is a machine of two disks, the first of which holds /.
type host struct {
	t    *testing.T
	root string
}

func newHost(t *testing.T) host {
	h := host{t, t.TempDir()}
	h.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
	h.write("sys/class/dmi/id/product_uuid", "4C4C4544-0044-4410-8030-B4C04F4D3232\n")
	for i, d := range []string{"sda", "sdb"} {
		h.write("sys/block/"+d+"/dev", []string{"8:0\n", "8:16\n"}[i])
		h.write("sys/block/"+d+"/size", "16384\n")
		h.write("sys/block/"+d+"/serial", "serial-"+d+"\n")
		h.write("dev/"+d, "")
		if err := os.Truncate(filepath.Join(h.root, "dev", d), 16384*512); err != nil {
			t.Fatal(err)
		}
	}
	h.write("proc/self/mountinfo", "20 1 8:0 / / rw - ext4 /dev/sda rw\n")
	h.write("proc/1/mountinfo", "20 1 8:0 / / rw - ext4 /dev/sda rw\n")
	return h
}

func (h host) write(path, content string) {
	h.t.Helper()
	full := filepath.Join(h.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func (h host) config() NativeConfig {
	return NativeConfig{Location: "rack 7", UserData: "DataKey=MySecretKey", HostName: "web-1", Etc: h.root + "/etc",
		Sources: discover.Sources{Sys: h.root + "/sys", Proc: h.root + "/proc", Dev: h.root + "/dev"}}
}

func (h host) native(c NativeConfig) *Native {
	h.t.Helper()
	n, err := NewNative(c)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

func TestNative_instanceIsTheMachineItself(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	n := h.native(h.config())
	a, err := n.Instance(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if a.ImageID != a.ID || a.HostName != "web-1" || a.Location != "rack 7" || a.UserData != "DataKey=MySecretKey" || n.Name() != "Native" {
		t.Errorf("instance %+v", a)
	}
	if strings.Contains(a.ID, "0123456789ab") || strings.Contains(strings.ToUpper(a.ID), "4C4C4544") {
		t.Errorf("ID %s discloses what it is made of", a.ID)
	}
	if b, err := h.native(h.config()).Instance(context.Background()); err != nil || b.ID != a.ID {
		t.Errorf("asked again it is %s (%v), was %s", b.ID, err, a.ID)
	}
	for what, change := range map[string]func(){
		"machine ID":   func() { h.write("etc/machine-id", "1123456789abcdef0123456789abcdef\n") },
		"product UUID": func() { h.write("sys/class/dmi/id/product_uuid", "5C4C4544-0044-4410-8030-B4C04F4D3232\n") },
	} {
		change()
		if b, err := n.Instance(context.Background()); err != nil || b.ID == a.ID {
			t.Errorf("another %s gives %s (%v), the same as before", what, b.ID, err)
		}
	}
}

func TestNative_noMachineIDIsAnError(t *testing.T) {
	t.Parallel()
	for _, content := range []string{"", "uninitialized\n", "00000000000000000000000000000000\n", "0123\n"} {
		h := newHost(t)
		h.write("etc/machine-id", content)
		if i, err := h.native(h.config()).Instance(context.Background()); err == nil {
			t.Errorf("machine-id %q gave instance %s: all such machines would be one", content, i.ID)
		}
	}
}

func TestNative_devicesWithoutTheRootDisk(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	img := filepath.Join(h.root, "data.img")
	h.write("data.img", "somebody's")
	if err := os.Truncate(img, 1<<20); err != nil {
		t.Fatal(err)
	}
	c := h.config()
	c.Images = []ImageFile{{Path: img}, {Path: filepath.Join(h.root, "taken-out.img")}}
	devices, err := h.native(c).Devices(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(devices) != 2 {
		t.Fatalf("devices %+v, want sdb and the image", devices)
	}
	if d := devices[0]; d.ID != "serial:serial-sdb" || d.Name != "sdb" || d.Kind != KindDisk || d.Size != 8<<20 || !d.Empty || d.InUse != "" || !d.StableID {
		t.Errorf("disk %+v", d)
	}
	if d := devices[1]; !strings.HasPrefix(d.ID, "file:") || d.Name != "data.img" || d.Kind != KindImage || d.Size != 1<<20 || d.Empty || d.Contents != "unknown data" {
		t.Errorf("image %+v", d)
	}
}

func TestNative_imageIdentityStaysWithTheFile(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	img, other := filepath.Join(h.root, "data.img"), filepath.Join(h.root, "other.img")
	h.write("data.img", "1")
	h.write("other.img", "2")
	c := h.config()
	c.Images = []ImageFile{{Path: img}}
	id := func() string {
		t.Helper()
		devices, err := h.native(c).Devices(context.Background())
		if err != nil || len(devices) != 2 {
			t.Fatalf("%+v, %v", devices, err)
		}
		return devices[1].ID
	}
	first := id()
	h.write("data.img", "encrypted by now")
	if got := id(); got != first {
		t.Errorf("new contents changed the identity from %s to %s", first, got)
	}
	if err := os.Rename(other, img); err != nil {
		t.Fatal(err)
	}
	if got := id(); got == first {
		t.Error("another file at the same path has the same identity")
	}
	link := filepath.Join(h.root, "link.img")
	if err := os.Symlink(img, link); err != nil {
		t.Fatal(err)
	}
	c.Images = append(c.Images, ImageFile{Path: link})
	if _, err := h.native(c).Devices(context.Background()); err == nil {
		t.Error("one file under two names was listed twice: it could be encrypted twice")
	}
}

func TestNative_refusesImagesThatAreNone(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	for _, path := range []string{"relative.img", h.root + "/x/../y.img", ""} {
		c := h.config()
		c.Images = []ImageFile{{Path: path}}
		if _, err := NewNative(c); err == nil {
			t.Errorf("%q is accepted", path)
		}
	}
	c := h.config()
	c.Images = []ImageFile{{Path: h.root}}
	if _, err := h.native(c).Devices(context.Background()); err == nil {
		t.Error("a folder is accepted")
	}
}

func TestNative_ofThisMachine(t *testing.T) {
	t.Parallel()
	n, err := NewNative(NativeConfig{})
	if err != nil {
		t.Fatal(err)
	}
	devices, err := n.Devices(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if strings.Contains(d.InUse, "mounted at /;") || d.InUse == "mounted at /" {
			t.Errorf("the disk that holds / is listed: %+v", d)
		}
	}
}
