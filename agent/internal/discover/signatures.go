package discover

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"unicode/utf8"
)

// probes run in the order in which their findings are listed. The offsets and magic numbers are those of the kernel's and
// the tools' headers, named at each.
var probes = []func(*reader) []Signature{
	probeLUKS, probeGPT, probeMBR, probeExt, probeXFS, probeBtrfs, probeFAT, probeSwap, probeLVM, probeMD, probeZFS,
	probeMagics,
}

var le, be = binary.LittleEndian, binary.BigEndian

// luks2Secondary are the places where cryptsetup looks for the second header (LUKS2 on-disk format, section 2.2).
var luks2Secondary = []int64{0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000}

// probeLUKS: LUKS1 and LUKS2 on-disk format: magic, version u16 big-endian, LUKS2 label at 24 and UUID at 168.
func probeLUKS(r *reader) []Signature {
	if r.has(0, "LUKS\xba\xbe") {
		h := r.at(0, 208)
		if h == nil {
			return []Signature{{Type: "LUKS1", Detail: "cut short"}}
		}
		switch be.Uint16(h[6:]) {
		case 1:
			return []Signature{{Type: "LUKS1", UUID: text(h[168:208])}}
		case 2:
			return []Signature{{Type: "LUKS2", Label: text(h[24:72]), UUID: text(h[168:208])}}
		}
		return []Signature{{Type: "LUKS2", Detail: "unknown version"}}
	}
	for _, off := range luks2Secondary {
		if h := r.at(off, 208); h != nil && string(h[:6]) == "SKUL\xba\xbe" {
			return []Signature{{Type: "LUKS2", Offset: off, Label: text(h[24:72]), UUID: text(h[168:208]),
				Detail: "secondary header only: repair it"}}
		}
	}
	return nil
}

// probeGPT: UEFI specification, section 5.3: header at LBA 1, copy at the last LBA, for both sector sizes.
func probeGPT(r *reader) []Signature {
	for _, sector := range []int64{512, 4096} {
		if r.has(sector, "EFI PART") {
			s := Signature{Type: "GPT", Offset: sector}
			if h := r.at(sector, 92); h != nil {
				s.UUID = guid(h[56:72])
			}
			return []Signature{s}
		}
	}
	for _, sector := range []int64{512, 4096} {
		if off := r.size/sector*sector - sector; r.has(off, "EFI PART") {
			return []Signature{{Type: "GPT", Offset: off, Detail: "backup table only"}}
		}
	}
	return nil
}

// probeMBR: a boot signature and four entries that can be ones, with at least one in use. FAT and NTFS boot sectors carry
// the same signature, and are told by their own marks.
func probeMBR(r *reader) []Signature {
	b := r.at(0, 512)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa || fatType(b) != "" {
		return nil
	}
	used, protective := false, false
	for e := b[446:510]; len(e) > 0; e = e[16:] {
		if e[0] != 0 && e[0] != 0x80 {
			return nil
		}
		if e[4] != 0 && le.Uint32(e[12:]) != 0 {
			used = true
			protective = protective || e[4] == 0xee
		}
	}
	if !used {
		return nil
	}
	if protective {
		return []Signature{{Type: "MBR", Detail: "protects a GPT"}}
	}
	return []Signature{{Type: "MBR"}}
}

// probeExt: struct ext4_super_block at byte 1024 (fs/ext4/ext4.h). The magic is only two bytes, so sizes must make sense,
// too.
func probeExt(r *reader) []Signature {
	b := r.at(1024, 1024)
	if b == nil || le.Uint16(b[56:]) != 0xef53 {
		return nil
	}
	logBlock, inodes, rev := le.Uint32(b[24:]), le.Uint32(b[0:]), le.Uint32(b[76:])
	if logBlock > 6 || inodes == 0 || le.Uint32(b[4:]) == 0 || rev > 1 || le.Uint32(b[32:]) == 0 {
		return nil
	}
	compat, incompat, roCompat := le.Uint32(b[92:]), le.Uint32(b[96:]), le.Uint32(b[100:])
	const hasJournal = 0x4
	// What ext3 knows: incompat filetype, recover, journal_dev, meta_bg; ro_compat sparse_super, large_file, btree_dir.
	typ := "ext2"
	switch {
	case incompat&^0x1e != 0 || roCompat&^0x7 != 0:
		typ = "ext4"
	case compat&hasJournal != 0:
		typ = "ext3"
	}
	return []Signature{{Type: typ, Offset: 1024, Label: text(b[120:136]), UUID: uuidText(b[104:120])}}
}

// probeXFS: struct xfs_dsb (fs/xfs/libxfs/xfs_format.h).
func probeXFS(r *reader) []Signature {
	b := r.at(0, 512)
	if b == nil || string(b[:4]) != "XFSB" {
		return nil
	}
	return []Signature{{Type: "xfs", Label: text(b[108:120]), UUID: uuidText(b[32:48])}}
}

// probeBtrfs: struct btrfs_super_block at 64 KiB, copies at 64 MiB and 256 GiB (fs/btrfs/disk-io.h).
func probeBtrfs(r *reader) []Signature {
	for i, off := range []int64{64 << 10, 64 << 20, 256 << 30} {
		b := r.at(off, 1024)
		if b == nil || string(b[64:72]) != "_BHRfS_M" {
			continue
		}
		s := Signature{Type: "btrfs", Offset: off, UUID: uuidText(b[32:48]), Label: text(b[299 : 299+256])}
		if i > 0 {
			s.Detail = "copy of the superblock only"
		}
		return []Signature{s}
	}
	return nil
}

// fatType names the boot sector of FAT, NTFS and their relatives.
func fatType(b []byte) string {
	switch {
	case string(b[3:11]) == "NTFS    ":
		return "ntfs"
	case string(b[3:11]) == "EXFAT   ":
		return "exfat"
	case string(b[3:11]) == "-FVE-FS-":
		return "BitLocker"
	case string(b[82:90]) == "FAT32   ", string(b[54:62]) == "FAT16   ", string(b[54:62]) == "FAT12   ", string(b[54:62]) == "FAT     ":
		return "vfat"
	}
	return ""
}

func probeFAT(r *reader) []Signature {
	b := r.at(0, 512)
	if b == nil {
		return nil
	}
	s := Signature{Type: fatType(b)}
	switch {
	case s.Type == "":
		return nil
	case s.Type == "vfat" && string(b[82:90]) == "FAT32   ":
		s.Label, s.UUID = text(b[71:82]), strings.ToUpper(hex.EncodeToString(reversed(b[67:71])))
	case s.Type == "vfat":
		s.Label, s.UUID = text(b[43:54]), strings.ToUpper(hex.EncodeToString(reversed(b[39:43])))
	case s.Type == "ntfs":
		s.UUID = strings.ToUpper(hex.EncodeToString(reversed(b[72:80])))
	}
	if s.Label == "NO NAME" {
		s.Label = ""
	}
	return []Signature{s}
}

// probeSwap: union swap_header (include/linux/swap.h): the magic ends the first page, whatever a page is. A hibernated
// machine writes its own over it.
func probeSwap(r *reader) []Signature {
	for _, page := range []int64{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		b := r.at(page-10, 10)
		if b == nil {
			break
		}
		switch {
		case string(b) == "SWAPSPACE2", string(b) == "SWAP-SPACE":
			s := Signature{Type: "swap", Offset: page - 10}
			if h := r.at(1024, 44); h != nil {
				s.UUID, s.Label = uuidText(h[12:28]), text(h[28:44])
			}
			return []Signature{s}
		case string(b[:9]) == "S1SUSPEND", string(b[:9]) == "S2SUSPEND", string(b[:9]) == "ULSUSPEND":
			return []Signature{{Type: "hibernation", Offset: page - 10}}
		}
	}
	return nil
}

// probeLVM: label_header in one of the first four sectors (LVM2, lib/label/label.h).
func probeLVM(r *reader) []Signature {
	for off := int64(0); off < 4*512; off += 512 {
		b := r.at(off, 512)
		if b != nil && string(b[:8]) == "LABELONE" && string(b[24:32]) == "LVM2 001" {
			s := Signature{Type: "LVM PV", Offset: off}
			if at := le.Uint32(b[20:]); at >= 32 && at <= 512-32 {
				s.UUID = text(b[at : at+32])
			}
			return []Signature{s}
		}
	}
	return nil
}

// probeMD finds metadata of md (include/uapi/linux/raid/md_p.h) at every place a version puts it: 1.1 at the start, 1.2 at
// 4 KiB, 1.0 near the end, 0.90 in the last 64 KiB-aligned block.
func probeMD(r *reader) []Signature {
	const magic = 0xa92b4efc
	places := []struct {
		off     int64
		version string
	}{
		{0, "1.1"}, {4096, "1.2"}, {(r.size/512 - 16) &^ 7 * 512, "1.0"}, {r.size&^(64<<10-1) - 64<<10, "0.90"},
	}
	for _, p := range places {
		b := r.at(p.off, 64)
		if b == nil || le.Uint32(b) != magic && be.Uint32(b) != magic {
			continue
		}
		s := Signature{Type: "md RAID", Offset: p.off, Detail: "metadata " + p.version}
		if p.version != "0.90" {
			s.UUID, s.Label = uuidText(b[16:32]), text(b[32:64])
		}
		return []Signature{s}
	}
	return nil
}

// probeZFS: four labels of 256 KiB, two at each end, with an array of uberblocks in the second half of each
// (OpenZFS, module/zfs/vdev_label.c).
func probeZFS(r *reader) []Signature {
	const label = 256 << 10
	end := r.size &^ (label - 1)
	for _, off := range []int64{0, label, end - 2*label, end - label} {
		b := r.at(off+label/2, label/2)
		for ; len(b) >= 1024; b = b[1024:] {
			if m := le.Uint64(b); m == 0x00bab10c || m == 0x0cb1ba0000000000 {
				return []Signature{{Type: "zfs", Offset: off}}
			}
		}
	}
	return nil
}

// magics are formats that are known by a string at one place. A negative offset counts from the end of the device.
var magics = []struct {
	typ   string
	off   int64
	magic string
}{
	{"iso9660", 32769, "CD001"}, {"udf", 34817, "NSR02"}, {"udf", 34817, "NSR03"}, {"udf", 36865, "NSR02"}, {"udf", 36865, "NSR03"},
	{"squashfs", 0, "hsqs"}, {"erofs", 1024, "\xe2\xe1\xf5\xe0"}, {"f2fs", 1024, "\x10\x20\xf5\xf2"}, {"jfs", 32768, "JFS1"},
	{"reiserfs", 65536 + 52, "ReIsEr"}, {"apfs", 32, "NXSB"}, {"Ceph BlueStore", 0, "bluestore block device"},
	{"Oracle ASM", 32, "ORCLDISK"}, {"dm-integrity", 0, "integrt\x00"}, {"dm-verity", 0, "verity\x00\x00"}, {"qcow2", 0, "QFI\xfb"},
	{"VMDK", 0, "KDMV"}, {"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"DDF RAID", -512, "\xde\x11\xde\x11"}, {"Intel RAID", -1024, "Intel Raid ISM Cfg Sig. "},
}

func probeMagics(r *reader) []Signature {
	var out []Signature
	for _, m := range magics {
		off := m.off
		if off < 0 {
			off += r.size &^ 511
		}
		if r.has(off, m.magic) {
			out = append(out, Signature{Type: m.typ, Offset: off})
		}
	}
	return out
}

// text is a padded field as far as it is printable text.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	s := strings.TrimSpace(string(b))
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return ""
	}
	return s
}

func uuidText(b []byte) string {
	if zero(b) {
		return ""
	}
	h := hex.EncodeToString(b)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// guid prints a GUID, whose first three fields are little-endian.
func guid(b []byte) string {
	var g [16]byte
	copy(g[:], b)
	be.PutUint32(g[0:], le.Uint32(b[0:]))
	be.PutUint16(g[4:], le.Uint16(b[4:]))
	be.PutUint16(g[6:], le.Uint16(b[6:]))
	return uuidText(g[:])
}

func reversed(b []byte) []byte {
	out := make([]byte, len(b))
	for i, v := range b {
		out[len(b)-1-i] = v
	}
	return out
}
