package volume

import (
	"cmp"
	"context"
	"time"

	"keyward/broker/api"
)

// work is an effect that runs beside the volume's goroutine so that it can be interrupted.
type work struct {
	cancel      context.CancelFunc
	cancellable bool
	usesKey     bool // Resume, the one use of a key outside the states that hold one
	interrupted bool
	result      chan message
}

// handle applies one event.
func (v *Volume) handle(m message) {
	if m.done != nil {
		v.idle = append(v.idle, m.done)
	}
	if m.from != nil && m.from != v.watcher {
		m.discard() // the request it belongs to was dropped meanwhile
		return
	}
	v.subject = nil
	if m.event == Revoke || m.event == Suspend {
		if v.subject = v.byID(m.requestID); v.subject == nil {
			return // never filed by this process; who sent it answers for it
		}
	}
	if m.event == Renew && !v.refused() {
		m.event = Ask
	}
	step, err := Apply(v.state, m.event)
	if err != nil {
		m.discard()
		v.o.Logger.Debug("event ignored", "event", m.event, "state", v.state)
		return
	}
	v.take(m)
	v.enter(step.Next, m.why)
	if m.status != nil {
		v.show(*m.status)
	}
	v.pending = step.Effects
	v.proceed(nil)
}

// refused reports whether the volume waits for a request that was denied. It may still be approved by a later check, but
// whoever asks anew does not want to wait for that.
func (v *Volume) refused() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.state == Waiting && v.snap.RequestStatus == api.KeyDenied
}

// byID finds the request that a command names, the one whose key is held first.
func (v *Volume) byID(id string) Request {
	for _, r := range []Request{v.holder, v.request} {
		if r != nil && r.ID() == id {
			return r
		}
	}
	return nil
}

// take stores what an event brings.
func (v *Volume) take(m message) {
	if m.disk != "" {
		v.disk = m.disk
	}
	if m.request != nil {
		if v.request != nil && v.request != v.holder {
			v.request.Forget()
		}
		v.request, v.filed = m.request, m.status
		if m.status != nil && m.status.RevokeMode != "" {
			v.leaseMode = m.status.RevokeMode
		}
	}
	if m.grant != nil {
		if v.holder != nil && v.holder != v.request {
			v.holder.Forget()
		}
		v.grant, v.holder = m.grant, v.request
		v.mu.Lock()
		v.snap.RequestID = v.holder.ID()
		v.term.start(m.grant.LeaseEnd)
		v.mu.Unlock()
	}
	if m.export != nil {
		v.export = m.export
	}
	if m.event == Granted {
		v.attempts = 0
	}
	if m.event == Gone {
		v.export = nil
	}
}

// enter changes the state and shows it.
func (v *Volume) enter(next State, why string) {
	v.mu.Lock()
	changed := v.state != next
	v.state = next
	v.snap.State, v.snap.Disk = next, v.disk
	if changed {
		v.snap.Since = v.o.Now()
	}
	settled := next == Locked || next == Suspended // the reason to go there stands until something new happens
	if why != "" || changed && !settled {
		v.snap.Why = why
	}
	if !next.HoldsKey() && !(next == Suspended && v.grant != nil) {
		v.term.stop()
	}
	if !next.HoldsKey() {
		v.snap.RevokeAt, v.snap.Warning = nil, ""
	}
	v.snap.Info = Info{}
	if v.export != nil {
		v.snap.Info = v.export.Info()
	}
	snap := v.snap
	v.mu.Unlock()
	if changed {
		v.o.Logger.Info("volume is "+string(next), "why", why)
		v.o.Changed(snap)
	}
}

// proceed runs the effects of a step one after the other. ended is the event in which a long effect resulted; it is
// applied when the step is complete.
func (v *Volume) proceed(ended *message) {
	if ended != nil {
		v.refresh(*ended)
	}
	for len(v.pending) > 0 {
		e := v.pending[0]
		v.pending = v.pending[1:]
		if w := v.start(e); w != nil {
			v.busy = w
			return
		}
		v.do(e)
	}
	if ended != nil {
		v.handle(*ended)
	}
}

// refresh shows the detail of an ended effect before reports use it.
func (v *Volume) refresh(m message) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m.why != "" {
		v.snap.Why = m.why
	}
}

// do performs an effect that does not block.
func (v *Volume) do(e Effect) {
	switch e {
	case AwaitDecision:
		v.await()
	case DropRequest:
		v.dropRequest()
	case RetryLater:
		v.retryLater()
	case ReportMounted:
		v.report(api.EventMounted)
	case ReportFailed:
		v.report(api.EventFailed)
	case ReportRevoked:
		v.report(api.EventRevoked)
	case ReportUnmounted:
		v.report(api.EventUnmounted)
	case ReportSuspended:
		v.report(api.EventSuspended)
	}
}

func (v *Volume) report(name api.RequestEventName) {
	r := v.subject
	if r == nil {
		r = v.holder
	}
	if r == nil {
		return
	}
	s := v.Snapshot()
	r.Report(api.RequestEvent{Event: name, Detail: s.Why, Location: s.MountPoint})
}

// start begins an effect that takes time and ends in an event, or returns nil for the others.
func (v *Volume) start(e Effect) *work {
	var act func(context.Context) message
	cancellable := true
	grant, export, disk, why := v.grant, v.export, v.disk, v.Snapshot().Why
	switch e {
	case FileRequest:
		v.dropRequest()
		id := v.Snapshot().DeviceID
		act = func(ctx context.Context) message {
			r, status, err := v.o.Courier.File(ctx, id)
			if err != nil {
				return message{event: NotFiled, why: err.Error()}
			}
			return message{event: Filed, request: r, status: &status}
		}
	case Open:
		v.grant = nil
		act = func(ctx context.Context) message {
			x, err := v.o.Platform.Open(ctx, disk, grant)
			if err != nil {
				return message{event: Failed, why: err.Error()}
			}
			return message{event: Opened, export: x}
		}
	case Mount:
		act = func(ctx context.Context) message { return ended(export.Mount(ctx), MountDone) }
	case Resume:
		v.grant = nil
		act = func(ctx context.Context) message { return ended(export.Resume(ctx, grant), Resumed) }
	case GiveUp:
		cancellable = false
		act = func(ctx context.Context) message {
			if export == nil { // opening it was interrupted, which wiped the key
				return message{event: Gone}
			}
			held, detail := export.GiveUp(ctx, why)
			if held {
				return message{event: Held, why: detail}
			}
			return message{event: Gone, why: detail}
		}
	case Hold:
		cancellable = false
		act = func(ctx context.Context) message { return message{event: Held, why: export.Hold(ctx, why)} }
	case Abandon:
		cancellable = false
		act = func(ctx context.Context) message { return message{event: Gone, why: export.Abandon(ctx)} }
	default:
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &work{cancel: cancel, cancellable: cancellable, usesKey: e == Resume, result: make(chan message, 1)}
	go func() { w.result <- act(ctx) }()
	return w
}

func ended(err error, success Event) message {
	if err != nil {
		return message{event: Failed, why: err.Error()}
	}
	return message{event: success}
}

func (v *Volume) retryLater() {
	v.attempts++
	wait := v.o.Backoff(v.attempts)
	why := cmp.Or(v.Snapshot().Why, "the broker did not answer")
	if v.retry != nil {
		v.retry.Stop()
	}
	v.retry = time.AfterFunc(wait, func() { v.post(message{event: Ask, why: why}) })
}

// dropRequest ends the wait for a decision and every plan to ask again.
func (v *Volume) dropRequest() {
	if v.retry != nil {
		v.retry.Stop()
		v.retry = nil
	}
	if v.watcher != nil {
		v.watcher.cancel()
		v.watcher = nil
	}
}
