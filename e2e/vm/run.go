package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Result of a run in the guest.
type Result struct {
	// Passed says for each program whether it ended well.
	Passed map[string]bool
	// Leftovers are block devices and mounts that a program did not clean up.
	Leftovers []string
	// Console is all that was printed.
	Console string
	// Boot is the time until the first process ran, Total that until the machine was off.
	Boot, Total time.Duration
}

// Run boots the machine and waits until it has switched itself off. ctx bounds it. line receives the console as it comes
// and may be nil.
func (m Machine) Run(ctx context.Context, line func(string)) (Result, error) {
	r := Result{Passed: map[string]bool{}}
	dir, err := os.MkdirTemp("", "keyward-vm-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	path, args, err := m.qemu(dir)
	if err != nil {
		return r, err
	}
	if err := m.initramfs(filepath.Join(dir, "initramfs")); err != nil {
		return r, fmt.Errorf("make the guest's files: %w", err)
	}
	start := time.Now()
	i, err := boot(ctx, path, args)
	if err != nil {
		return r, err
	}
	ended := r.read(i.lines, start, line)
	err = i.cmd.Wait()
	r.Total = time.Since(start)
	switch {
	case ctx.Err() != nil:
		return r, fmt.Errorf("the guest did not end in time: %w", ctx.Err())
	case err != nil:
		return r, fmt.Errorf("qemu: %w: %s", err, bytes.TrimSpace(i.log.Bytes()))
	case !ended:
		return r, fmt.Errorf("the guest went down before it was done; the end of its console: %s", tail(r.Console, 2000))
	}
	return r, nil
}

// read takes the console apart. It reports whether the guest said that it is done.
func (r *Result) read(lines <-chan string, start time.Time, line func(string)) (ended bool) {
	var console strings.Builder
	for text := range lines {
		if r.Boot == 0 && text != "" {
			r.Boot = time.Since(start)
		}
		console.WriteString(text + "\n")
		if line != nil {
			line(text)
		}
		switch f := said(text); {
		case len(f) >= 3 && f[0] == "program":
			r.Passed[f[1]] = f[2] == "passed"
		case len(f) >= 3 && f[0] == "leftover":
			r.Leftovers = append(r.Leftovers, strings.Join(f[1:], " "))
		case len(f) >= 1 && f[0] == "end":
			ended = true
		}
	}
	r.Console = console.String()
	return ended
}

func tail(s string, n int) string {
	if len(s) > n {
		s = "..." + s[len(s)-n:]
	}
	return s
}
