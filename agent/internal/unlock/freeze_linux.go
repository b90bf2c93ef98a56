package unlock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// FIFREEZE and FITHAW of <linux/fs.h>: _IOWR('X', 119 and 120, int).
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// freeze writes the file system out, makes it consistent on the device and lets every later write wait. When it takes
// longer than wait it is undone and an error returned.
func freeze(ctx context.Context, target string, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- onFileSystem(target, fiFreeze) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("freeze %s: %w", target, err)
		}
		return nil
	case <-ctx.Done():
		go func() {
			if <-done == nil { // it froze after all, when nobody expected it any more
				_ = onFileSystem(target, fiThaw)
			}
		}()
		return fmt.Errorf("freeze %s: %w", target, ctx.Err())
	}
}

// thaw lets writes go on. A file system that is not frozen is no error.
func thaw(target string) error {
	err := onFileSystem(target, fiThaw)
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

func onFileSystem(target string, request uint) error {
	fd, err := unix.Open(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetInt(fd, request, 0)
}
