// Command demo shows Keyward end to end with real processes, a real disk image and real files:
//
//	demo run     show every step, then leave broker, agent and volume running
//	demo check   the same unattended; stops everything, and fails if anything was left behind
//	demo stop    stop what run left running and remove every trace
//
// Each step checks what it shows: the program ends with exit code 0 only if every step held.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// home is where the demonstration that stays running has everything: disk, databases, keys, logs.
const home = "/var/tmp/keyward-demo"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo run | check | stop")
		os.Exit(2)
	}
	// Interrupts end the steps; what was started is stopped in order.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var err error
	switch os.Args[1] {
	case "run":
		err = detach()
	case "keep":
		err = keep(ctx)
	case "check":
		err = check(ctx)
	case "stop":
		err = stop()
	default:
		err = fmt.Errorf("unknown command %q; use run, check or stop", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// check goes through all steps in a folder of its own and removes it.
func check(ctx context.Context) error {
	dir, err := os.MkdirTemp("/var/tmp", "keyward-demo-check-")
	if err != nil {
		return err
	}
	s := newShow(dir)
	started := time.Now()
	err = s.run(ctx)
	if err != nil {
		s.logs(os.Stderr)
	}
	err = errors.Join(err, s.close())
	err = errors.Join(err, os.RemoveAll(dir), nothingLeft(dir))
	if err == nil {
		fmt.Printf("\ndemo: every step held, in %.1f s; nothing was left behind\n", time.Since(started).Seconds())
	}
	return err
}

// keep goes through all steps and then stays as the service manager of broker and agent until it is told to stop. The
// process that started it reads its output up to the end mark.
func keep(ctx context.Context) error {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(home, "keeper.pid"), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600); err != nil {
		return err
	}
	s := newShow(home)
	err := s.run(ctx)
	if err != nil {
		s.logs(os.Stdout)
		return errors.Join(err, s.close(), os.RemoveAll(home))
	}
	s.printAccess()
	fmt.Print(endMark)
	// Nobody reads the output any more.
	signal.Ignore(syscall.SIGPIPE)
	<-ctx.Done()
	return errors.Join(s.close(), os.RemoveAll(home))
}
