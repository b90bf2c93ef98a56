package mount

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// UnmountOptions say how far Unmount may go.
type UnmountOptions struct {
	// Grace is how long processes may take to let go, checked several times a second.
	Grace time.Duration
	// Kill sends SIGTERM to the processes that are left after Grace, and SIGKILL after KillWait more (0 means 5 s).
	Kill     bool
	KillWait time.Duration
	// Lazy takes the mount out of the tree when all else failed. Processes keep what they have open, so the volume stays in
	// use until they end.
	Lazy bool
}

// BusyError is the refusal of an unmount. It wraps ErrBusy.
type BusyError struct {
	Target string
	Users  []User
}

func (e *BusyError) Error() string {
	if len(e.Users) == 0 {
		return fmt.Sprintf("unmount %s: %v, but by no process that can be seen here: look for bind mounts, swap and other namespaces",
			e.Target, ErrBusy)
	}
	who := make([]string, 0, len(e.Users))
	for _, u := range e.Users {
		who = append(who, u.String())
	}
	return fmt.Sprintf("unmount %s: %v by %s; end that and try again", e.Target, ErrBusy, strings.Join(who, ", "))
}

func (e *BusyError) Unwrap() error { return ErrBusy }

// Unmount writes the file system at target out and unmounts it. When it is in use it returns a *BusyError after what o
// allows has been tried. A target that is not mounted is no error.
func Unmount(ctx context.Context, target string, o UnmountOptions) error {
	target = filepath.Clean(target)
	info, err := At(target)
	if err != nil || info == nil {
		return err
	}
	if err := syncFS(ctx, target); err != nil {
		return err
	}
	err = unmountWithin(ctx, target, o.Grace)
	if errors.Is(err, unix.EBUSY) && o.Kill {
		err = killAndUnmount(ctx, target, o)
	}
	if errors.Is(err, unix.EBUSY) {
		users, usersErr := Users(target)
		busy := error(&BusyError{Target: target, Users: users})
		if o.Lazy {
			if err := Detach(target); err != nil {
				return errors.Join(busy, err)
			}
			return nil
		}
		return errors.Join(busy, usersErr)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// Detach takes the mount out of the tree at once, whoever uses it.
func Detach(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("detach %s: %w", target, err)
	}
	return nil
}

// syncFS writes out the dirty data of one file system. It gives up waiting, not writing, when ctx ends.
func syncFS(ctx context.Context, target string) error {
	return within(ctx, "write out "+target, func() error {
		fd, err := unix.Open(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Syncfs(fd)
	})
}

// within runs a system call that may hang on a dead device and returns when it or ctx ends.
func within(ctx context.Context, what string, call func() error) error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: the device does not answer: %w", what, ctx.Err())
	}
}

// unmountWithin tries for as long as grace allows; the error is EBUSY then.
func unmountWithin(ctx context.Context, target string, grace time.Duration) error {
	const pause = 50 * time.Millisecond
	deadline := time.Now().Add(grace)
	for {
		err := within(ctx, "unmount", func() error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW) })
		if err == nil || !errors.Is(err, unix.EBUSY) || !time.Now().Before(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func killAndUnmount(ctx context.Context, target string, o UnmountOptions) error {
	if o.KillWait == 0 {
		o.KillWait = 5 * time.Second
	}
	err := error(unix.EBUSY)
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		users, usersErr := Users(target)
		if usersErr != nil {
			return usersErr
		}
		for _, u := range users {
			u.signal(sig)
		}
		if err = unmountWithin(ctx, target, o.KillWait); !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return err
}
