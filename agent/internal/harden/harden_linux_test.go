package harden

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/keymem"
)

const childEnv = "KEYWARD_TEST_HARDENED"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	os.Exit(child())
}

// child is a hardened process with the signal handling that every daemon has. It ends with 0 when all holds.
func child() int {
	Reexec(context.Background())
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
	holds := map[string]bool{}
	for _, m := range Apply() {
		holds[m.Name] = m.Holds
	}
	if !holds["no core dumps"] || !holds["not dumpable"] || !holds["registers not saved by preemption"] {
		return 2
	}
	if on, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || on != 0 {
		return 3
	}
	time.Sleep(50 * time.Millisecond) // until the thread of os/signal has its mask
	quick := 0
	for range 10 {
		key, err := keymem.New(64)
		if err != nil {
			return 4
		}
		start := time.Now()
		key.Wipe()
		if time.Since(start) < 150*time.Millisecond { // a wipe that waits in vain takes 200 ms, each time
			quick++
		}
	}
	if quick == 0 {
		return 5
	}
	return 0
}

// A stop that the first life was asked for is not lost in the second: there is none.
func TestReexec_notAfterAStop(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	Reexec(ctx) // would begin the tests anew
	if preemptionSignalsOff {
		t.Error("this is a second life")
	}
}

func TestApply_holdsAndWipesDoNotWaitForAThreadThatBlocksSignals(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("hardened process: %v: %s", err, out)
	}
}
