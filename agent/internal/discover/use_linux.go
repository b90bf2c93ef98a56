package discover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// system are the mount points whose devices the running system stands on; what is mounted below them counts, too.
var system = []string{"/boot", "/efi", "/usr"}

func isSystem(mountPoint string) bool {
	return mountPoint == "/" || slices.ContainsFunc(system, func(s string) bool {
		return mountPoint == s || strings.HasPrefix(mountPoint, s+"/")
	})
}

// diskless file systems stand on no block device of this machine.
var diskless = []string{"tmpfs", "ramfs", "rootfs", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph"}

// markUse fills Root and InUse from the mount tables, swaps and holders.
func (t *tree) markUse() error {
	mounts, err := t.mounts()
	if err != nil {
		return err
	}
	u := &use{t: t, mounts: mounts}
	for _, m := range mounts {
		names, known := u.devicesOf(m, nil)
		root := isSystem(m.Mountpoint)
		for _, n := range names {
			u.mark(n, "mounted at "+m.Mountpoint, root, nil)
		}
		if root && !known && m.Mountpoint == "/" {
			u.suspectAll()
		}
	}
	if err := u.swaps(); err != nil {
		return err
	}
	for _, n := range t.order {
		for _, h := range t.nodes[n].Holders {
			u.mark(n, "used by "+t.title(h), false, nil)
		}
	}
	return nil
}

// mounts reads the tables of the first process and of this one, which may live in a namespace of its own.
func (t *tree) mounts() ([]*mountinfo.Info, error) {
	var out []*mountinfo.Info
	var errs []error
	for _, p := range []string{"1/mountinfo", "self/mountinfo"} {
		f, err := os.Open(filepath.Join(t.src.Proc, p))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		infos, err := mountinfo.GetMountsFromReader(f, nil)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("read the mount table: %w", err)
		}
		out = append(out, infos...)
	}
	if len(errs) == 2 {
		return nil, fmt.Errorf("read the mount tables: %w; procfs must be mounted", errors.Join(errs...))
	}
	return out, nil
}

// use resolves mounts to devices.
type use struct {
	t      *tree
	mounts []*mountinfo.Info
}

// devicesOf returns the block devices right under a mount. known is false when there must be some that were not found.
func (u *use) devicesOf(m *mountinfo.Info, seen []*mountinfo.Info) (names []string, known bool) {
	if slices.Contains(seen, m) {
		return nil, false
	}
	seen = append(seen, m)
	if n, ok := u.t.byDev[fmt.Sprintf("%d:%d", m.Major, m.Minor)]; ok {
		return []string{n}, true
	}
	switch {
	case m.FSType == "overlay":
		return u.overlay(m, seen)
	case m.FSType == "zfs":
		for _, n := range u.t.order {
			if u.t.nodes[n].Contents.Has("zfs") {
				names = append(names, n)
			}
		}
		return names, len(names) > 0
	case strings.HasPrefix(m.Source, "/dev/"):
		n := u.byPath(m.Source)
		if n == "" {
			return nil, false
		}
		if m.FSType == "btrfs" {
			return u.btrfs(n), true
		}
		return []string{n}, true
	}
	return nil, slices.Contains(diskless, m.FSType)
}

// overlay: the device of every layer.
func (u *use) overlay(m *mountinfo.Info, seen []*mountinfo.Info) (names []string, known bool) {
	known = true
	for opt := range strings.SplitSeq(m.VFSOptions, ",") {
		key, dirs, _ := strings.Cut(opt, "=")
		if key != "lowerdir" && key != "upperdir" && key != "lowerdir+" {
			continue
		}
		for dir := range strings.SplitSeq(dirs, ":") {
			below := u.containing(dir)
			if below == nil {
				known = false
				continue
			}
			n, ok := u.devicesOf(below, seen)
			names, known = append(names, n...), known && ok
		}
	}
	return names, known
}

// containing returns the mount that a path lies on, nil for a relative path.
func (u *use) containing(path string) *mountinfo.Info {
	var best *mountinfo.Info
	for _, m := range u.mounts {
		mp := m.Mountpoint
		if path == mp || strings.HasPrefix(path, strings.TrimSuffix(mp, "/")+"/") {
			if best == nil || len(mp) >= len(best.Mountpoint) {
				best = m
			}
		}
	}
	return best
}

// byPath finds the device of a node such as /dev/mapper/vg-root, "" when there is none.
func (u *use) byPath(path string) string {
	rel := strings.TrimPrefix(path, "/dev/")
	if name, ok := strings.CutPrefix(rel, "mapper/"); ok {
		for n := range u.t.nodes {
			if attr(u.t.src.sysBlock(n), "dm/name") == name {
				return n
			}
		}
	}
	if real, err := filepath.EvalSymlinks(filepath.Join(u.t.src.Dev, rel)); err == nil {
		rel = filepath.Base(real)
	}
	rel = strings.ReplaceAll(rel, "/", "!")
	if _, ok := u.t.nodes[rel]; ok {
		return rel
	}
	return ""
}

// btrfs returns all members of the file system that one device belongs to.
func (u *use) btrfs(name string) []string {
	dirs, _ := filepath.Glob(filepath.Join(u.t.src.Sys, "fs/btrfs/*/devices"))
	for _, dir := range dirs {
		if members := list(dir); slices.Contains(members, name) {
			return members
		}
	}
	return []string{name}
}

// mark notes a use on a device and on everything that it stands on.
func (u *use) mark(name, why string, root bool, seen []string) {
	d := u.t.nodes[name]
	if d == nil || slices.Contains(seen, name) {
		return
	}
	seen = append(seen, name)
	d.Root = d.Root || root
	if !strings.Contains("; "+d.InUse+"; ", "; "+why+"; ") {
		d.InUse = strings.TrimPrefix(d.InUse+"; "+why, "; ")
	}
	below := slices.Clone(u.t.slaves[name])
	if d.Parent != "" {
		below = append(below, d.Parent)
	}
	if d.Kind == KindLoop {
		if file := attr(u.t.src.sysBlock(name), "loop/backing_file"); file != "" {
			if m := u.containing(file); m != nil {
				names, _ := u.devicesOf(m, nil)
				below = append(below, names...)
			}
		}
	}
	for _, b := range below {
		u.mark(b, why, root, seen)
	}
}

// suspectAll is for a system whose root could not be traced to a device: every device that is not empty may be it.
func (u *use) suspectAll() {
	for _, n := range u.t.order {
		if d := u.t.nodes[n]; !d.Contents.Empty {
			u.mark(n, "may be under /, whose device cannot be found", true, nil)
		}
	}
}

// swaps marks active swap devices and the devices under swap files (proc(5), /proc/swaps).
func (u *use) swaps() error {
	b, err := os.ReadFile(filepath.Join(u.t.src.Proc, "swaps"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a kernel without swap
	}
	if err != nil {
		return fmt.Errorf("read active swap: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(f[0], "/") {
			continue // the headline
		}
		path := unescape(f[0])
		if f[1] == "partition" {
			u.mark(u.byPath(path), "active swap", true, nil)
			continue
		}
		if m := u.containing(path); m != nil {
			names, _ := u.devicesOf(m, nil)
			for _, n := range names {
				u.mark(n, "active swap file "+path, true, nil)
			}
		}
	}
	return nil
}

// unescape undoes the octal escapes of blanks in procfs.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// title names a holder as people know it.
func (t *tree) title(name string) string {
	if dm := attr(t.src.sysBlock(name), "dm/name"); dm != "" {
		return name + " (" + dm + ")"
	}
	return name
}
