package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const loopMajor = 7 // Documentation/admin-guide/devices.txt

func loopPath(n int) string { return "/dev/loop" + strconv.Itoa(n) }

// loopConfigure binds the open file backing to a free loop device and returns its number. direct reports whether the
// kernel agreed to direct I/O.
func loopConfigure(ctx context.Context, backing int, name string, blockSize int, readOnly bool) (n int, direct bool, err error) {
	ctl, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, false, fmt.Errorf("open /dev/loop-control: %w; the kernel needs the loop module", err)
	}
	defer unix.Close(ctl)
	cfg := unix.LoopConfig{Fd: uint32(backing), Size: uint32(blockSize)}
	cfg.Info.Flags = unix.LO_FLAGS_DIRECT_IO
	if readOnly {
		cfg.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(cfg.Info.File_name[:len(cfg.Info.File_name)-1], name)

	// Between GET_FREE and CONFIGURE another process may take the device: then ask again.
	for try := 0; ; try++ {
		if err := ctx.Err(); err != nil {
			return 0, false, err
		}
		n, err = unix.IoctlRetInt(ctl, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return 0, false, fmt.Errorf("find a free loop device: %w", err)
		}
		direct, err = loopBind(ctx, n, &cfg)
		if err == nil {
			return n, direct, nil
		}
		if !errors.Is(err, unix.EBUSY) || try == 100 {
			return 0, false, fmt.Errorf("configure %s with %d-byte sectors: %w", loopPath(n), blockSize, err)
		}
		time.Sleep(time.Duration(try+1) * time.Millisecond)
	}
}

func loopBind(ctx context.Context, n int, cfg *unix.LoopConfig) (direct bool, err error) {
	fd, err := openNode(ctx, loopPath(n), unix.O_RDWR)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	if err := unix.IoctlLoopConfigure(fd, cfg); err != nil {
		return false, err
	}
	info, err := unix.IoctlLoopGetStatus64(fd)
	return err == nil && info.Flags&unix.LO_FLAGS_DIRECT_IO != 0, nil
}

// openNode opens a device node that devtmpfs or udev may still be about to make.
func openNode(ctx context.Context, path string, flags int) (int, error) {
	for wait := time.Millisecond; ; wait *= 2 {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return fd, nil
		}
		if !(errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO)) || wait > time.Second {
			return -1, fmt.Errorf("open %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return -1, fmt.Errorf("open %s: %w", path, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// loopBacking is the backing file of a loop device as the kernel prints it, "" when it is free. It is read from sysfs
// because LOOP_GET_STATUS64 asks the backing file system, which may be a FUSE mount whose server is dead.
func loopBacking(n int) string {
	b, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", n))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\n")
}

// loopsOf returns the loop devices whose backing file is called name (a name with a volume's UUID in it, so whichever
// folder the kernel shows).
func loopsOf(name string) ([]int, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, f := range files {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(filepath.Dir(f))), "loop"))
		if err != nil {
			continue
		}
		if filepath.Base(strings.TrimSuffix(loopBacking(n), " (deleted)")) == name {
			out = append(out, n)
		}
	}
	return out, nil
}

// loopClear unbinds a loop device and waits until the kernel let go of the backing file. Another opener of the device
// only delays that, so it is an error when it lasts.
func loopClear(n int, wait time.Duration) error {
	was := loopBacking(n)
	if was == "" {
		return nil
	}
	fd, err := unix.Open(loopPath(n), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s to free it: %w", loopPath(n), err)
	}
	err = unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0)
	unix.Close(fd)
	if err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("free %s: %w", loopPath(n), err)
	}
	for end := time.Now().Add(wait); loopBacking(n) == was; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("free %s: %w: another process has it open; it goes away when that ends", loopPath(n), ErrBusy)
		}
	}
	return nil
}

// flushExclusive makes sure that nobody holds the block device and writes out its page cache. ErrBusy names who holds it
// as far as this mount namespace knows.
func flushExclusive(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s: %w: %s", path, ErrBusy, holdersOf(path))
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Fsync(fd); err != nil {
		return fmt.Errorf("write out %s: %w", path, err)
	}
	return nil
}

// holdersOf says in words what keeps a block device busy.
func holdersOf(path string) string {
	name := filepath.Base(path)
	var why []string
	for _, m := range mountsOn(name) {
		why = append(why, "mounted at "+m)
	}
	holders, err := os.ReadDir("/sys/block/" + name + "/holders")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		why = append(why, err.Error())
	}
	for _, h := range holders {
		why = append(why, "used by "+h.Name())
	}
	if len(why) == 0 {
		return "held by swap, or by a mount in another namespace; release it and try again"
	}
	return strings.Join(why, ", ") + "; release that and try again"
}
