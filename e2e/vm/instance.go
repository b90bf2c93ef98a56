package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// instance is a machine that runs.
type instance struct {
	cmd   *exec.Cmd
	input io.WriteCloser // the serial line
	lines chan string    // what it prints; closed when it is off
	log   bytes.Buffer
}

// boot starts qemu. Ending ctx switches the machine off.
func boot(ctx context.Context, path string, args []string) (*instance, error) {
	i := &instance{cmd: exec.CommandContext(ctx, path, args...), lines: make(chan string, 1024)}
	i.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	i.cmd.Stderr = &i.log
	var err error
	if i.input, err = i.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := i.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := i.cmd.Start(); err != nil {
		return nil, unavailable("start qemu: %w", err)
	}
	go func() {
		defer close(i.lines)
		sc := bufio.NewScanner(out)
		sc.Buffer(make([]byte, 64<<10), 4<<20)
		for sc.Scan() {
			i.lines <- strings.TrimRight(sc.Text(), "\r")
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	return i, nil
}

// await returns the words behind the first line for the host that begins with one of the given words. Other lines go to
// each, which may be nil.
func (i *instance) await(ctx context.Context, each func(string), words ...string) ([]string, error) {
	for {
		select {
		case line, ok := <-i.lines:
			if !ok {
				return nil, fmt.Errorf("the machine went off: %s", bytes.TrimSpace(i.log.Bytes()))
			}
			if each != nil {
				each(line)
			}
			f := said(line)
			for _, w := range words {
				if len(f) > 0 && f[0] == w {
					return f, nil
				}
			}
			if len(f) > 0 && f[0] == "program" {
				return nil, fmt.Errorf("the guest's program ended: %s", line)
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the guest: %w", ctx.Err())
		}
	}
}

// cut takes the power away and waits until the machine is off. What it printed before can still be read from lines.
func (i *instance) cut() error {
	if err := i.cmd.Process.Kill(); err != nil {
		return err
	}
	i.input.Close()
	err := i.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return nil
	}
	return fmt.Errorf("the machine was off before its power was cut: %w: %s", err, bytes.TrimSpace(i.log.Bytes()))
}

// mark starts the lines of the guest's first process, and of programs that speak to the host.
const mark = "@keyward "

// said takes a line for the host apart. The kernel may print in the middle of a line.
func said(line string) []string {
	_, text, ok := strings.Cut(line, mark)
	if !ok {
		return nil
	}
	return strings.Fields(text)
}
