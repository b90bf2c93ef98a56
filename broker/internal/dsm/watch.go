package dsm

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// refreshEvery is how old a picture grows before the manager is asked again.
	refreshEvery = time.Minute
	// believed is how old a picture may be to be judged by.
	believed = 10 * time.Minute
	// retryFirst is the wait after a failure; it doubles up to retryMost.
	retryFirst = 10 * time.Second
	retryMost  = 5 * time.Minute
)

// picture is what a manager said last.
type picture struct {
	computers []Computer
	at        time.Time
	// claims tells which machine each computer was found to be last. A claim that is not renewed ends, so that a machine
	// that was set up anew is not taken for a second one for ever.
	claims map[int]claim
	// err is why the last call failed, nil after one that succeeded; next is when the manager is asked again.
	err   error
	next  time.Time
	delay time.Duration
}

// claim is a machine's word that it is a computer.
type claim struct {
	id string
	at time.Time
}

// Watch keeps a picture of one manager.
type Watch struct {
	client *Client
	clock  func() time.Time

	mu sync.Mutex
	picture
}

// NewWatch watches the manager of a client, which it takes over.
func NewWatch(c *Client, clock func() time.Time) *Watch {
	return &Watch{client: c, clock: clock, picture: picture{claims: map[int]claim{}}}
}

// Refresh asks the manager if it is time to. An error is told once for each new reason.
func (w *Watch) Refresh(ctx context.Context) error {
	w.mu.Lock()
	now := w.clock()
	if now.Before(w.next) {
		w.mu.Unlock()
		return nil
	}
	w.mu.Unlock()
	computers, err := w.client.Computers(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	now = w.clock()
	if err == nil {
		w.computers, w.at, w.err, w.delay, w.next = computers, now, nil, 0, now.Add(refreshEvery)
		return nil
	}
	if ctx.Err() != nil {
		return nil
	}
	known := w.err != nil && w.err.Error() == err.Error()
	w.err = err
	w.delay = min(max(2*w.delay, retryFirst), retryMost)
	if busy := (*BusyError)(nil); errors.As(err, &busy) {
		w.delay = busy.After
	}
	w.next = now.Add(w.delay)
	if known {
		return nil
	}
	return err
}

// State is how a watch stands.
type State struct {
	// At is when the manager answered last, zero for never; Err why the last call failed.
	At        time.Time
	Computers int
	Err       error
}

// State tells how the watch stands.
func (w *Watch) State() State {
	w.mu.Lock()
	defer w.mu.Unlock()
	return State{At: w.at, Computers: len(w.computers), Err: w.err}
}

// Close gives connections back.
func (w *Watch) Close() { w.client.Close() }
