//go:build !linux

package nbd

import "time"

// waitMeter tells how long a request to the device waited, by its time alone.
type waitMeter struct{ began time.Time }

func startWaitMeter() waitMeter { return waitMeter{time.Now()} }

func (m waitMeter) waited() time.Duration { return time.Since(m.began) }
