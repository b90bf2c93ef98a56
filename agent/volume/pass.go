package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyward/broker/api"
)

// Passing is a volume between two events, as one life of the agent leaves it to the next.
type Passing struct {
	Snapshot Snapshot
	// Export is nil unless the volume is open.
	Export Export
	// Request is the one whose key is held, nil without.
	Request Request
	// LeaseEnd is when the held key must be gone, on the Boottime clock.
	LeaseEnd time.Duration
}

// pauseRequest asks the volume's goroutine to stand still.
type pauseRequest struct {
	passing chan Passing  // receives once
	over    chan struct{} // closed when the volume may go on
}

// errGone is returned by Pause for a volume whose life is over.
var errGone = errors.New("the volume's life is over")

// Pause waits until nothing of the volume is under way, lets it stand still, and shows it. Until goOn is called, which the
// caller must do unless the process ends, events wait and the lease is not looked at.
func (v *Volume) Pause(ctx context.Context) (p Passing, goOn func(), err error) {
	r := pauseRequest{passing: make(chan Passing, 1), over: make(chan struct{})}
	select {
	case v.pauses <- r:
	case <-v.finished:
		return p, nil, errGone
	case <-ctx.Done():
		s := v.Snapshot()
		return p, nil, fmt.Errorf("volume %s is busy (%s): %w", s.Name, s.State, ctx.Err())
	}
	return <-r.passing, func() { close(r.over) }, nil
}

// stand stands still until the one who asked for it is done.
func (v *Volume) stand(r pauseRequest) {
	v.mu.Lock()
	p := Passing{Snapshot: v.snap, Export: v.export, LeaseEnd: v.term.end}
	v.mu.Unlock()
	if v.state.HoldsKey() {
		p.Request = v.holder
	}
	r.passing <- p
	<-r.over
}

// Adopt goes on with the life of a mounted volume that a former life of the agent has passed on. The Request and the
// Export of p are the new life's own.
func Adopt(d api.AssignedDevice, p Passing, o Options) *Volume {
	v := prepare(d, p.Snapshot.Disk, o)
	v.state, v.export, v.request, v.holder = Mounted, p.Export, p.Request, p.Request
	v.snap = p.Snapshot
	v.snap.Info = p.Export.Info()
	v.term.start(p.LeaseEnd)
	go v.run()
	return v
}
