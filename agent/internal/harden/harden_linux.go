// Package harden makes the agent's process keep its secrets: nothing swapped, nothing dumped, no debugger without root.
// Each measure reports whether it holds, so that status shows what the machine really gives.
package harden

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// memoryLimit is a soft limit for the Go heap. An agent needs a fraction of it; near it the collector works harder
// instead of the process growing.
const memoryLimit = 64 << 20

// Measure is one property of the process.
type Measure struct {
	Name  string `json:"name"`
	Holds bool   `json:"holds"`
	// Detail says why it does not hold, or what it means.
	Detail string `json:"detail,omitempty"`
}

// Apply hardens the process and says what holds. It never fails: an agent that cannot lock memory still has to unlock
// volumes, and says so.
func Apply() []Measure {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // memory matters more here than the collector's share of a mostly idle CPU
	}
	takeUrgent()
	return []Measure{
		measure("no core dumps", noCore()),
		measure("not dumpable", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)),
		// On fault, because locking everything mapped would make the whole binary resident.
		measure("memory not swapped", mlockall()),
		measure("no reclaim into own volumes", ioFlusher()),
		measure("registers not saved by preemption", preemption()),
	}
}

// takeUrgent lets every thread take SIGURG, by which keymem replaces what signals have left of the registers when a key
// is wiped. The thread that os/signal keeps blocks all signals that nobody asked for, and without preemption signals
// SIGURG is one of them: each wipe would wait for that thread until it gives up.
func takeUrgent() {
	// Nobody reads the channel: what does not fit is dropped.
	signal.Notify(make(chan os.Signal, 1), unix.SIGURG)
}

func measure(name string, err error) Measure {
	if err != nil {
		return Measure{Name: name, Detail: err.Error()}
	}
	return Measure{Name: name, Holds: true}
}

func noCore() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("set RLIMIT_CORE: %w", err)
	}
	return nil
}

func mlockall() error {
	const onFault = 4 // MCL_ONFAULT, <asm-generic/mman.h>
	if unix.Geteuid() != 0 {
		var l unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil || l.Cur != math.MaxUint64 {
			// With MCL_FUTURE and a small limit, every later allocation of the Go runtime would fail and end the process.
			return errors.New("RLIMIT_MEMLOCK is limited; run as root or set LimitMEMLOCK=infinity")
		}
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | onFault); err != nil {
		return fmt.Errorf("mlockall: %w", err)
	}
	return nil
}

// ioFlusher reports whether the process was started by Reexec with PR_SET_IO_FLUSHER.
func ioFlusher() error {
	on, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("PR_GET_IO_FLUSHER: %w; needs CAP_SYS_RESOURCE", err)
	}
	if on == 0 {
		return errors.New("PR_SET_IO_FLUSHER is not set; needs CAP_SYS_RESOURCE")
	}
	return nil
}

// reexeced marks the second life of the process, so that there is no third, and keeps the GODEBUG of the first.
const reexeced = "KEYWARD_REEXEC"

// noPreemptionSignals turns off the Go runtime's preemption by signals, which would save the registers of a goroutine,
// round keys among them, to memory that nobody wipes. The runtime reads it only at the start of a process.
const noPreemptionSignals = "asyncpreemptoff=1"

// preemptionSignalsOff says that this process was started by Reexec.
var preemptionSignalsOff bool

// Reexec executes the program again with what has to hold from its first instruction on: without preemption by
// signals, and marked as one that writes out the kernel's dirty pages (PR_SET_IO_FLUSHER), so that under memory pressure
// the kernel never waits for the agent while the agent waits for memory. That mark belongs to a thread and is
// inherited; without CAP_SYS_RESOURCE the kernel refuses it. Reexec returns in the second life.
//
// A request to stop that the first life has taken would be lost with it. So Reexec gives SIGINT and SIGTERM back to the kernel,
// does not execute the program when ctx, which they end, is over, and leaves it to the caller to listen for them anew.
func Reexec(ctx context.Context) {
	if before, second := os.LookupEnv(reexeced); second {
		preemptionSignalsOff = true
		_ = os.Unsetenv(reexeced) // scripts are not the agent
		if _ = os.Unsetenv("GODEBUG"); before != "" {
			_ = os.Setenv("GODEBUG", before)
		}
		return
	}
	signal.Reset(os.Interrupt, unix.SIGTERM)
	select {
	case <-ctx.Done():
		return
	case <-time.After(time.Millisecond): // for one that is on its way to ctx
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0)
	self, err := os.Executable()
	if err != nil {
		return
	}
	before := os.Getenv("GODEBUG")
	settings := noPreemptionSignals
	if before != "" {
		settings = before + "," + settings
	}
	environment := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GODEBUG=") })
	// On failure the agent goes on in its first life, and status says what does not hold.
	_ = unix.Exec(self, os.Args, append(environment, "GODEBUG="+settings, reexeced+"="+before))
}

func preemption() error {
	if !preemptionSignalsOff {
		return errors.New("the program could not be executed again with GODEBUG=" + noPreemptionSignals)
	}
	return nil
}
