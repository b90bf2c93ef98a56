package keymem

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// scrubSignalFrames overwrites what the last signal has left of the vector registers on each thread's signal stack.
//
// A signal that arrives while a cipher runs makes the kernel save all registers, round keys among them, to the signal
// stack of the thread, where they would stay after the key is wiped. Every such frame begins at the same address, so one
// more signal to each thread replaces it. SIGURG is the one that the Go runtime sends itself for preemption and ignores
// otherwise. Call it when no cipher runs with the key any more.
//
// It returns when every thread has taken its signal, or after a fifth of a second: a thread that hangs in the kernel takes
// it when it comes back.
func scrubSignalFrames() {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return // no /proc, no other way to name the threads
	}
	pid := os.Getpid()
	for _, thread := range threads {
		if tid, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.Tgkill(pid, tid, unix.SIGURG) // a thread that has ended has no stack any more
		}
	}
	for range 100 {
		waiting := threads[:0]
		for _, thread := range threads {
			if signalPending(thread.Name()) {
				waiting = append(waiting, thread)
			}
		}
		if threads = waiting; len(threads) == 0 {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// signalPending reports whether a thread of this process has yet to take its SIGURG (proc(5)). A thread that blocks the
// signal, as the runtime's own for signals does, never runs with a key in its registers.
func signalPending(thread string) bool {
	status, err := os.ReadFile("/proc/self/task/" + thread + "/status")
	if err != nil {
		return false // it has ended
	}
	return urgent(status, "SigPnd:") && !urgent(status, "SigBlk:")
}

// urgent reports whether SIGURG is in one of the masks of a thread's status.
func urgent(status []byte, mask string) bool {
	_, rest, _ := bytes.Cut(status, []byte(mask))
	digits, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte("\n"))
	bits, err := strconv.ParseUint(string(digits), 16, 64)
	return err == nil && bits&(1<<(unix.SIGURG-1)) != 0
}
