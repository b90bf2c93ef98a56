package nbd

import "sync"

// syncGroup lets callers that arrive while a Sync is running share the next one, so that many FUA writes and flushes
// in flight cost two Syncs instead of one each. A caller never shares a Sync that began before its call: that one need
// not cover its data.
type syncGroup struct {
	sync func() error

	mu      sync.Mutex
	running bool
	next    *syncRun
}

type syncRun struct {
	done chan struct{}
	err  error
}

// do returns after a Sync that began after the call.
func (g *syncGroup) do() error {
	g.mu.Lock()
	if g.running {
		run := g.next
		if run == nil {
			run = &syncRun{done: make(chan struct{})}
			g.next = run
		}
		g.mu.Unlock()
		<-run.done
		return run.err
	}
	g.running = true
	g.mu.Unlock()

	err := g.sync()

	// Those who waited are served by a goroutine of their own: this caller's reply must not wait for their Sync.
	g.mu.Lock()
	run := g.next
	g.next = nil
	g.running = run != nil
	g.mu.Unlock()
	if run != nil {
		go g.serve(run)
	}
	return err
}

// serve runs Syncs until nobody waits any more.
func (g *syncGroup) serve(run *syncRun) {
	for run != nil {
		run.err = g.sync()
		close(run.done)
		g.mu.Lock()
		run = g.next
		g.next = nil
		g.running = run != nil
		g.mu.Unlock()
	}
}
