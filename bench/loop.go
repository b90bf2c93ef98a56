package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mountSize is the size of every image that a file system is made on, bytes.
const mountSize = 1 << 30

// run executes a program and returns its output without the line end.
func run(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %.400s", program, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// mountLoop is a loop device on the image, in clear: what no user-space block device can beat.
func mountLoop(ctx context.Context, m *mounted, dir string) error {
	image := filepath.Join(dir, "disk.img")
	if err := allocate(image, mountSize); err != nil {
		return err
	}
	return m.onLoop(ctx, image, dir)
}

// onLoop makes a file system on a loop device on the file and mounts it. Direct I/O is asked for, as Keyward's agent does,
// and left out where the file system below has none.
func (m *mounted) onLoop(ctx context.Context, file, dir string) error {
	device, err := run(ctx, "losetup", "--find", "--show", "--direct-io=on", "--sector-size", "4096", file)
	if err != nil {
		if device, err = run(ctx, "losetup", "--find", "--show", "--sector-size", "4096", file); err != nil {
			return err
		}
	}
	m.undo = append(m.undo, func() error { _, err := run(context.Background(), "losetup", "--detach", device); return err })
	if _, err := run(ctx, "mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", device); err != nil {
		return err
	}
	m.point = filepath.Join(dir, "mnt")
	if err := os.Mkdir(m.point, 0o700); err != nil {
		return err
	}
	if _, err := run(ctx, "mount", "-t", "ext4", device, m.point); err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { _, err := run(context.Background(), "umount", m.point); return err })
	return nil
}

func mountNBDFuse(ctx context.Context, m *mounted, dir string) error {
	image := filepath.Join(dir, "disk.img")
	if err := allocate(image, mountSize); err != nil {
		return err
	}
	return m.onNBDFuse(ctx, dir, "file", image)
}

func mountNBDFuseLUKS(ctx context.Context, m *mounted, dir string) error {
	m.encrypted = true
	image := filepath.Join(dir, "disk.img")
	if err := formatLUKS1(ctx, image); err != nil {
		return err
	}
	return m.onNBDFuse(ctx, dir, "--filter=luks", "file", image, "passphrase="+passphrase)
}

// onNBDFuse serves an image by nbdkit, shows it as a file by nbdfuse, and mounts that.
func (m *mounted) onNBDFuse(ctx context.Context, dir string, plugin ...string) error {
	socket, file := filepath.Join(dir, "nbd.sock"), filepath.Join(dir, "nbd")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		return err
	}
	server := exec.CommandContext(ctx, "nbdkit", append([]string{"-f", "-U", socket}, plugin...)...)
	if err := m.daemon(server, func() bool { _, err := os.Stat(socket); return err == nil }); err != nil {
		return err
	}
	client := exec.CommandContext(ctx, "nbdfuse", file, "nbd+unix:///?socket="+socket)
	mountedAt := func() bool { info, err := os.Stat(file); return err == nil && info.Size() > 0 }
	if err := m.daemon(client, mountedAt); err != nil {
		return err
	}
	m.undo = append(m.undo, func() error { _, err := run(context.Background(), "umount", file); return err })
	return m.onLoop(ctx, file, dir)
}

// daemon starts a program that runs until it is undone, and waits until ready.
func (m *mounted) daemon(command *exec.Cmd, ready func() bool) error {
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := command.Start(); err != nil {
		return err
	}
	m.undo = append(m.undo, func() error {
		command.Process.Signal(syscall.SIGTERM)
		command.Wait()
		return nil
	})
	for range 500 {
		if ready() {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s was not ready within 10 s", filepath.Base(command.Path))
}

// allocate makes a file of zeroes with all its blocks.
func allocate(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Fallocate(int(file.Fd()), 0, 0, size); err != nil {
		return fmt.Errorf("allocate %d bytes for %s: %w", size, path, err)
	}
	return nil
}
