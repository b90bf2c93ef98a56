package nbd

import (
	"os"
	"runtime"
)

// mostSpare bounds what SpareProcessors adds: each of Go's processors keeps memory of its own.
const mostSpare = 8

// SpareProcessors gives the Go scheduler twice as many processors as the machine has, at most eight more. A goroutine that waits
// in a system call, for a client or for a disk, keeps one of them until the runtime notices, 20 us to 10 ms later, and those
// that encrypt would wait for it. It is for a program whose main work is to serve exports, once at its start; where GOMAXPROCS is
// set it does nothing. docs/performance.md has what it gave.
func SpareProcessors() {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	n := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(n + min(n, mostSpare))
}
