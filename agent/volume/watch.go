package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyward/broker/api"
)

// watcher waits for the broker's decision on one request.
type watcher struct {
	cancel  context.CancelFunc
	request Request
	// again marks a request whose key was given up: until the broker has taken note it still says Delivered.
	again bool
	// first is where the request stands as far as is known; nil means that the broker has to be asked.
	first *api.KeyRequestStatus
}

// await starts to wait in the background, in place of an earlier wait.
func (v *Volume) await() {
	if v.watcher != nil {
		v.watcher.cancel()
	}
	if v.request == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{cancel: cancel, request: v.request, again: v.request == v.holder, first: v.filed}
	v.filed = nil
	v.watcher = w
	go w.watch(ctx, v)
}

// watch ends by posting Granted, Closed or Lapsed, or silently when it is cancelled.
func (w *watcher) watch(ctx context.Context, v *Volume) {
	var after int64
	if w.first != nil {
		if after = w.first.Version; w.end(ctx, v, *w.first) {
			return
		}
	}
	for failures := 0; ctx.Err() == nil; {
		status, err := w.request.Status(ctx, after)
		if errors.Is(err, ErrRequestGone) {
			v.post(message{event: Lapsed, from: w, why: err.Error()})
			return
		}
		if err != nil {
			failures++
			v.o.Logger.Debug("key request status", "error", err)
			pause(ctx, v.o.Backoff(failures))
			continue
		}
		failures = 0
		if status.Version != after {
			v.show(status)
		}
		after = status.Version
		if w.end(ctx, v, status) {
			return
		}
	}
}

// end posts the event in which a status ends the wait, and reports whether it does.
func (w *watcher) end(ctx context.Context, v *Volume, s api.KeyRequestStatus) bool {
	m, over := w.judge(ctx, v, s)
	if !over {
		return false
	}
	if ctx.Err() != nil {
		m.discard()
		return true
	}
	m.from = w
	v.post(m)
	return true
}

// judge says whether a status ends the wait, and how.
func (w *watcher) judge(ctx context.Context, v *Volume, s api.KeyRequestStatus) (message, bool) {
	switch {
	case s.Status == api.KeyApproved || s.Delivery != nil:
		for n := 1; ctx.Err() == nil; n++ {
			g, err := w.request.Collect(ctx)
			if err == nil {
				return message{event: Granted, grant: g, why: s.Reason}, true
			}
			if errors.Is(err, ErrRequestGone) {
				return message{event: Lapsed, why: err.Error()}, true
			}
			v.o.Logger.Warn("collecting the key failed, trying again", "request", s.Number, "error", err)
			pause(ctx, v.o.Backoff(n))
		}
		return message{}, false
	case s.Status == api.KeyDelivered || s.Status == api.KeyRevokePending || s.Status == api.KeyRevokeIgnored:
		if w.again {
			return message{}, false
		}
		return message{event: Lapsed, why: fmt.Sprintf("request %d counts as delivered, but the key did not arrive", s.Number)}, true
	case s.Status == api.KeyFailure:
		return message{event: Closed, why: fmt.Sprintf("request %d failed: %s", s.Number, s.Reason)}, true
	case s.Status == api.KeyExpired:
		why := fmt.Sprintf("request %d expired: %s", s.Number, s.Reason)
		if w.again {
			return message{event: Closed, why: why}, true // the period to comply again is over; a person asks anew
		}
		return message{event: Lapsed, why: why}, true
	}
	return message{}, false
}

// show publishes where the request stands: on the waiting machine people read number and reason.
func (v *Volume) show(s api.KeyRequestStatus) {
	v.mu.Lock()
	v.snap.RequestID, v.snap.RequestNumber, v.snap.RequestStatus, v.snap.Integrity = s.ID, s.Number, s.Status, s.Integrity
	v.snap.WaitsFor, v.snap.FailedRules = s.WaitsFor, s.Failed
	if v.snap.State == Waiting || v.snap.State == Suspended || (v.snap.State == Locked && s.Reason != "") {
		v.snap.Why = s.Reason
	}
	snap := v.snap
	v.mu.Unlock()
	v.o.Logger.Info("key request", "request", s.Number, "status", s.Status, "integrity", s.Integrity, "reason", s.Reason,
		"waits_for", s.WaitsFor, "failed_rules", len(s.Failed))
	v.o.Changed(snap)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
