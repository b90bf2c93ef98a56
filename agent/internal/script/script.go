// Package script runs the user's own programs around mounting: one once everything is mounted, one before a volume goes.
// They run as root, so a script that others can change is refused.
package script

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// killAfter is how long a script that overran its time may react to SIGTERM.
const killAfter = 5 * time.Second

// Script is a program of the user's. The zero value has no path and runs nothing.
type Script struct {
	Name    string // for people: "teardown" or "mount_complete"
	Path    string
	Timeout time.Duration
	Logger  *slog.Logger
}

// Run runs the script with env added to its environment and returns when it has ended. One that overruns its time gets
// SIGTERM and then SIGKILL, each for its whole process group.
func (s Script) Run(ctx context.Context, env ...string) error {
	if s.Path == "" {
		return nil
	}
	if err := Check(s.Path); err != nil {
		return fmt.Errorf("%s script: %w", s.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%s script: %w", s.Name, err)
	}
	cmd := exec.CommandContext(ctx, s.Path)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = write, write
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	err = cmd.Start()
	write.Close()
	if err != nil {
		read.Close()
		return fmt.Errorf("%s script %s: %w", s.Name, s.Path, err)
	}
	go s.log(read)
	err = cmd.Wait()
	if ctx.Err() != nil {
		// Whatever the script left behind holds files open on the volume, which is what the script was to end.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		return fmt.Errorf("%s script %s did not end within %s and was killed", s.Name, s.Path, s.Timeout)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s script %s: %s", s.Name, s.Path, exit)
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s script %s: %w", s.Name, s.Path, err)
	}
	return nil
}

// log copies the script's output, line by line, until the last process that holds it ends.
func (s Script) log(read *os.File) {
	defer read.Close()
	lines := bufio.NewScanner(read)
	for lines.Scan() {
		s.Logger.Info("script output", "script", s.Name, "line", lines.Text())
	}
}

// Check refuses a script that is missing, not executable, or that others than root could have written.
func Check(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("%s is not an executable file; run: chmod +x %s", path, path)
	}
	for p := path; ; p = filepath.Dir(p) {
		if info, err = os.Stat(p); err != nil {
			return err
		}
		if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return fmt.Errorf("%s has mode %04o: others could change what root runs; run: chmod go-w %s", p, info.Mode().Perm(), p)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 && int(owner.Uid) != os.Geteuid() {
			return fmt.Errorf("%s belongs to user %d: that user could change what root runs; run: chown root %s", p, owner.Uid, p)
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}
