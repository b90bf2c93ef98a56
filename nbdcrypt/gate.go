package nbdcrypt

import (
	"errors"
	"fmt"
	"sync"

	"keyward/nbdcrypt/blockdev"
)

// The states that Status reports.
const (
	StatusOpen       = "open"
	StatusSuspending = "suspending"
	StatusSuspended  = "suspended"
	StatusResuming   = "resuming"
	StatusClosed     = "closed"
)

// gate lets requests through while the volume is open, makes them wait while it is suspended, and turns them away once
// it is closed. Whoever changes the state waits until the requests inside have left.
type gate struct {
	mu     sync.Mutex
	change *sync.Cond // of state or inside
	state  string
	inside int
}

func newGate() *gate {
	g := &gate{state: StatusOpen}
	g.change = sync.NewCond(&g.mu)
	return g
}

func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.state != StatusOpen && g.state != StatusClosed {
		g.change.Wait()
	}
	if g.state == StatusClosed {
		return blockdev.ErrClosed
	}
	g.inside++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.state != StatusOpen {
		g.change.Broadcast()
	}
}

// settle waits until no suspend or resume is under way. The caller holds mu.
func (g *gate) settle() {
	for g.state == StatusSuspending || g.state == StatusResuming {
		g.change.Wait()
	}
}

// during runs do without holding mu, so that status answers meanwhile, however slow the device is.
func (g *gate) during(state string, do func() error) error {
	g.state = state
	g.mu.Unlock()
	defer g.mu.Lock()
	return do()
}

// suspend stops new requests, waits until those inside have left and runs drained with nobody inside.
func (g *gate) suspend(drained func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settle()
	switch g.state {
	case StatusSuspended:
		return nil
	case StatusClosed:
		return blockdev.ErrClosed
	}
	g.state = StatusSuspending
	for g.inside > 0 {
		g.change.Wait()
	}
	err := g.during(StatusSuspending, drained)
	g.state = StatusSuspended
	g.change.Broadcast()
	return err
}

// resume runs ready while still nobody is inside, and lets requests through if it succeeds.
func (g *gate) resume(ready func() error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settle()
	switch g.state {
	case StatusSuspended:
	case StatusClosed:
		return blockdev.ErrClosed
	default:
		return fmt.Errorf("the volume is %s: %w", g.state, errNotSuspended)
	}
	err := g.during(StatusResuming, ready)
	if g.state = StatusSuspended; err == nil {
		g.state = StatusOpen
	}
	g.change.Broadcast()
	return err
}

var errNotSuspended = errors.New("only a suspended volume can be resumed")

// close turns away waiting and new requests, waits until those inside have left and runs drained. It reports false, and
// runs nothing, if the gate was closed already.
func (g *gate) close(drained func() error) (first bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settle() // what is under way still uses the key and the device
	if g.state == StatusClosed {
		return false, nil
	}
	g.state = StatusClosed
	g.change.Broadcast()
	for g.inside > 0 {
		g.change.Wait()
	}
	return true, g.during(StatusClosed, drained)
}

func (g *gate) status() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state
}
