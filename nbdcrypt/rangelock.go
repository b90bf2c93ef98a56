package nbdcrypt

import "sync"

// rangeLock orders requests that touch the same bytes: one writer or many readers at a time, in the order in which they
// came. A range waits for every earlier one that it conflicts with, held or waiting, so that nobody starves and nothing
// deadlocks.
type rangeLock struct {
	mu    sync.Mutex
	queue []*heldRange // by arrival
	spare []*heldRange
}

type heldRange struct {
	from, to int64
	shared   bool
	// blockers counts the earlier conflicting ranges; ready is closed when it falls to zero.
	blockers int
	ready    chan struct{}
}

// lock returns when [from, to) is held, alone or (shared) with other readers. The caller passes what it gets to unlock.
func (l *rangeLock) lock(from, to int64, shared bool) *heldRange {
	l.mu.Lock()
	r := l.take()
	*r = heldRange{from: from, to: to, shared: shared}
	for _, other := range l.queue {
		if other.conflicts(r) {
			r.blockers++
		}
	}
	var wait chan struct{}
	if r.blockers > 0 {
		wait = make(chan struct{})
		r.ready = wait
	}
	l.queue = append(l.queue, r)
	l.mu.Unlock()
	if wait != nil {
		<-wait
	}
	return r
}

func (l *rangeLock) unlock(r *heldRange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.queue[:0]
	for _, other := range l.queue {
		if other == r {
			continue
		}
		kept = append(kept, other)
		// r held its range, so every conflicting range in the queue came later and counts it.
		if other.conflicts(r) {
			if other.blockers--; other.blockers == 0 {
				close(other.ready)
			}
		}
	}
	l.queue = kept
	l.spare = append(l.spare, r)
}

// take reuses a range that was unlocked: there are never more than were held at one time.
func (l *rangeLock) take() *heldRange {
	if n := len(l.spare); n > 0 {
		r := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return r
	}
	return new(heldRange)
}

func (r *heldRange) conflicts(other *heldRange) bool {
	return !(r.shared && other.shared) && r.from < other.to && other.from < r.to
}
