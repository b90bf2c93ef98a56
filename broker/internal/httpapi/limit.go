package httpapi

import (
	"sync"
	"time"
)

// limiter slows callers down: each key may do burst things at once and one more every interval. Memory is bounded: when
// too many keys are known, those that are full again are forgotten, and if none is, all keys share the fate of strangers.
type limiter struct {
	burst    int
	interval time.Duration
	maxKeys  int
	clock    func() time.Time

	mu   sync.Mutex
	keys map[string]*bucket
}

// bucket holds when the key will have its whole burst again.
type bucket struct{ full time.Time }

func newLimiter(burst int, interval time.Duration, clock func() time.Time) *limiter {
	return &limiter{burst: burst, interval: interval, maxKeys: 10000, clock: clock, keys: map[string]*bucket{}}
}

// allow takes one from the key's bucket, or says how long to wait.
func (l *limiter) allow(key string) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	b := l.keys[key]
	if b == nil {
		if len(l.keys) >= l.maxKeys {
			l.forget(now)
		}
		if len(l.keys) >= l.maxKeys {
			return l.interval, false
		}
		b = &bucket{full: now}
		l.keys[key] = b
	}
	if b.full.Before(now) {
		b.full = now
	}
	if after := b.full.Add(l.interval); after.Sub(now) <= time.Duration(l.burst)*l.interval {
		b.full = after
		return 0, true
	}
	return b.full.Sub(now) - time.Duration(l.burst-1)*l.interval, false
}

func (l *limiter) forget(now time.Time) {
	for k, b := range l.keys {
		if !b.full.After(now) {
			delete(l.keys, k)
		}
	}
}
