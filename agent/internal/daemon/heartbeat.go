package daemon

import (
	"context"
	"math/rand/v2"
	"time"

	"keyward/agent/volume"
	"keyward/broker/api"
)

const (
	firstPace = 10 * time.Second
	// beatTimeout bounds one heartbeat with its repetitions, so that leases are renewed from a recent moment.
	beatTimeout = 20 * time.Second
	commandWait = 50 * time.Second
	confirmWait = 5 * time.Second
)

// heartbeatLoop reports life at the pace that the broker asks for, and faster while it does not answer.
func (d *Daemon) heartbeatLoop(ctx context.Context) {
	pace, failures := firstPace, 0
	for ctx.Err() == nil {
		out, err := d.beat(ctx, "", false)
		if err != nil {
			failures++
			d.log.Debug("heartbeat", "error", err)
			pause(ctx, min(d.o.Backoff(failures), pace))
			continue
		}
		failures = 0
		if out.NextSeconds > 0 {
			pace = time.Duration(out.NextSeconds) * time.Second
		}
		d.rest(ctx, pace-rand.N(pace/10+1)) // never later than asked for
	}
}

// rest waits for the time of the next heartbeat, which may come sooner.
func (d *Daemon) rest(ctx context.Context, pace time.Duration) {
	t := time.NewTimer(pace)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-d.link.sooner:
	case <-t.C:
	}
}

// beat sends one heartbeat. A nonce makes it the answer to a check; with check the machine itself asks to be judged.
func (d *Daemon) beat(ctx context.Context, nonce string, check bool) (api.HeartbeatResponse, error) {
	// Collected before the clock of the call starts: scripts have limits of their own, and what they need is not the broker's.
	in := api.Heartbeat{Evidence: d.evidence(ctx, nonce, ""), Devices: d.deviceFacts(ctx), Held: d.held(), Time: d.o.Now().UTC(), Run: &d.thisRun, Check: check}
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	in.Evidence.TPM = d.heartbeatQuote(ctx)
	sent := d.o.Boottime() // a lease counts from here, however long the answer took
	out, err := d.broker.Heartbeat(ctx, in)
	if d.link.saw(err) != nil {
		return out, err
	}
	d.link.pace(out.NextSeconds)
	for _, l := range out.Leases {
		for _, v := range d.all() {
			v.Renew(l, sent+time.Duration(l.Seconds)*time.Second)
		}
	}
	d.obey(out.Commands)
	return out, nil
}

func (d *Daemon) held() []api.HeldKey {
	held := []api.HeldKey{}
	for _, v := range d.all() {
		if k, ok := v.Held(); ok {
			held = append(held, k)
		}
	}
	return held
}

// commandLoop holds a long poll open for what the broker wants.
func (d *Daemon) commandLoop(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		list, err := d.broker.Commands(ctx, commandWait)
		if d.link.saw(err) != nil {
			failures++
			pause(ctx, d.o.Backoff(failures))
			continue
		}
		failures = 0
		d.obey(list.Commands)
	}
}

// obey carries commands out. They are repeated by the broker until a report settles them, so each may come again.
func (d *Daemon) obey(commands []api.Command) {
	for _, c := range commands {
		switch c.Kind {
		case api.CommandRevoke:
			d.takeBack(c)
		case api.CommandRequest:
			d.askFor(c)
		case api.CommandEncrypt:
			d.encrypt(c)
		case api.CommandCheck:
			d.answer(c)
		case api.CommandRotateKey:
			d.postpone(c)
		default:
			d.log.Warn("the broker sent a command that this agent does not know; a newer agent may", "command", c.Kind)
		}
	}
}

// takeBack routes a revoke to the volume that has the request. A request that no volume has was given up by an earlier
// life of this agent: its key is gone, and the broker is told so.
func (d *Daemon) takeBack(c api.Command) {
	for _, v := range d.all() {
		if s := v.Snapshot(); s.RequestID == c.RequestID {
			if s.State != volume.Locking { // else it is being carried out already
				d.confirm(v, c)
			}
			return
		}
	}
	d.outbox.put(c.RequestID, api.RequestEvent{Event: api.EventRevoked, Detail: "no key of this request is held"})
}

// confirm carries a revoke out unless the broker says that it no longer stands. Commands come by two ways and are repeated,
// so one may arrive after it was carried out, reported and followed by a new approval of the same request. Without an
// answer the command is believed.
func (d *Daemon) confirm(v *volume.Volume, c api.Command) {
	d.mu.Lock()
	busy, held := d.confirming[c.RequestID], v.Snapshot().State.HoldsKey()
	d.confirming[c.RequestID] = true
	d.mu.Unlock()
	if busy {
		return
	}
	go func() {
		defer func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			delete(d.confirming, c.RequestID)
		}()
		ctx, cancel := context.WithTimeout(context.Background(), confirmWait)
		defer cancel()
		s, err := d.broker.RequestStatus(ctx, c.RequestID, 0, 0)
		holds := v.Snapshot().State.HoldsKey()
		stands := d.link.saw(err) != nil || s.Status != api.KeyApproved && s.Status != api.KeyDelivered && (holds || s.Status != api.KeyRevoked)
		if !stands || held && !holds { // or it was carried out while the broker was asked
			d.log.Debug("a revoke that no longer stands was ignored", "request_id", c.RequestID)
			return
		}
		v.TakeBack(c.RequestID, c.Mode, c.Reason)
	}()
}

func (d *Daemon) askFor(c api.Command) {
	d.mu.Lock()
	v := d.volumes[c.DeviceID]
	d.mu.Unlock()
	if v == nil {
		d.refreshSoon()
		return
	}
	v.AskAnew("the broker asked")
}
