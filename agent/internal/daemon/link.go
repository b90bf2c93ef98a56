package daemon

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"keyward/agent/internal/control"
	"keyward/broker/api"
	"keyward/broker/client"
)

// Broker is the agents' interface as the daemon uses it; client.Agent implements it.
type Broker interface {
	Nonce(ctx context.Context) (api.NonceResponse, error)
	PublishInventory(ctx context.Context, in api.InventoryReport) (api.DeviceList, error)
	Devices(ctx context.Context) (api.DeviceList, error)
	Commands(ctx context.Context, wait time.Duration) (api.CommandList, error)
	Heartbeat(ctx context.Context, in api.Heartbeat) (api.HeartbeatResponse, error)
	Ask(ctx context.Context, collect func(nonce string) (api.KeyRequest, error)) (api.KeyRequestStatus, error)
	RequestStatus(ctx context.Context, id string, wait time.Duration, after int64) (api.KeyRequestStatus, error)
	Delivery(ctx context.Context, id string, in api.DeliveryRequest) (api.KeyDelivery, error)
	Report(ctx context.Context, id string, in api.RequestEvent) error
	JobKey(ctx context.Context, id string, in api.JobKeyRequest) (api.KeyDelivery, error)
	Recovery(ctx context.Context, revision string) (api.RecoveryEnvelope, error)
	SendOfflineRecords(ctx context.Context, in api.OfflineRecords) error
	JobProgress(ctx context.Context, id string, in api.JobProgress) error
}

// link remembers how the last call went, for status.
type link struct {
	now func() time.Time

	// sooner has an element when heartbeats are wanted more often than the last answer to one said.
	sooner chan struct{}

	mu   sync.Mutex
	last control.Broker
}

// saw records the outcome of a call and returns its error.
func (l *link) saw(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil || answered(err):
		t := l.now().UTC()
		l.last.Connected, l.last.LastContact, l.last.Error = true, &t, ""
	case errors.Is(err, context.Canceled):
	default:
		l.last.Connected, l.last.Error = false, err.Error()
	}
	return err
}

func (l *link) pace(seconds int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last.HeartbeatSeconds = seconds
}

// wanted takes the pace that the policy of one device wants. Who asked for it under a slow pace must not be silent until the
// next heartbeat: the broker would take the machine for one that is gone.
func (l *link) wanted(seconds int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seconds <= 0 || l.last.HeartbeatSeconds > 0 && seconds >= l.last.HeartbeatSeconds {
		return
	}
	select {
	case l.sooner <- struct{}{}:
	default:
	}
}

func (l *link) status() control.Broker {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// answered reports whether the broker itself refused: it is there.
func answered(err error) bool {
	var p *client.Problem
	return errors.As(err, &p) && p.Status < 500
}

// final reports whether repeating the call cannot help.
func final(err error) bool {
	var p *client.Problem
	if !errors.As(err, &p) {
		return false
	}
	return p.Status >= 400 && p.Status < 500 && p.Status != http.StatusTooManyRequests && p.Status != http.StatusRequestTimeout
}

// endedByBroker reports whether the broker no longer has, or has already settled, what the call was about.
func endedByBroker(err error) bool {
	var p *client.Problem
	return errors.As(err, &p) && (p.Status == http.StatusNotFound || p.Status == http.StatusConflict || p.Status == http.StatusGone)
}
