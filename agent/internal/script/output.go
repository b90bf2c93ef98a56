package script

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// environment of programs that are asked for facts: nothing of the agent's, which may hold a proxy's password.
var environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/"}

// Output runs a program in an environment of its own and returns what it printed, at most limit bytes. One that prints
// more, overruns its time or fails is an error. Whatever it left running is killed with it.
func Output(ctx context.Context, timeout time.Duration, limit int, path string, args ...string) ([]byte, error) {
	if err := Check(path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var complaint bounded
	complaint.limit = 512
	out := bounded{limit: limit, full: cancel}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir = environment, "/"
	cmd.Stdout, cmd.Stderr = &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left behind holds the group's ID
	var exit *exec.ExitError
	switch {
	case out.over:
		return nil, fmt.Errorf("%s printed more than %d bytes", path, limit)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not end within %s", path, timeout)
	case errors.As(err, &exit):
		said := strings.ToValidUTF8(strings.TrimSpace(complaint.buf.String()), "?")
		said, _, _ = strings.Cut(said, "\n")
		return nil, fmt.Errorf("%s: %s %s", path, exit, said)
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out.buf.Bytes(), nil
}

// bounded keeps the first limit bytes, and calls full when there are more. It never fails a write, because the program's
// own error is the better one.
type bounded struct {
	buf   bytes.Buffer // no embedding: its ReadFrom would go around Write
	limit int
	full  func()
	over  bool
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	n := len(p)
	if room := b.limit - b.buf.Len(); n > room {
		p = p[:max(room, 0)]
		b.over = true
		if b.full != nil {
			b.full()
		}
	}
	b.buf.Write(p)
	return n, nil
}
