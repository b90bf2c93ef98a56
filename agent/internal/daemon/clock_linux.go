package daemon

import (
	"time"

	"golang.org/x/sys/unix"
)

// boottime is CLOCK_BOOTTIME: it goes on while the machine sleeps, and nobody can set it.
func boottime() time.Duration {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return time.Duration(1<<63 - 1) // a clock that cannot be read ends every lease
	}
	return time.Duration(t.Nano())
}
