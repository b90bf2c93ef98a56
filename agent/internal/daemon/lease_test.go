package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"keyward/agent/volume"
	"keyward/broker/api"
)

func TestLease_endsWithoutContactAndTheKeyGoes(t *testing.T) {
	for _, mode := range []api.RevokeMode{api.RevokeUnmount, api.RevokeSuspend} {
		t.Run(string(mode), func(t *testing.T) {
			r := newRig(t)
			r.image("data.img", imageSize)
			r.o.Config.LeaseEnd = string(mode)
			c := &clock{now: time.Hour}
			r.o.Boottime = c.read
			r.broker.Lease = 300
			r.enrol()
			r.start()
			id, target := r.encrypted("data.img")
			r.mounted(id)
			r.write(filepath.Join(target, "file"), "kept")
			r.broker.Stop()

			c.move(299 * time.Second)
			time.Sleep(100 * time.Millisecond)
			if v := r.until(volume.Mounted); v.LeaseSeconds > 1 {
				t.Errorf("a second before the end the lease shows %d s", v.LeaseSeconds)
			}
			c.move(2 * time.Second)
			want := volume.Locked
			if mode == api.RevokeSuspend {
				want = volume.Suspended
			}
			// Asking again fails while the broker is away, so the volume passes through several states; the key is what counts.
			r.until(want)
			r.wantMounted(target, mode == api.RevokeSuspend)
			r.wantNoKey(0, id)

			// The broker comes back: the agent asks again by itself. It was reported as revoked, so a person decides.
			r.broker.Start()
			r.mounted(id)
			r.until(volume.Mounted)
			r.wantFile(filepath.Join(target, "file"), "kept")
			if mode == api.RevokeSuspend {
				r.write(filepath.Join(target, "more"), "after the thaw")
			}
		})
	}
}

func TestLease_heartbeatsRenewIt(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	c := &clock{now: time.Hour}
	r.o.Boottime = c.read
	r.broker.Lease = 300
	r.enrol()
	r.start()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	for range 3 {
		c.move(200 * time.Second)
		before := len(r.broker.Beats())
		r.eventually("two heartbeats", func() bool { return len(r.broker.Beats()) >= before+2 })
	}
	r.wantMounted(target, true)
	beats := r.broker.Beats()
	last := beats[len(beats)-1]
	if len(last.Held) != 1 || last.Held[0].RequestID != q.ID || !last.Held[0].Mounted || len(last.Evidence.Facts) == 0 {
		t.Errorf("the heartbeat says %+v", last.Held)
	}
}

func TestBroker_goneAndBackWhileMounted(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.broker.Lease = 3600
	r.enrol()
	r.broker.Stop()
	r.start() // the agent starts without its broker, and waits for it
	if s := r.status(); s.Broker.Connected {
		t.Errorf("without a broker the link shows %+v", s.Broker)
	}
	r.broker.Start()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	r.until(volume.Mounted)
	r.broker.Stop()
	r.write(filepath.Join(target, "file"), "written during the outage")
	r.eventually("the outage to show", func() bool { return !r.status().Broker.Connected })
	if s := r.status(); s.Broker.Connected || s.Broker.Error == "" || s.Broker.LastContact == nil {
		t.Errorf("during an outage the link shows %+v", s.Broker)
	}
	r.broker.Start()
	r.eventually("the link to come back", func() bool { return r.status().Broker.Connected })
	r.wantMounted(target, true)
	r.wantFile(filepath.Join(target, "file"), "written during the outage")
	if all := r.broker.Requests(id); len(all) != 1 || all[0].ID != q.ID {
		t.Errorf("an outage within the lease led to %d requests, want the one", len(all))
	}
	_ = os.Remove(filepath.Join(target, "file"))
}
