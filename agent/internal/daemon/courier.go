package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"keyward/agent/identity"
	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/nbdcrypt/keymem"
)

// statusWait is how long the broker may hold a status back.
const statusWait = 50 * time.Second

// errPooled says that a resource pool keeps another device for this machine, which the agent asks for instead.
var errPooled = errors.New("the resource pool gives this machine another device, because this one is in use elsewhere")

// courier implements volume.Courier over the broker's interface.
type courier struct {
	broker   Broker
	link     *link
	outbox   *outbox
	id       *identity.Identity
	evidence func(ctx context.Context, nonce, deviceID string) api.Evidence
	attestor *attestor
	boottime func() time.Duration
	now      func() time.Time
	run      *api.Run
	// instead asks for another device, which a resource pool gave in place of the one that was asked for.
	instead func(deviceID string)
}

// File implements volume.Courier.
func (c *courier) File(ctx context.Context, deviceID string) (volume.Request, api.KeyRequestStatus, error) {
	// What happened to the former key comes first, or the broker would judge this request with the other still out.
	if err := c.outbox.drain(ctx); err != nil {
		return nil, api.KeyRequestStatus{}, fmt.Errorf("report what happened to the former key: %w", err)
	}
	r := &request{courier: c, deviceID: deviceID}
	var sent time.Duration
	status, err := c.broker.Ask(ctx, func(nonce string) (api.KeyRequest, error) {
		key, err := client.NewDeliveryKey()
		if err != nil {
			return api.KeyRequest{}, fmt.Errorf("make the key that the delivery is sealed to: %w", err)
		}
		evidence := c.evidence(ctx, nonce, deviceID)
		evidence.TPM = c.attestor.quote(ctx, api.QuoteForRequest, nonce, key.PublicKey())
		r.nonce, sent = nonce, c.boottime()
		r.key.Store(key)
		return api.KeyRequest{DeviceID: deviceID, Nonce: nonce, PublicKey: key.PublicKey(), Evidence: evidence, Time: c.now().UTC(), Run: c.run, Deliver: true}, nil
	})
	if c.link.saw(err) != nil {
		return nil, api.KeyRequestStatus{}, fmt.Errorf("ask for the key: %w", err)
	}
	c.link.wanted(status.HeartbeatSeconds)
	if status.DeviceID != "" && status.DeviceID != deviceID {
		c.instead(status.DeviceID)
		return nil, api.KeyRequestStatus{}, fmt.Errorf("request %d: %w", status.Number, errPooled)
	}
	r.id = status.ID
	if status.Delivery != nil {
		r.came.Store(&arrival{*status.Delivery, sent})
	}
	return r, status, nil
}

// request implements volume.Request.
type request struct {
	*courier
	id, deviceID, nonce string
	// key goes when the request is replaced, which may be while a collection is still on its way.
	key atomic.Pointer[client.DeliveryKey]
	// came is the delivery that came with the answer to the request, until it is collected.
	came atomic.Pointer[arrival]
}

// arrival is a sealed key and when it was asked for, on the Boottime clock.
type arrival struct {
	delivery api.KeyDelivery
	sent     time.Duration
}

// ID implements volume.Request.
func (r *request) ID() string { return r.id }

// Status implements volume.Request.
func (r *request) Status(ctx context.Context, after int64) (api.KeyRequestStatus, error) {
	wait := statusWait
	if after == 0 {
		wait = 0
	}
	s, err := r.broker.RequestStatus(ctx, r.id, wait, after)
	if r.link.saw(err) != nil && endedByBroker(err) {
		return s, fmt.Errorf("%w: %w", volume.ErrRequestGone, err)
	}
	r.link.wanted(s.HeartbeatSeconds)
	if err == nil && s.DeviceID != "" && s.DeviceID != r.deviceID {
		r.instead(s.DeviceID)
		return s, fmt.Errorf("%w: %w", volume.ErrRequestGone, errPooled)
	}
	return s, err
}

// Collect implements volume.Request.
func (r *request) Collect(ctx context.Context) (*volume.Grant, error) {
	private := r.key.Load()
	if private == nil {
		return nil, fmt.Errorf("%w: it was replaced by a newer one", volume.ErrRequestGone)
	}
	a := r.came.Swap(nil)
	if a == nil {
		sent := r.boottime()
		d, err := r.broker.Delivery(ctx, r.id, api.DeliveryRequest{PublicKey: private.PublicKey()})
		if r.link.saw(err) != nil {
			if endedByBroker(err) {
				return nil, fmt.Errorf("%w: %w", volume.ErrRequestGone, err)
			}
			return nil, err
		}
		a = &arrival{d, sent}
	}
	d := a.delivery
	if d.LeaseSeconds <= 0 {
		return nil, fmt.Errorf("%w: the delivery has no lease; refused", volume.ErrRequestGone)
	}
	key, err := openDelivery(private, d, api.DeliveryBinding{Purpose: "key-request", AccountID: r.courier.id.AccountID, RequestID: r.id,
		DeviceID: r.deviceID, InstanceID: r.courier.id.InstanceID, Nonce: r.nonce, LeaseSeconds: d.LeaseSeconds})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", volume.ErrRequestGone, err)
	}
	return &volume.Grant{Key: key, LeaseEnd: a.sent + time.Duration(d.LeaseSeconds)*time.Second, Device: d.Device, Volume: d.Volume}, nil
}

// Report implements volume.Request.
func (r *request) Report(e api.RequestEvent) { r.outbox.put(r.id, e) }

// Forget implements volume.Request.
func (r *request) Forget() { r.key.Store(nil) }

// openDelivery moves a sealed key into protected memory; no copy of it stays anywhere else.
func openDelivery(private *client.DeliveryKey, d api.KeyDelivery, want api.DeliveryBinding) (*keymem.Key, error) {
	plain, err := private.Open(d, want)
	if err != nil {
		return nil, fmt.Errorf("open the delivered key: %w", err)
	}
	key, err := keymem.FromBytes(plain) // wipes plain, also on error
	if err != nil {
		return nil, fmt.Errorf("keep the delivered key: %w", err)
	}
	return key, nil
}
