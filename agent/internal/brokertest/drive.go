package brokertest

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/nbdcrypt/keymem/memsearch"
)

// patience is how long the test waits for the agent. Nothing depends on speed; it ends a hanging test.
const patience = 60 * time.Second

// plain is a copy of the device key; the caller clears it.
func (d *Device) plain() []byte {
	out := make([]byte, len(d.Key))
	for i, c := range d.Key {
		out[i] = ^c
	}
	return out
}

// PlainKey is a copy of the device key.
func (d *Device) PlainKey() []byte { return d.plain() }

// KeyPattern finds the device key in memory. The broker itself keeps it in that form only.
func (b *Broker) KeyPattern(deviceID string) memsearch.Pattern {
	b.mu.Lock()
	defer b.mu.Unlock()
	return memsearch.Pattern(slices.Clone(b.device(deviceID).Key))
}

// Wait returns when check holds; it is called under the broker's lock.
func (b *Broker) Wait(what string, check func() bool) {
	b.t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		b.mu.Lock()
		wake, ok := b.wake, check()
		b.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-wake:
		case <-end.C:
			b.t.Fatalf("waited %s for: %s", patience, what)
		}
	}
}

// Published waits for the device that an agent shows under a name.
func (b *Broker) Published(name string) Device {
	b.t.Helper()
	var out Device
	b.Wait("device "+name+" to be published", func() bool {
		for _, d := range b.devices {
			if d.Name == name {
				out = *d
				return true
			}
		}
		return false
	})
	return out
}

// Reports are the inventories that were published.
func (b *Broker) Reports() []api.InventoryReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.reports)
}

// NoncesGiven is how often a nonce was fetched.
func (b *Broker) NoncesGiven() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.given
}

// Configure sets what a device is to become.
func (b *Broker) Configure(deviceID, fileSystem, mountPoint string, access api.Access, keyBits int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.device(deviceID)
	d.FileSystem, d.MountPoint, d.Access, d.KeyBits, d.Status = fileSystem, mountPoint, access, keyBits, api.DeviceConfigured
	b.changed()
}

// Encrypt queues an encrypt job.
func (b *Broker) Encrypt(deviceID string, destroy bool) *Job {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := &Job{ID: uuid.NewString(), DeviceID: deviceID, Destroy: destroy}
	b.device(deviceID).Status = api.DeviceEncryptionPending
	b.jobs = append(b.jobs, j)
	b.changed()
	return j
}

// JobEnd waits until the job is done or failed and returns every progress report of it.
func (b *Broker) JobEnd(j *Job) []api.JobProgress {
	b.t.Helper()
	var out []api.JobProgress
	b.Wait("the encrypt job to end", func() bool {
		out = slices.Clone(j.Progress)
		return len(out) > 0 && (out[len(out)-1].Done || out[len(out)-1].Failed != "")
	})
	return out
}

// Edit changes a device under the lock.
func (b *Broker) Edit(deviceID string, change func(*Device)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(b.device(deviceID))
	b.changed()
}

// Asked waits for a key request of the device in one of the given states and returns a copy of it.
func (b *Broker) Asked(deviceID string, states ...api.KeyStatus) Request {
	b.t.Helper()
	var out Request
	b.Wait("a key request of the device in "+string(states[0]), func() bool {
		if q := b.newest(deviceID); q != nil && slices.Contains(states, q.Status) {
			out = *q
			return true
		}
		return false
	})
	return out
}

// Requests are all requests of a device, oldest first.
func (b *Broker) Requests(deviceID string) []Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Request
	for _, q := range b.requests {
		if q.DeviceID == deviceID {
			out = append(out, *q)
		}
	}
	return out
}

// Give changes the open request of a device into one for another device, as a resource pool does.
func (b *Broker) Give(asked, given string) Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.newest(asked)
	q.DeviceID = given
	if b.pool == nil {
		b.pool = map[string]bool{}
	}
	b.pool[asked] = true
	b.set(q, api.KeyPending, "another device of the pool")
	return *q
}

// Decide moves a request to a state as a person or a policy would.
func (b *Broker) Decide(requestID string, s api.KeyStatus, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.set(b.request(requestID), s, reason)
}

// Revoke asks the agent to give the key of a request up.
func (b *Broker) Revoke(requestID string, mode api.RevokeMode, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q := b.request(requestID)
	q.Revoke = mode
	b.set(q, api.KeyRevoking, reason)
}

// Reported waits until the agent has reported an event of the request and returns the event.
func (b *Broker) Reported(requestID string, event api.RequestEventName) api.RequestEvent {
	b.t.Helper()
	var out api.RequestEvent
	b.Wait("the report "+string(event), func() bool {
		for _, e := range slices.Backward(b.request(requestID).Events) {
			if e.Event == event {
				out = e
				return true
			}
		}
		return false
	})
	return out
}

// Pace sets how often heartbeats are wanted, in seconds.
func (b *Broker) Pace(seconds int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Heartbeat = seconds
}

// Beats are the heartbeats so far.
func (b *Broker) Beats() []api.Heartbeat {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.beats)
}

// Status is a device's status.
func (b *Broker) Status(deviceID string) api.DeviceStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.device(deviceID).Status
}

// Tampering sets Tamper while the broker runs.
func (b *Broker) Tampering(how func(*api.KeyDelivery)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Tamper = how
}

// Newest is the newest request of a device. It is for checks of Wait, which hold the lock.
func (b *Broker) Newest(deviceID string) Request { return *b.newest(deviceID) }
