package volume

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"keyward/broker/api"
)

// Options are what a Volume works with.
type Options struct {
	Courier  Courier
	Platform Platform
	// Boottime counts since boot, sleep included. It judges leases.
	Boottime func() time.Duration
	// Now is the wall clock, for people.
	Now func() time.Time
	// LeaseCheck is how often a lease is looked at; 0 means 1 s. The key outlives its lease by at most this.
	LeaseCheck time.Duration
	// LeaseMode is how the key is given up when the lease ends without contact and the broker has not said how.
	LeaseMode api.RevokeMode
	// Backoff is the wait before attempt n (from 1) to reach the broker again; nil means 1 s doubling up to a minute,
	// each between half and all of it so that machines do not come back in step.
	Backoff func(n int) time.Duration
	// Changed is called after every change of state, from the volume's own goroutine. It must not block.
	Changed func(Snapshot)
	Logger  *slog.Logger
}

// Volume is one device's life. Its methods are safe for concurrent use; the work is done by one goroutine.
type Volume struct {
	o        Options
	inbox    chan message
	pauses   chan pauseRequest
	quit     chan struct{}
	finished chan struct{}

	mu   sync.Mutex // guards what Snapshot, Held and Renew share with the goroutine
	snap Snapshot
	term lease

	// Only the goroutine touches what follows.
	state   State
	disk    string
	request Request               // the newest filed request
	holder  Request               // the request whose key is held or was held last
	subject Request               // the request that the revoke in hand names
	filed   *api.KeyRequestStatus // the answer to a request that nobody watches yet
	watcher *watcher              // the background wait for a decision
	export  Export                // an open volume
	grant   *Grant                // a key on its way into Open or Resume
	retry   *time.Timer           // pending RetryLater
	// leaseMode is how the key is given up at the lease's end: the policy's word, or Options.LeaseMode before it came.
	leaseMode api.RevokeMode
	attempts  int       // failed attempts to reach the broker in a row
	busy      *work     // the effect that is running now
	pending   []Effect  // effects of the step in progress
	deferred  []message // events that wait for busy
	idle      []chan<- struct{}
}

// message is an event with what belongs to it.
type message struct {
	event     Event
	why       string
	requestID string                // Revoke, Suspend: of which request
	request   Request               // Filed
	status    *api.KeyRequestStatus // Filed: as the broker answered
	grant     *Grant                // Granted
	from      *watcher              // Granted, Closed, Lapsed: events of a former watcher are void
	export    Export                // Opened
	disk      string                // Ask: where the device is now
	done      chan<- struct{}
}

// New starts the life of a device that was found at disk.
func New(d api.AssignedDevice, disk string, o Options) *Volume {
	v := prepare(d, disk, o)
	go v.run()
	return v
}

// prepare makes a volume that does not run yet.
func prepare(d api.AssignedDevice, disk string, o Options) *Volume {
	if o.LeaseCheck == 0 {
		o.LeaseCheck = time.Second
	}
	if o.Backoff == nil {
		o.Backoff = Backoff
	}
	if o.Changed == nil {
		o.Changed = func(Snapshot) {}
	}
	name := d.Name
	if d.Set != nil {
		name = d.Set.Name
	}
	o.Logger = o.Logger.With("device", name, "device_id", d.ID)
	v := &Volume{o: o, inbox: make(chan message, 16), pauses: make(chan pauseRequest), quit: make(chan struct{}), finished: make(chan struct{}), state: Discovered,
		disk: disk, term: lease{clock: o.Boottime}, leaseMode: o.LeaseMode}
	v.snap = Snapshot{DeviceID: d.ID, Name: name, Disk: disk, State: Discovered, Since: o.Now()}
	return v
}

// Backoff doubles from one second to a minute, with jitter.
func Backoff(n int) time.Duration {
	full := time.Second << min(max(n-1, 0), 6)
	full = min(full, time.Minute)
	return full/2 + rand.N(full/2+1)
}

// Ask wants the volume mounted; disk is where the device is now, empty if unchanged. It does nothing while a request is
// open or the volume is mounted.
func (v *Volume) Ask(why, disk string) { v.post(message{event: Ask, why: why, disk: disk}) }

// AskAnew is Ask by somebody's word: a request that was denied is replaced by a new one. One that is undecided stays.
func (v *Volume) AskAnew(why string) { v.post(message{event: Renew, why: why}) }

// TakeBack is the broker's wish that the key of a request is given up.
func (v *Volume) TakeBack(requestID string, mode api.RevokeMode, why string) {
	event := Revoke
	if mode == api.RevokeSuspend {
		event = Suspend
	}
	v.post(message{event: event, requestID: requestID, why: why})
}

// Stop gives the key up by the machine's own wish and returns when nothing of the volume is left, or with ctx.
func (v *Volume) Stop(ctx context.Context, why string) error {
	done := make(chan struct{})
	v.post(message{event: Stop, why: why, done: done})
	select {
	case <-done:
		return nil
	case <-v.finished:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops the volume for good and ends its goroutine.
func (v *Volume) Close(ctx context.Context, why string) error {
	if err := v.Stop(ctx, why); err != nil {
		return err
	}
	select {
	case v.quit <- struct{}{}:
	case <-v.finished:
	}
	<-v.finished
	return nil
}

// Renew makes the lease of a held key last until end on the Boottime clock, and shows what the broker says of its request.
func (v *Volume) Renew(l api.Lease, end time.Duration) {
	v.mu.Lock()
	if v.snap.RequestID != l.RequestID {
		v.mu.Unlock()
		return
	}
	v.term.renew(end)
	if l.Status == "" {
		v.mu.Unlock()
		return
	}
	changed := v.snap.RequestStatus != l.Status || v.snap.Integrity != l.Integrity
	v.snap.RequestStatus, v.snap.Integrity, v.snap.RevokeAt, v.snap.Warning = l.Status, l.Integrity, l.RevokeAt, l.Reason
	v.mu.Unlock()
	switch {
	case !changed:
	case l.RevokeAt != nil:
		v.o.Logger.Warn("the key will be taken unless the machine complies again", "at", l.RevokeAt, "reason", l.Reason)
	case l.Reason != "":
		v.o.Logger.Warn("an integrity check failed", "status", l.Status, "reason", l.Reason)
	default:
		v.o.Logger.Info("key request", "status", l.Status, "integrity", l.Integrity)
	}
}

// Held reports the key that is in memory now, for heartbeats.
func (v *Volume) Held() (api.HeldKey, bool) {
	s := v.Snapshot()
	return api.HeldKey{RequestID: s.RequestID, DeviceID: s.DeviceID, Mounted: s.State == Mounted}, s.State.HoldsKey()
}

// Snapshot is the volume as it is now.
func (v *Volume) Snapshot() Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.snap
	s.LeaseSeconds = int64(v.term.left() / time.Second)
	return s
}

func (v *Volume) post(m message) {
	select {
	case v.inbox <- m:
	case <-v.finished:
		m.discard()
	}
}

// discard wipes a key that nobody will take.
func (m message) discard() {
	if m.grant != nil {
		m.grant.Key.Wipe()
	}
}

func (v *Volume) run() {
	defer close(v.finished)
	tick := time.NewTicker(v.o.LeaseCheck)
	defer tick.Stop()
	for {
		var result <-chan message
		pauses := v.pauses
		if v.busy != nil {
			result, pauses = v.busy.result, nil
		}
		select {
		case r := <-pauses:
			v.stand(r)
		case m := <-v.inbox:
			v.receive(m)
		case m := <-result:
			v.busy.cancel()
			interrupted := v.busy.interrupted && m.event == Failed
			v.busy = nil
			if !interrupted { // else what interrupted it is next in line and says what happens
				v.proceed(&m)
			}
			v.redeliver()
		case <-tick.C:
			v.checkLease()
		case <-v.quit:
			v.dropRequest()
			return
		}
		v.settle()
	}
}

// receive takes an event, or keeps it until the running effect has ended. What takes the key away ends an effect that is
// on its way to using it.
func (v *Volume) receive(m message) {
	if v.busy == nil {
		v.handle(m)
		return
	}
	if v.busy.cancellable && (m.event == Stop || m.event.takesAway() && v.grantInUse()) {
		v.busy.interrupted = true
		v.busy.cancel()
	}
	if !v.busy.cancellable && (m.event == Revoke || m.event == Suspend) {
		return // it is being carried out, and the report follows
	}
	same := func(d message) bool {
		return d.event == m.event && d.requestID == m.requestID && d.done == nil && m.done == nil && m.grant == nil
	}
	if !slices.ContainsFunc(v.deferred, same) {
		v.deferred = append(v.deferred, m)
	}
}

// grantInUse reports whether the running effect is using a key.
func (v *Volume) grantInUse() bool { return v.state.HoldsKey() || v.busy.usesKey }

// redeliver handles what was kept, in order, until something is running again.
func (v *Volume) redeliver() {
	for v.busy == nil && len(v.deferred) > 0 {
		m := v.deferred[0]
		v.deferred = v.deferred[1:]
		v.handle(m)
	}
}

// settle tells those who wait that the volume has come to rest.
func (v *Volume) settle() {
	if v.busy != nil || len(v.deferred) > 0 {
		return
	}
	for _, done := range v.idle {
		close(done)
	}
	v.idle = nil
}

func (v *Volume) checkLease() {
	v.mu.Lock()
	over := v.term.over()
	v.mu.Unlock()
	if !over {
		return
	}
	event := LeaseEnd
	if v.leaseMode == api.RevokeSuspend {
		event = LeasePause
	}
	v.receive(message{event: event, why: "the lease ended without contact with the broker"})
}

func (e Event) takesAway() bool {
	switch e {
	case Revoke, Suspend, LeaseEnd, LeasePause, Stop:
		return true
	}
	return false
}
