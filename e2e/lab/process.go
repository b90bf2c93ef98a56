// Package lab starts real brokers and agents as processes on this machine, and talks to them as people and administrators
// do. The end-to-end suites and the demonstration share it.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a daemon that is started again when it dies, as a service manager would.
type Process struct {
	Name string
	Args []string // program first
	Log  string   // file that gets both outputs, appended
	// RestartDelay is the pause before a restart; 0 is 200 ms.
	RestartDelay time.Duration

	mu      sync.Mutex
	command *exec.Cmd
	stop    chan struct{}
	done    chan struct{}
}

// Start runs the program and keeps it running until Stop.
func (p *Process) Start() error {
	if p.RestartDelay == 0 {
		p.RestartDelay = 200 * time.Millisecond
	}
	if err := p.launch(); err != nil {
		return err
	}
	p.stop, p.done = make(chan struct{}), make(chan struct{})
	go p.keep()
	return nil
}

func (p *Process) launch() error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", p.Name, err)
	}
	defer log.Close()
	command := exec.Command(p.Args[0], p.Args[1:]...)
	command.Stdout, command.Stderr = log, log
	// A terminal's interrupt is for the laboratory, which stops its processes in order.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.command = command
	return nil
}

func (p *Process) keep() {
	defer close(p.done)
	for {
		p.mu.Lock()
		command := p.command
		p.mu.Unlock()
		command.Wait()
		select {
		case <-p.stop:
			return
		case <-time.After(p.RestartDelay):
		}
		for p.launch() != nil {
			select {
			case <-p.stop:
				return
			case <-time.After(p.RestartDelay):
			}
		}
	}
}

// PID is the process that runs now.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.command == nil || p.command.Process == nil {
		return 0
	}
	return p.command.Process.Pid
}

// Kill ends the process by SIGKILL; it is started again.
func (p *Process) Kill() error { return p.signal(syscall.SIGKILL) }

// Freeze holds the process where it is, as when its machine hangs; Thaw lets it go on.
func (p *Process) Freeze() error { return p.signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() error { return p.signal(syscall.SIGCONT) }

func (p *Process) signal(s syscall.Signal) error {
	pid := p.PID()
	if pid == 0 { // which would be everything in this process's group
		return fmt.Errorf("%s was never started", p.Name)
	}
	return syscall.Kill(pid, s)
}

// Stop ends the process by SIGTERM, and after grace by SIGKILL, and does not start it again.
func (p *Process) Stop(grace time.Duration) error {
	if p.stop == nil {
		return nil
	}
	select {
	case <-p.stop:
		return nil
	default:
	}
	close(p.stop)
	syscall.Kill(p.PID(), syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
		syscall.Kill(p.PID(), syscall.SIGQUIT) // a Go program tells what it was doing
		select {
		case <-p.done:
		case <-time.After(time.Second):
			p.Kill()
		}
		<-p.done
		return fmt.Errorf("%s did not stop within %s; its log is %s", p.Name, grace, p.Log)
	}
}

// LogTail is the end of the log, for messages about what went wrong.
func (p *Process) LogTail(lines int) string {
	raw, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ResidentMiB is the process's resident memory now.
func ResidentMiB(pid int) (float64, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}

// Eventually calls f until it returns nil, at most for d; then it returns f's last error.
func Eventually(ctx context.Context, d time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("still not so after %s", d), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
