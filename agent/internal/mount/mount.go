// Package mount makes, checks, mounts and unmounts the file systems on volumes. It execs mkfs.* and e2fsck, mounts by
// system call, refuses to hide what it must not hide, and says which process is in the way when an unmount is refused.
package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Errors that callers act on.
var (
	// ErrSystemPath is returned for a mount point that the system itself lives on.
	ErrSystemPath = errors.New("mount point belongs to the system")
	// ErrNotEmpty is returned for a mount point whose files the mount would hide.
	ErrNotEmpty = errors.New("mount point is not empty")
	// ErrMounted is returned for a mount point on which something is mounted already.
	ErrMounted = errors.New("something is mounted there already")
	// ErrBusy is returned by Unmount while processes use the file system. A *BusyError says which.
	ErrBusy = errors.New("file system is in use")
)

// FileSystems are the types that Format and Mount take.
func FileSystems() []string { return []string{"ext3", "ext4", "xfs"} }

// Options of Mount.
type Options struct {
	Source string // block device
	Target string // mount point, absolute; made with mode 0755 when missing
	Type   string // one of FileSystems
	// ReadOnly mounts without replaying the journal onto a device that cannot be written.
	ReadOnly bool
	// Discard tells the device at once what is freed. It shows whoever sees the medium which parts are in use.
	Discard bool
	// Exec and SUID allow programs on the volume to run, and to run as their owner. Device nodes are never honoured.
	NoExec, AllowSUID bool
	// AllowNonEmpty mounts over files that are in the mount point's folder.
	AllowNonEmpty bool
}

// systemPaths are never mounted over, nor anything below those marked true.
var systemPaths = map[string]bool{
	"/": false, "/bin": true, "/boot": true, "/dev": true, "/etc": true, "/lib": true, "/lib32": true, "/lib64": true,
	"/proc": true, "/run": false, "/sbin": true, "/sys": true, "/usr": true, "/var": false, "/var/lib": false, "/root": false,
	"/home": false, "/tmp": false, "/mnt": false, "/media": false, "/opt": false, "/srv": false, "/var/run": false,
	"/var/lib/dpkg": true, "/var/lib/rpm": true, "/var/lib/keyward": true, "/run/keyward": true, "/run/systemd": true, "/run/udev": true,
}

// CheckTarget returns the cleaned mount point, or says why nothing may be mounted there. Links in it are followed first,
// so that a link to /etc is refused like /etc.
func CheckTarget(target string) (string, error) {
	if !filepath.IsAbs(target) || strings.ContainsRune(target, 0) {
		return "", fmt.Errorf("mount point %q is not an absolute path; give one, such as /mnt/secure", target)
	}
	clean, err := resolve(filepath.Clean(target))
	if err != nil {
		return "", fmt.Errorf("mount point %s: %w", target, err)
	}
	for dir := clean; ; dir = filepath.Dir(dir) {
		if below, known := systemPaths[dir]; known && (below || dir == clean) {
			return "", fmt.Errorf("mount point %s: %w (%s); choose a folder of its own, such as /mnt/secure", target, ErrSystemPath, dir)
		}
		if dir == "/" {
			return clean, nil
		}
	}
}

// resolve follows links of the part of path that exists.
func resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		return real, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if _, lerr := os.Lstat(path); lerr == nil {
		return "", errors.New("it is a link that leads nowhere; remove the link")
	}
	dir, err := resolve(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// Mount mounts o.Source at o.Target. Nothing is left behind when it fails, except a mount point that it made.
func Mount(ctx context.Context, o Options) error {
	if !slices.Contains(FileSystems(), o.Type) {
		return fmt.Errorf("mount %s: file system %q is not supported, use one of %v", o.Source, o.Type, FileSystems())
	}
	target, err := CheckTarget(o.Target)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := prepare(target, o.AllowNonEmpty); err != nil {
		return err
	}
	var flags uintptr = unix.MS_NODEV
	if !o.AllowSUID {
		flags |= unix.MS_NOSUID
	}
	if o.NoExec {
		flags |= unix.MS_NOEXEC
	}
	var data []string
	if o.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if o.Discard && !o.ReadOnly {
		data = append(data, "discard")
	}
	if strings.HasPrefix(o.Type, "ext") {
		data = append(data, "errors=remount-ro") // after an I/O error nothing is built on wrong metadata
	}
	err = unix.Mount(o.Source, target, o.Type, flags, strings.Join(data, ","))
	if err != nil && o.ReadOnly && (errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES)) {
		// An unclean journal on a device that refuses writes: mount what is there.
		err = unix.Mount(o.Source, target, o.Type, flags, strings.Join(append(data, map[bool]string{true: "norecovery", false: "noload"}[o.Type == "xfs"]), ","))
	}
	if err != nil {
		return fmt.Errorf("mount %s at %s as %s: %w%s", o.Source, target, o.Type, err, mountHint(err))
	}
	return nil
}

func mountHint(err error) string {
	switch {
	case errors.Is(err, unix.EINVAL):
		return "; the volume does not hold that file system, or (xfs) a copy of it is still mounted: look at dmesg"
	case errors.Is(err, unix.EBUSY):
		return "; it is mounted elsewhere"
	case errors.Is(err, unix.ENODEV):
		return "; load the kernel module of that file system"
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EIO):
		return "; the file system is damaged: run its fsck on the block device"
	}
	return ""
}

// prepare makes the mount point and refuses one that is in use.
func prepare(target string, allowNonEmpty bool) error {
	if mounted, err := IsMounted(target); err != nil {
		return err
	} else if mounted {
		return fmt.Errorf("mount point %s: %w; unmount that first", target, ErrMounted)
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make mount point %s: %w", target, err)
	}
	if allowNonEmpty {
		return nil
	}
	f, err := os.Open(target)
	if err != nil {
		return fmt.Errorf("look into mount point %s: %w", target, err)
	}
	defer f.Close()
	names, _ := f.Readdirnames(2)
	for _, n := range names {
		if n != "lost+found" {
			return fmt.Errorf("mount point %s: %w: it holds %q; empty it, or allow hiding what it holds", target, ErrNotEmpty, n)
		}
	}
	return nil
}

// Mounts returns the mount table of this process's namespace, oldest first.
func Mounts() ([]*mountinfo.Info, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return infos, nil
}

// IsMounted reports whether something is mounted at exactly target. It touches only the mount table, so a dead file
// system does not block it.
func IsMounted(target string) (bool, error) {
	info, err := At(target)
	return info != nil, err
}

// At returns the topmost mount at exactly target, nil when there is none.
func At(target string) (*mountinfo.Info, error) {
	infos, err := Mounts()
	if err != nil {
		return nil, err
	}
	var top *mountinfo.Info
	for _, i := range infos {
		if i.Mountpoint == filepath.Clean(target) {
			top = i
		}
	}
	return top, nil
}
