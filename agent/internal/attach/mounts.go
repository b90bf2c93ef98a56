package attach

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountsOn returns the mount points, newest first, of the file systems on a block device ("loop3", "nbd0") and on its
// partitions. Nothing in it touches the file systems, which may hang.
func mountsOn(name string) []string {
	b, err := os.ReadFile("/sys/block/" + name + "/dev")
	if err != nil {
		return nil
	}
	var devs = map[string]bool{strings.TrimSpace(string(b)): true}
	parts, _ := os.ReadDir("/sys/block/" + name)
	for _, p := range parts {
		if !strings.HasPrefix(p.Name(), name) {
			continue
		}
		if b, err := os.ReadFile("/sys/block/" + name + "/" + p.Name() + "/dev"); err == nil {
			devs[strings.TrimSpace(string(b))] = true
		}
	}
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !devs[fmt.Sprintf("%d:%d", i.Major, i.Minor)], false
	})
	if err != nil {
		return nil
	}
	var out []string
	for i := len(infos) - 1; i >= 0; i-- {
		out = append(out, infos[i].Mountpoint)
	}
	return out
}

// shutdownDetach gives up a file system whose block device is dead: it stops further writes (FS_IOC_SHUTDOWN, ext4 and
// xfs) and takes the mount out of the tree. What processes still hold of it answers EIO.
func shutdownDetach(mountPoint string) error {
	const fsIOCShutdown = 0x8004587d // _IOR('X', 125, __u32), include/uapi/linux/fs.h (EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN)
	const noLogFlush = 2
	if fd, err := unix.Open(mountPoint, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		// Refused by other file systems; then the errors of the device do the same, only slower.
		_ = unix.IoctlSetPointerInt(fd, fsIOCShutdown, noLogFlush)
		unix.Close(fd)
	}
	if err := unix.Unmount(mountPoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("detach %s: %w", mountPoint, err)
	}
	return nil
}
