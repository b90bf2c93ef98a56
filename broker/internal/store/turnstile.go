package store

import (
	"context"
	"slices"
	"sync"
)

// turnstile lets one goroutine through at a time, in the order of arrival, and hands each the group that the one before
// it has left open: nil when there is none. A group that is handed over always has somebody who holds it.
type turnstile struct {
	mu     sync.Mutex
	busy   bool
	closed bool
	queue  []waiting
}

// waiting is one who waits for the turn, and what it is going to read.
type waiting struct {
	ready chan *group
	ahead *ahead
}

// enter waits for the turn. Whoever has it may read for those that wait what they have foreseen.
func (t *turnstile) enter(ctx context.Context, a *ahead) (*group, error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, errClosed
	}
	if !t.busy {
		t.busy = true
		t.mu.Unlock()
		return nil, nil
	}
	ready := make(chan *group, 1)
	t.queue = append(t.queue, waiting{ready, a})
	t.mu.Unlock()
	select {
	case g := <-ready:
		return g, nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.IndexFunc(t.queue, func(w waiting) bool { return w.ready == ready })
	if i >= 0 {
		t.queue = slices.Delete(t.queue, i, i+1)
	}
	t.mu.Unlock()
	if i >= 0 {
		return nil, ctx.Err()
	}
	// The turn came at the same moment: it is taken, and passed on by the caller.
	return <-ready, nil
}

// pass gives the turn, and an open group, to whoever waits longest; false says that nobody waits, and the turn stays.
func (t *turnstile) pass(g *group) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		return false
	}
	next := t.queue[0]
	t.queue = t.queue[1:]
	next.ready <- g
	return true
}

// next are the foresights of the first n that wait.
func (t *turnstile) next(n int) []*ahead {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*ahead
	for _, w := range t.queue[:min(n, len(t.queue))] {
		if w.ahead != nil {
			out = append(out, w.ahead)
		}
	}
	return out
}

// leave gives up the turn, without an open group.
func (t *turnstile) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) > 0 {
		next := t.queue[0]
		t.queue = t.queue[1:]
		next.ready <- nil
		return
	}
	t.busy = false
}

// close waits for its turn and lets nobody in afterwards.
func (t *turnstile) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	for {
		t.mu.Lock()
		if !t.busy {
			t.mu.Unlock()
			return
		}
		ready := make(chan *group, 1)
		t.queue = append(t.queue, waiting{ready: ready})
		t.mu.Unlock()
		g := <-ready
		if g != nil {
			g.finish()
		}
		t.leave()
	}
}
