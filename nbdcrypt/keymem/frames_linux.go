package keymem

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// ScrubSignalFrames overwrites what the last signal has left of the vector registers on each thread's signal stack.
//
// A signal that arrives while a cipher runs makes the kernel save all registers, round keys among them, to the signal
// stack of the thread, where they would stay after the key is wiped. Every such frame begins at the same address, so one
// more signal to each thread replaces it. SIGURG is the one that the Go runtime sends itself for preemption and ignores
// otherwise. Call it when no cipher runs with the key any more.
func ScrubSignalFrames() {
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
}
