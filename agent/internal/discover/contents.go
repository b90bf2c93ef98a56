// Package discover finds the block devices of a machine and says what each holds and who uses it, so that nothing that
// holds data, and never the disk that the system stands on, is offered for encryption. It only reads.
package discover

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// Signature is one thing recognised on a device.
type Signature struct {
	// Type is a short word: "ext4", "xfs", "LUKS2", "GPT", "LVM PV", "md RAID" ...
	Type string
	// Offset in bytes of what was recognised.
	Offset int64
	// Label and UUID where the format has them and they were read.
	Label, UUID string
	// Detail says more, e.g. "secondary header only".
	Detail string
}

// String reads "ext4 file system, label "data", UUID 1234".
func (s Signature) String() string {
	out := s.Type
	if word := kinds[s.Type]; word != "" {
		out += " " + word
	}
	if s.Detail != "" {
		out += " (" + s.Detail + ")"
	}
	if s.Label != "" {
		out += fmt.Sprintf(", label %q", s.Label)
	}
	if s.UUID != "" {
		out += ", UUID " + s.UUID
	}
	return out
}

// kinds completes a type to words.
var kinds = map[string]string{
	"ext2": "file system", "ext3": "file system", "ext4": "file system", "xfs": "file system", "btrfs": "file system",
	"vfat": "file system", "exfat": "file system", "ntfs": "file system", "zfs": "pool member", "iso9660": "file system",
	"udf": "file system", "squashfs": "file system", "erofs": "file system", "f2fs": "file system", "jfs": "file system",
	"reiserfs": "file system", "apfs": "container", "swap": "space", "GPT": "partition table",
	"MBR": "partition table", "LUKS1": "encrypted volume", "LUKS2": "encrypted volume", "LVM PV": "(physical volume)",
	"md RAID": "member", "DDF RAID": "member", "Intel RAID": "member", "bcache": "device", "BitLocker": "encrypted volume",
	"Ceph BlueStore": "device", "Oracle ASM": "disk", "dm-integrity": "device", "dm-verity": "hash device", "qcow2": "disk image",
	"VMDK": "disk image", "hibernation": "image",
}

// Contents is what a device holds as far as can be recognised.
type Contents struct {
	Found []Signature
	// Empty is true only when nothing was recognised and every byte looked at is zero: the first and last MiB and samples
	// between. Everything else that was not recognised is unknown data, and may be somebody's.
	Empty bool
}

// String says it in words: "empty", "unknown data", or what was found.
func (c Contents) String() string {
	if c.Empty {
		return "empty"
	}
	if len(c.Found) == 0 {
		return "unknown data"
	}
	words := make([]string, len(c.Found))
	for i, s := range c.Found {
		words[i] = s.String()
	}
	return strings.Join(words, "; ")
}

// Has reports whether a signature of that type was found.
func (c Contents) Has(typ string) bool {
	for _, s := range c.Found {
		if s.Type == typ {
			return true
		}
	}
	return false
}

const (
	edge    = 1 << 20 // of both ends, looked at whole
	samples = 64      // between them, 4 KiB each
)

// reader reads pieces of a device whose size is known; what lies outside reads as absent.
type reader struct {
	r    io.ReaderAt
	size int64
	err  error // first I/O error, which ends the probe: a guess on half the data could destroy the other half
	head []byte
}

// at returns n bytes at off, or nil when they are not wholly inside the device.
func (r *reader) at(off int64, n int) []byte {
	if off < 0 || n < 0 || r.err != nil || off > r.size-int64(n) {
		return nil
	}
	if off+int64(n) <= int64(len(r.head)) {
		return r.head[off : off+int64(n)]
	}
	buf := make([]byte, n)
	// A ReaderAt may say EOF together with all bytes at the very end; fewer bytes mean that the size is wrong.
	if m, err := r.r.ReadAt(buf, off); m < n {
		r.err = fmt.Errorf("read %d bytes at %d of %d: %w", n, off, r.size, err)
		return nil
	}
	return buf
}

func (r *reader) has(off int64, magic string) bool {
	b := r.at(off, len(magic))
	return b != nil && string(b) == magic
}

// Probe says what a device of size bytes holds. It reads about 6 MiB and never writes. An I/O error is returned and means
// that nothing is known.
func Probe(r io.ReaderAt, size int64) (Contents, error) {
	if size < 0 {
		return Contents{}, fmt.Errorf("probe: size %d is negative", size)
	}
	rd := &reader{r: r, size: size}
	rd.head = rd.at(0, int(min(size, edge)))
	var c Contents
	for _, p := range probes {
		c.Found = append(c.Found, p(rd)...)
		if rd.err != nil {
			return Contents{}, fmt.Errorf("probe: %w", rd.err)
		}
	}
	if len(c.Found) > 0 {
		return c, nil
	}
	c.Empty = rd.blank()
	if rd.err != nil {
		return Contents{}, fmt.Errorf("probe: %w", rd.err)
	}
	return c, nil
}

// ProbeFile says what a device node or file holds.
func ProbeFile(path string) (Contents, error) {
	f, err := os.Open(path)
	if err != nil {
		return Contents{}, fmt.Errorf("probe: %w", err)
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return Contents{}, fmt.Errorf("probe %s: find its size: %w", path, err)
	}
	c, err := Probe(f, size)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// blank reports whether everything that is looked at is zero.
func (r *reader) blank() bool {
	if !zero(r.head) {
		return false
	}
	if r.size <= edge {
		return r.err == nil
	}
	tail := max(edge, r.size-edge)
	if b := r.at(tail, int(r.size-tail)); b == nil || !zero(b) {
		return false
	}
	step := (r.size - 2*edge) / (samples + 1) &^ 4095
	for i := int64(1); i <= samples && step > 0; i++ {
		if b := r.at(edge+i*step, 4096); b != nil && !zero(b) {
			return false
		}
	}
	return r.err == nil
}

func zero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
