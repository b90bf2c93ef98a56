package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errDeaf says that a connection of a new device answers and the kernel does not listen.
//
// The kernel reads each connection by a work item that never ends, and has one spare thread per device (the rescuer of the
// work queue nbdN-recv) for the case that new threads cannot be had at once, as on a machine under load or short of
// memory. When that thread takes the item of the first connection, those of the others wait behind it for ever; requests
// on them stall until they time out. So a new device is tried on every connection before anybody depends on it, and a deaf
// one is made anew.
var errDeaf = errors.New("the kernel does not read the answers on one of its connections")

const (
	// deafAfter is how long the kernel may leave answers unread while it waits for them.
	deafAfter = 2 * time.Second
	// mostDeaf is how often a deaf device is made anew.
	mostDeaf = 5
)

// probe opens the device, which makes the kernel look for partitions, and reads its first sectors from each processor,
// because processors choose connections. Storage may take as long as it likes; answers that the kernel leaves unread are
// errDeaf. The probe's own reads end at the latest with the device.
func (a *kernelNBD) probe(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- readFromEveryCPU(ctx, a.Path()) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	since := time.Now()
	for answered := uint64(0); ; {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			// A request that is being worked on, or a new one, shows that the kernel and the Device are at it.
			if s := a.run.server.Stats(); s.InFlight > 0 || s.Requests != answered {
				answered, since = s.Requests, time.Now()
			}
			if time.Since(since) > deafAfter {
				return errDeaf
			}
		}
	}
}

func readFromEveryCPU(ctx context.Context, path string) error {
	fd, err := openNode(ctx, path, unix.O_RDONLY|unix.O_DIRECT)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("get memory to read %s: %w", path, err)
	}
	defer unix.Munmap(buf)
	runtime.LockOSThread() // and never unlocked: the thread's processors are changed, so it ends with the goroutine
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return fmt.Errorf("ask for the processors: %w", err)
	}
	for cpu := range int(unsafe.Sizeof(allowed)) * 8 {
		if !allowed.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			continue // it went offline
		}
		_, _ = unix.Pread(fd, buf, 0) // a medium that cannot be read is for those to judge who need it
	}
	return nil
}
