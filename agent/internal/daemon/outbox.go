package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"keyward/broker/api"
)

// outboxLimit bounds what is kept while the broker is away. The oldest goes first: the heartbeat repeats what is held.
const outboxLimit = 512

// outbox sends reports of key requests in the order in which they happened, also after an outage.
type outbox struct {
	broker  Broker
	link    *link
	backoff func(n int) time.Duration
	logger  *slog.Logger

	mu    sync.Mutex
	queue []report
	wake  chan struct{}
	idle  chan struct{} // closed while the queue is empty
}

type report struct {
	requestID string
	event     api.RequestEvent
}

func newOutbox(b Broker, l *link, backoff func(int) time.Duration, logger *slog.Logger) *outbox {
	idle := make(chan struct{})
	close(idle)
	return &outbox{broker: b, link: l, backoff: backoff, logger: logger, wake: make(chan struct{}, 1), idle: idle}
}

// put takes a report; it never blocks.
func (o *outbox) put(requestID string, e api.RequestEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		o.idle = make(chan struct{})
	}
	if len(o.queue) >= outboxLimit {
		o.queue = o.queue[1:]
	}
	o.queue = append(o.queue, report{requestID, e})
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run sends until ctx ends.
func (o *outbox) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		for r, ok := o.first(); ok && ctx.Err() == nil; r, ok = o.first() {
			o.send(ctx, r)
		}
	}
}

// send repeats one report until the broker has taken or refused it.
func (o *outbox) send(ctx context.Context, r report) {
	for n := 1; ctx.Err() == nil; n++ {
		err := o.link.saw(o.broker.Report(ctx, r.requestID, r.event))
		if err == nil || final(err) {
			if err != nil {
				o.logger.Warn("the broker refused a report", "request_id", r.requestID, "event", r.event.Event, "error", err)
			}
			o.done()
			return
		}
		o.logger.Debug("report not sent yet", "event", r.event.Event, "error", err)
		pause(ctx, o.backoff(n))
	}
}

func (o *outbox) first() (report, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		return report{}, false
	}
	return o.queue[0], true
}

func (o *outbox) done() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) > 0 {
		o.queue = o.queue[1:]
	}
	if len(o.queue) == 0 {
		close(o.idle)
	}
}

// unsent are the reports that the broker has not confirmed.
func (o *outbox) unsent() []notedReport {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := []notedReport{}
	for _, r := range o.queue {
		out = append(out, notedReport{r.requestID, r.event})
	}
	return out
}

// drain waits until everything is sent, or returns the error of ctx.
func (o *outbox) drain(ctx context.Context) error {
	o.mu.Lock()
	idle := o.idle
	o.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
