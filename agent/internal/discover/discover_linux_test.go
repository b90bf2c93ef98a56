package discover

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// roots returns the names of the devices that are marked as the system's.
func roots(devices map[string]Device) []string {
	var out []string
	for n, d := range devices {
		if d.Root {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func TestDevices_theSystemsDiskIsKnownThroughEveryStack(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		build func(*machine)
		want  []string
	}{
		{"partition", func(m *machine) {
			m.disk("sda", 8)
			m.part("sda", "sda1", 1, 2)
			m.part("sda", "sda2", 2, 4)
			m.disk("sdb", 8)
			m.mount("/", "ext4", "/dev/sda2", "sda2", "")
		}, []string{"sda", "sda2"}},
		{"whole disk", func(m *machine) {
			m.disk("vda", 8)
			m.disk("vdb", 8)
			m.mount("/", "ext4", "/dev/root", "vda", "")
			m.mount("/data", "ext4", "/dev/vdb", "vdb", "")
		}, []string{"vda"}},
		{"LVM on LUKS on a partition", func(m *machine) {
			m.disk("nvme0n1", 8)
			m.part("nvme0n1", "nvme0n1p3", 3, 6)
			m.disk("dm-0", 6, "dm/name=crypt")
			m.disk("dm-1", 4, "dm/name=vg-root")
			m.stack("dm-0", "nvme0n1p3")
			m.stack("dm-1", "dm-0")
			m.mount("/", "xfs", "/dev/mapper/vg-root", "dm-1", "")
			m.disk("nvme1n1", 8)
		}, []string{"dm-0", "dm-1", "nvme0n1", "nvme0n1p3"}},
		{"mirror of two disks", func(m *machine) {
			m.disk("sda", 8)
			m.disk("sdb", 8)
			m.disk("md0", 8)
			m.stack("md0", "sda", "sdb")
			m.mount("/", "ext4", "/dev/md0", "md0", "")
		}, []string{"md0", "sda", "sdb"}},
		{"btrfs of two disks by anonymous number", func(m *machine) {
			m.disk("sda", 8)
			m.disk("sdb", 8)
			m.disk("sdc", 8)
			m.write("sys/fs/btrfs/1234/devices/sda", "")
			m.write("sys/fs/btrfs/1234/devices/sdb", "")
			m.mount("/", "btrfs", "/dev/sdb", "", "")
		}, []string{"sda", "sdb"}},
		{"overlay on a disk", func(m *machine) {
			m.disk("sda", 8)
			m.disk("sdb", 8)
			m.mount("/run/image", "squashfs", "/dev/sda", "sda", "")
			m.mount("/run/upper", "tmpfs", "tmpfs", "", "")
			m.mount("/", "overlay", "overlay", "", "lowerdir=/run/image/root,upperdir=/run/upper/u,workdir=/run/upper/w")
		}, []string{"sda"}},
		{"image file on a disk", func(m *machine) {
			m.disk("sda", 8)
			m.part("sda", "sda1", 1, 6)
			m.disk("loop0", 2, "loop/backing_file=/host/root.img")
			m.mount("/host", "ext4", "/dev/sda1", "sda1", "")
			m.mount("/", "ext4", "/dev/loop0", "loop0", "")
		}, []string{"loop0", "sda", "sda1"}},
		{"/usr and /boot on disks of their own", func(m *machine) {
			m.disk("sda", 8)
			m.disk("sdb", 8)
			m.disk("sdc", 8)
			m.disk("sdd", 8)
			m.mount("/", "tmpfs", "tmpfs", "", "")
			m.mount("/usr", "ext4", "/dev/sdb", "sdb", "")
			m.mount("/boot/efi", "vfat", "/dev/sdc", "sdc", "")
			m.mount("/usrdata", "ext4", "/dev/sdd", "sdd", "")
		}, []string{"sdb", "sdc"}},
		{"swap partition", func(m *machine) {
			m.disk("sda", 8)
			m.disk("sdb", 8)
			m.part("sdb", "sdb1", 1, 4)
			m.mount("/", "ext4", "/dev/sda", "sda", "")
			m.swaps = []string{"/dev/sdb1   partition\t1024\t0\t-2\n"}
		}, []string{"sda", "sdb", "sdb1"}},
		{"swap file with a blank in its name", func(m *machine) {
			m.disk("sda", 8)
			m.disk("sdb", 8)
			m.mount("/", "ext4", "/dev/sda", "sda", "")
			m.mount("/my\\040disk", "ext4", "/dev/sdb", "sdb", "")
			m.swaps = []string{"/my\\040disk/swap file\t1024\t0\t-2\n"}
		}, []string{"sda", "sdb"}},
		{"zfs", func(m *machine) {
			m.disk("sda", 8)
			m.disk("sdb", 8)
			b := make([]byte, 256<<10)
			copy(b[128<<10:], "\x0c\xb1\xba\x00\x00\x00\x00\x00")
			m.fill("sda", b)
			m.mount("/", "zfs", "rpool/ROOT/debian", "", "")
		}, []string{"sda"}},
		{"root that cannot be traced: every disk with something on it", func(m *machine) {
			m.disk("sda", 8)
			m.disk("sdb", 8)
			m.fill("sdb", []byte("somebody's"))
			m.mount("/", "fuse.unknown", "pool", "", "")
		}, []string{"sdb"}},
		{"overlay whose layers lie elsewhere: every disk with something on it", func(m *machine) {
			m.disk("sda", 8)
			m.fill("sda", []byte("somebody's"))
			m.mount("/", "overlay", "overlay", "", "lowerdir=/var/lib/a:/var/lib/b,upperdir=/var/lib/u")
		}, []string{"sda"}},
		{"network root", func(m *machine) {
			m.disk("sda", 8)
			m.fill("sda", []byte("somebody's"))
			m.mount("/", "nfs4", "server:/root", "", "")
		}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			tc.build(m)
			devices := m.devices()
			if got := roots(devices); !slices.Equal(got, tc.want) {
				t.Errorf("the system stands on %v, want %v", got, tc.want)
			}
			for _, n := range tc.want {
				if devices[n].InUse == "" {
					t.Errorf("%s has no reason", n)
				}
			}
		})
	}
}

func (m *machine) fill(name string, b []byte) {
	m.t.Helper()
	f, err := os.OpenFile(filepath.Join(m.root, "dev", name), os.O_WRONLY, 0)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, 0); err != nil {
		m.t.Fatal(err)
	}
}

func TestDevices_useIsSaidInWords(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.disk("sda", 8)
	m.part("sda", "sda1", 1, 4)
	m.disk("dm-0", 4, "dm/name=vg-data")
	m.stack("dm-0", "sda1")
	m.disk("sdb", 8)
	m.disk("sdc", 8)
	m.mount("/", "tmpfs", "tmpfs", "", "")
	m.mount("/srv", "ext4", "/dev/sdb", "sdb", "")
	devices := m.devices()
	for name, want := range map[string]string{"sda": "used by dm-0 (vg-data)", "sda1": "used by dm-0 (vg-data)", "sdb": "mounted at /srv", "sdc": "", "dm-0": ""} {
		if got := devices[name].InUse; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}

func TestDevices_whatIsNoDiskIsLeftOut(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.disk("sda", 8, "device/model=ST8000  NM", "ro=1")
	m.part("sda", "sda1", 1, 4)
	for _, n := range []string{"ram0", "zram0", "fd0", "loop7"} {
		m.disk(n, 8)
	}
	m.disk("sr0", 0)
	m.disk("nbd0", 0)
	m.disk("cciss!c0d0", 8)
	m.mount("/", "tmpfs", "tmpfs", "", "")
	devices := m.devices()
	var names []string
	for n := range devices {
		names = append(names, n)
	}
	slices.Sort(names)
	if want := []string{"cciss!c0d0", "sda", "sda1"}; !slices.Equal(names, want) {
		t.Errorf("listed %v, want %v", names, want)
	}
	sda := devices["sda"]
	if sda.Kind != KindDisk || sda.Size != 8<<20 || !sda.ReadOnly || !sda.Rotational || sda.SectorSize != 512 ||
		sda.Model != "ST8000  NM" || !slices.Equal(sda.Children, []string{"sda1"}) || !sda.Contents.Empty {
		t.Errorf("sda is %+v", sda)
	}
	if p := devices["sda1"]; p.Kind != KindPartition || p.Parent != "sda" || p.Size != 4<<20 {
		t.Errorf("sda1 is %+v", p)
	}
	if c := devices["cciss!c0d0"]; !strings.HasSuffix(c.Path, "/dev/cciss/c0d0") || c.ProbeError == "" || c.Contents.Empty {
		t.Errorf("a device that cannot be read must not count as empty: %+v", c)
	}
}

func TestDevices_identityIsAsStableAsTheDeviceAllows(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.disk("nvme0n1", 8, "wwid=eui.0025388b91b0", "device/serial=S4  ")
	m.part("nvme0n1", "nvme0n1p1", 1, 4)
	m.disk("sda", 8, "device/wwid=naa.5000c500a1b2", "device/model=ST8000")
	m.disk("vda", 8, "serial=volume-1")
	m.disk("sdb", 8, "device/model=Flash Disk", "device/serial=123 456")
	m.disk("sdc", 8)
	m.link("dev/disk/by-id/ata-GOOD_1", "../../sdc")
	m.link("dev/disk/by-id/wwn-0x5", "../../sdc")
	m.link("dev/disk/by-id/lvm-pv-uuid-XYZ", "../../sdd")
	m.disk("sdd", 8)
	m.disk("dm-0", 8, "dm/uuid=LVM-abc")
	m.disk("loop3", 8, "loop/backing_file=/x")
	m.disk("sde", 8, "device/serial=0000")
	m.disk("sdf", 8, "device/serial=0000")
	m.mount("/", "tmpfs", "tmpfs", "", "")
	devices := m.devices()
	for name, want := range map[string]struct {
		identity string
		stable   bool
	}{
		"nvme0n1": {"wwn:eui.0025388b91b0", true}, "nvme0n1p1": {"wwn:eui.0025388b91b0-part1", true},
		"sda": {"wwn:naa.5000c500a1b2", true}, "vda": {"serial:volume-1", true}, "sdb": {"serial:Flash_Disk_123_456", true},
		"sdc": {"by-id:wwn-0x5", true}, "sdd": {"bus:pci0000:00/slot-sdd", false}, "dm-0": {"uuid:LVM-abc", true},
		"loop3": {"name:loop3", false}, "sde": {"bus:pci0000:00/slot-sde", false}, "sdf": {"bus:pci0000:00/slot-sdf", false},
	} {
		if d := devices[name]; d.Identity != want.identity || d.StableIdentity() != want.stable {
			t.Errorf("%s is %q (stable %v), want %q (%v)", name, d.Identity, d.StableIdentity(), want.identity, want.stable)
		}
	}
}

func TestDevices_withoutProcOrSysIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := Devices(t.Context(), Sources{Sys: t.TempDir()}); err == nil {
		t.Error("no sysfs: no error")
	}
	m := newMachine(t)
	m.disk("sda", 8)
	if _, err := Devices(t.Context(), Sources{Sys: m.root + "/sys", Proc: t.TempDir(), Dev: m.root + "/dev"}); err == nil {
		t.Error("no mount table: no error, and the system's disk would be offered")
	}
}

func TestDevices_ofThisMachine(t *testing.T) {
	t.Parallel()
	devices, err := Devices(t.Context(), Sources{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		t.Logf("%s %s %d bytes root=%v use=%q: %s", d.Path, d.Identity, d.Size, d.Root, d.InUse, d.Contents)
		if d.Path == "" || d.Identity == "" || d.Size <= 0 {
			t.Errorf("incomplete: %+v", d)
		}
	}
}

func TestProbe_loopDeviceWithLVM(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for a loop device")
	}
	img := image(t, 16<<20)
	out, err := exec.Command("losetup", "--find", "--show", img).Output()
	if err != nil {
		t.Skipf("needs losetup and a free loop device: %v", err)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "-d", dev).Run(); err != nil {
			t.Error(err)
		}
	})
	tool(t, "", "pvcreate", "-qq", "-y", "--config", `devices { use_devicesfile=0 filter=["a|`+dev+`|","r|.*|"] }`, dev)
	c, err := ProbeFile(dev)
	if err != nil || len(c.Found) != 1 || c.Found[0].Type != "LVM PV" || c.Found[0].Offset != 512 || len(c.Found[0].UUID) != 32 {
		t.Errorf("found %+v, %v", c, err)
	}
	devices, err := Devices(t.Context(), Sources{})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if d.Path == dev {
			if d.Kind != KindLoop || d.Size != 16<<20 || !d.Contents.Has("LVM PV") || d.SectorSize != 512 {
				t.Errorf("listed as %+v", d)
			}
			return
		}
	}
	t.Errorf("%s is not listed", dev)
}

// A killed agent's NBD device answers nobody until the next agent serves it: looking for disks must not wait for it.
func TestDevices_whatProgramsServeIsListedUnread(t *testing.T) {
	m := newMachine(t)
	m.disk("sda", 8)
	m.disk("nbd0", 8)
	m.part("nbd0", "nbd0p1", 1, 4)
	m.disk("dm-0", 8)
	m.stack("dm-0", "nbd0p1")
	m.disk("md1", 8)
	m.stack("md1", "sda", "dm-0")
	m.disk("loop0", 2, "loop/backing_file=/data/images/a.img")
	m.disk("loop1", 2, "loop/backing_file=/other/b.img")
	m.mount("/", "ext4", "/dev/sda", "sda", "")
	m.mount("/data", "ext4", "/dev/mapper/x", "dm-0", "")
	got := m.devices()
	for name, want := range map[string]bool{"sda": false, "loop1": false, "nbd0": true, "nbd0p1": true, "dm-0": true, "md1": true, "loop0": true} {
		if d, ok := got[name]; !ok || (d.ProbeError == unread) != want {
			t.Errorf("%s: listed %v, %q; want unread %v", name, ok, d.ProbeError, want)
		}
	}
	if !got["sda"].Root || got["nbd0"].Root {
		t.Errorf("the system's disk is told wrong: %+v", got["sda"])
	}
}
