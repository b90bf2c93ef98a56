package discover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"syscall"
)

// image makes a sparse file.
func image(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// tool runs a program of the sbin folders or skips.
func tool(t *testing.T, stdin string, name string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s", name)
	}
	cmd := exec.Command(path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func TestProbe_whatRealToolsMake(t *testing.T) {
	t.Parallel()
	const id = "11223344-5566-7788-99aa-bbccddeeff00"
	for _, tc := range []struct {
		name  string
		size  int64
		tool  []string
		stdin string
		want  Signature
		words string
	}{
		{name: "ext2", tool: []string{"mkfs.ext2", "-q", "-F", "-L", "data", "-U", id, "IMG"},
			want: Signature{Type: "ext2", Offset: 1024, Label: "data", UUID: id}, words: `ext2 file system, label "data", UUID ` + id},
		{name: "ext3", tool: []string{"mkfs.ext3", "-q", "-F", "-L", "data", "-U", id, "IMG"}, want: Signature{Type: "ext3", Offset: 1024, Label: "data", UUID: id}},
		{name: "ext4", tool: []string{"mkfs.ext4", "-q", "-F", "-L", "data", "-U", id, "IMG"}, want: Signature{Type: "ext4", Offset: 1024, Label: "data", UUID: id}},
		{name: "xfs", size: 320 << 20, tool: []string{"mkfs.xfs", "-q", "-L", "data", "-m", "uuid=" + id, "IMG"}, want: Signature{Type: "xfs", Label: "data", UUID: id}},
		{name: "btrfs", size: 128 << 20, tool: []string{"mkfs.btrfs", "-q", "-L", "data", "-U", id, "IMG"}, want: Signature{Type: "btrfs", Offset: 64 << 10, Label: "data", UUID: id}},
		{name: "vfat 32", size: 64 << 20, tool: []string{"mkfs.vfat", "-F", "32", "-n", "DATA", "-i", "1234ABCD", "IMG"}, want: Signature{Type: "vfat", Label: "DATA", UUID: "1234ABCD"}},
		{name: "vfat 16", tool: []string{"mkfs.vfat", "-F", "16", "-n", "DATA", "-i", "1234ABCD", "IMG"}, want: Signature{Type: "vfat", Label: "DATA", UUID: "1234ABCD"}},
		{name: "exfat", tool: []string{"mkfs.exfat", "IMG"}, want: Signature{Type: "exfat"}},
		{name: "ntfs", tool: []string{"mkntfs", "-q", "-F", "-f", "IMG"}, want: Signature{Type: "ntfs", UUID: "*"}},
		{name: "f2fs", size: 64 << 20, tool: []string{"mkfs.f2fs", "-q", "IMG"}, want: Signature{Type: "f2fs", Offset: 1024}},
		{name: "swap", tool: []string{"mkswap", "-L", "spare", "-U", id, "IMG"}, want: Signature{Type: "swap", Offset: 4086, Label: "spare", UUID: id}},
		{name: "swap of 64 KiB pages", tool: []string{"mkswap", "-p", "65536", "-U", id, "IMG"}, want: Signature{Type: "swap", Offset: 65526, UUID: id}},
		{name: "GPT", tool: []string{"sgdisk", "-U", id, "-n", "1:0:0", "IMG"}, want: Signature{Type: "GPT", Offset: 512, UUID: id}},
		{name: "MBR", tool: []string{"sfdisk", "-q", "IMG"}, stdin: "label: dos\n2048,,83\n", want: Signature{Type: "MBR"}},
		{name: "LUKS1", tool: []string{"cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--uuid", id, "IMG", "-"}, stdin: "pw",
			want: Signature{Type: "LUKS1", UUID: id}},
		{name: "LUKS2", size: 32 << 20, tool: []string{"cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--label", "data", "--uuid", id, "IMG", "-"}, stdin: "pw",
			want: Signature{Type: "LUKS2", Label: "data", UUID: id}, words: `LUKS2 encrypted volume, label "data", UUID ` + id},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.size == 0 {
				tc.size = 16 << 20
			}
			img := image(t, tc.size)
			for i, a := range tc.tool {
				tc.tool[i] = strings.Replace(a, "IMG", img, 1)
			}
			tool(t, tc.stdin, tc.tool[0], tc.tool[1:]...)
			c, err := ProbeFile(img)
			if err != nil {
				t.Fatal(err)
			}
			if c.Empty || len(c.Found) == 0 {
				t.Fatalf("found %s", c)
			}
			got := c.Found[0]
			if tc.want.UUID == "*" && got.UUID != "" {
				got.UUID = "*"
			}
			if got != tc.want {
				t.Errorf("found %+v\n want %+v", got, tc.want)
			}
			if tc.words != "" && c.String() != tc.words {
				t.Errorf("says %q, want %q", c, tc.words)
			}
			if tc.want.Type != "GPT" && len(c.Found) != 1 {
				t.Errorf("found more than there is: %s", c)
			}
		})
	}
}

func TestProbe_isoImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	img := filepath.Join(t.TempDir(), "cd.iso")
	tool(t, "", "genisoimage", "-quiet", "-o", img, dir)
	if c, err := ProbeFile(img); err != nil || !c.Has("iso9660") {
		t.Errorf("found %s, %v", c, err)
	}
}

// formats that no tool here can make are laid down by hand, from their documentation.
func TestProbe_metadataAtEveryPlace(t *testing.T) {
	t.Parallel()
	const size = 8<<20 + 12*1024 // not a multiple of 64 KiB, so that rounding is tested
	md := func(b []byte) { binary.LittleEndian.PutUint32(b, 0xa92b4efc) }
	mdBig := func(b []byte) { binary.BigEndian.PutUint32(b, 0xa92b4efc) }
	str := func(s string) func([]byte) { return func(b []byte) { copy(b, s) } }
	uber := func(b []byte) { binary.LittleEndian.PutUint64(b, 0x00bab10c) }
	for _, tc := range []struct {
		name, typ, detail string
		off               int64
		put               func([]byte)
	}{
		{"md 1.1", "md RAID", "metadata 1.1", 0, md},
		{"md 1.2", "md RAID", "metadata 1.2", 4096, md},
		{"md 1.0", "md RAID", "metadata 1.0", (size/512 - 16) &^ 7 * 512, md},
		{"md 0.90", "md RAID", "metadata 0.90", size/65536*65536 - 65536, md},
		{"md 0.90 big-endian", "md RAID", "metadata 0.90", size/65536*65536 - 65536, mdBig},
		{"DDF", "DDF RAID", "", size - 512, str("\xde\x11\xde\x11")},
		{"Intel", "Intel RAID", "", size - 1024, str("Intel Raid ISM Cfg Sig. 1.3.00")},
		{"zfs first label", "zfs", "", 128<<10 + 7*1024, uber},
		{"zfs last label", "zfs", "", size&^(256<<10-1) - 128<<10 + 1024, uber},
		{"LUKS2 secondary only", "LUKS2", "secondary header only: repair it", 16 << 10, str("SKUL\xba\xbe\x00\x02")},
		{"LUKS2 secondary only, large", "LUKS2", "secondary header only: repair it", 4 << 20, str("SKUL\xba\xbe\x00\x02")},
		{"GPT backup only", "GPT", "backup table only", size - 512, str("EFI PART")},
		{"GPT on 4096-byte sectors", "GPT", "", 4096, str("EFI PART")},
		{"LVM in sector 3", "LVM PV", "", 1536, func(b []byte) { copy(b, "LABELONE"); copy(b[24:], "LVM2 001") }},
		{"BitLocker", "BitLocker", "", 3, str("-FVE-FS-")},
		{"hibernation", "hibernation", "", 4086, str("S1SUSPEND\x00")},
		{"qcow2", "qcow2", "", 0, str("QFI\xfb")},
		{"bcache", "bcache", "", 4096 + 24, str("\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81")},
		{"udf", "udf", "", 34817, str("NSR03")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			disk := make([]byte, size)
			tc.put(disk[tc.off:])
			c, err := Probe(bytes.NewReader(disk), size)
			if err != nil || len(c.Found) != 1 || c.Found[0].Type != tc.typ || c.Found[0].Detail != tc.detail || c.Empty {
				t.Errorf("found %+v, %v; want %s (%s)", c, err, tc.typ, tc.detail)
			}
		})
	}
}

func TestProbe_emptyOnlyWhenNothingIsThere(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	for _, tc := range []struct {
		name string
		at   int64
		want string
	}{
		{"all zero", -1, "empty"}, {"first byte", 0, "unknown data"}, {"end of the first MiB", 1<<20 - 1, "unknown data"},
		{"start of the last MiB", size - 1<<20, "unknown data"}, {"last byte", size - 1, "unknown data"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			disk := make([]byte, size)
			if tc.at >= 0 {
				disk[tc.at] = 1
			}
			c, err := Probe(bytes.NewReader(disk), size)
			if err != nil || c.String() != tc.want || c.Empty != (tc.want == "empty") {
				t.Errorf("%s (%+v), %v; want %s", c, c, err, tc.want)
			}
		})
	}
	t.Run("only the middle", func(t *testing.T) {
		disk := make([]byte, size)
		for i := 2 << 20; i < size-2<<20; i++ {
			disk[i] = 0x5a
		}
		if c, err := Probe(bytes.NewReader(disk), size); err != nil || c.Empty {
			t.Errorf("a disk whose ends were wiped counts as %s (%v)", c, err)
		}
	})
	t.Run("wiped file system", func(t *testing.T) {
		img := image(t, 16<<20)
		tool(t, "", "mkfs.ext4", "-q", "-F", img)
		tool(t, "", "wipefs", "-q", "-a", img)
		if c, err := ProbeFile(img); err != nil || c.String() != "unknown data" {
			t.Errorf("%s, %v; want unknown data", c, err)
		}
	})
	for _, n := range []int64{0, 1, 511, 512, 4096, 1 << 20, 1<<20 + 1, 2<<20 - 1} {
		if c, err := Probe(bytes.NewReader(make([]byte, n)), n); err != nil || !c.Empty {
			t.Errorf("%d zero bytes: %s, %v", n, c, err)
		}
	}
}

// failingReader fails from an offset on.
type failingReader struct{ from int64 }

func (f failingReader) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > f.from {
		return 0, syscall.EIO
	}
	clear(p)
	return len(p), nil
}

func TestProbe_readErrorIsNeverEmpty(t *testing.T) {
	t.Parallel()
	for _, from := range []int64{0, 4096, 2 << 20, 63 << 20} {
		if c, err := Probe(failingReader{from}, 64<<20); !errors.Is(err, syscall.EIO) || c.Empty {
			t.Errorf("unreadable from %d: %s, %v", from, c, err)
		}
	}
	if c, err := Probe(bytes.NewReader(make([]byte, 4096)), 8192); !errors.Is(err, io.EOF) || c.Empty {
		t.Errorf("shorter than it says: %s, %v", c, err)
	}
	if _, err := Probe(bytes.NewReader(nil), -1); err == nil {
		t.Error("negative size accepted")
	}
}

func FuzzProbe(f *testing.F) {
	for _, seed := range []string{"", "LUKS\xba\xbe\x00\x02", "LUKS\xba\xbe\x00\x01", "XFSB", "QFI\xfb"} {
		f.Add([]byte(seed), int64(1<<20), int64(0))
	}
	f.Add([]byte("EFI PART"), int64(4096), int64(512))
	f.Add([]byte("LABELONE\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xffLVM2 001"), int64(65536), int64(512))
	f.Add([]byte("_BHRfS_M"), int64(1<<20), int64(65536+64))
	f.Add([]byte("SWAPSPACE2"), int64(4096), int64(4086))
	f.Add([]byte{0x55, 0xaa}, int64(512), int64(510))
	f.Fuzz(func(t *testing.T, data []byte, size, off int64) {
		const most = 8 << 20
		if size < 0 || size > most || off < 0 || off > size || int64(len(data)) > size-off {
			return
		}
		disk := make([]byte, size)
		copy(disk[off:], data)
		c, err := Probe(bytes.NewReader(disk), size)
		if err != nil {
			t.Fatalf("a readable disk gave %v", err)
		}
		if c.Empty && (len(c.Found) > 0 || !zero(disk[:min(edge, size)]) || !zero(disk[max(0, size-edge):])) {
			t.Fatalf("%s counts as empty", c)
		}
		for _, s := range c.Found {
			if s.Offset < 0 || s.Offset >= size || s.Type == "" {
				t.Fatalf("impossible finding %+v on %d bytes", s, size)
			}
		}
		if strings.ContainsAny(c.String(), "\x00\n\x1b") {
			t.Fatalf("control characters from the disk in %q", c)
		}
	})
}
