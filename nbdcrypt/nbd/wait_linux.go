package nbd

import (
	"time"

	"golang.org/x/sys/unix"
)

// waitMeter tells how long a request to the device waited. On a busy machine a request takes long because others have the
// processor; more of them at once would only make that worse, so it does not count. What counts is that the thread gave the
// processor up itself (ru_nvcsw of getrusage(2)), as it does for a disk.
type waitMeter struct {
	began    time.Time
	thread   int
	switches int64
}

func startWaitMeter() waitMeter {
	return waitMeter{time.Now(), unix.Gettid(), voluntarySwitches()}
}

// waited is the time since the start if there was a wait in it, and 0 if not. A goroutine that is on another thread now
// has waited for something in this process.
func (m waitMeter) waited() time.Duration {
	if unix.Gettid() == m.thread && voluntarySwitches() == m.switches {
		return 0
	}
	return time.Since(m.began)
}

func voluntarySwitches() int64 {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &usage) != nil {
		return 0
	}
	return int64(usage.Nvcsw)
}
