package httpapi_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// claim publishes a disk as a machine that says it was started from another machine's image.
func (b *box) claim(image string, disks ...api.InventoryDevice) {
	b.t.Helper()
	if _, err := b.PublishInventory(b.t.Context(), api.InventoryReport{Provider: "native", Devices: disks,
		Instance: api.InstanceInfo{Identity: "id-" + b.host, HostName: b.host, ImageIdentity: image, AgentVersion: "1.0.0"}}); err != nil {
		b.t.Fatalf("inventory: %v", err)
	}
}

// A machine publishes what it likes. One that lists another's device, in the name of the other's image, gets its key by
// no policy and no timer until a person has approved it there once.
func TestMoved_aPolicyAloneGivesTheKeyToTheHomeOnly(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, c := o.machine("db1"), o.machine("db2")
		d, key := b.encrypted("data")
		o.policy(noPort80("web"), d)
		b.ask(d.ID, "22").mounted().report(api.EventUnmounted)

		c.claim("image-db1", disk("data"))
		a := c.ask(d.ID, "22")
		eq(t, "integrity on the other machine", a.Integrity, api.IntegrityGood)
		eq(t, "status on the other machine", a.Status, api.KeyPending)
		if !strings.Contains(a.Reason, `moved here from machine "db1"`) {
			t.Errorf("reason %q does not name the machine that it came from", a.Reason)
		}
		log := o.events("key-request.pending")
		if n := len(log); n == 0 || log[n-1].Detail["home"] != b.id || !strings.Contains(log[n-1].Detail["reason"], "db1") {
			t.Errorf("the log does not say where the device came from: %+v", log)
		}
		eq(t, "status when asked again", c.ask(d.ID, "22").Status, api.KeyPending)

		// Back home nobody needs to be asked.
		b.claim("image-db1", disk("data"))
		eq(t, "status at home", b.ask(d.ID, "22").Status, api.KeyApproved)

		// One approval makes the new machine a home too.
		c.claim("image-db1", disk("data"))
		r.later(time.Hour + time.Minute) // the approved key at home was never collected
		if !bytes.Equal(c.ask(d.ID, "22").approve().collect(), key) {
			t.Fatal("another key")
		}
		r.later(2 * time.Minute)
		eq(t, "status after one approval", c.ask(d.ID, "22").Status, api.KeyApproved)
	})
}

func TestMoved_noTimerApproves(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, c := o.machine("db1"), o.machine("db2")
		d, _ := b.encrypted("data")
		in := noPort80("web")
		in.OnMatch, in.ApproveAfterSeconds = api.ActionManual, 60
		in.LeaseSeconds, in.HeartbeatSeconds = 600, 300
		o.policy(in, d)
		c.claim("image-db1", disk("data"))
		a := c.ask(d.ID, "22")
		r.later(2 * time.Minute)
		a.is(api.KeyPending)
	})
}

// Whoever has an enrolment token and knows a machine's identity can enrol in its name. That gives no key: neither by
// policy, nor because a lease of the machine runs, nor by what a person approved for the machine before.
func TestEnrol_againGivesNoKeyWithoutAPerson(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		o.policy(noPort80("web"), d)
		b.ask(d.ID, "22").mounted()
		byHand, _ := b.encryptedToo("hand")
		b.ask(byHand.ID).mounted()

		thief := o.machine("db1")
		eq(t, "instance", thief.id, b.id)
		a := thief.ask(d.ID, "22")
		eq(t, "status by policy", a.Status, api.KeyPending)
		if !strings.Contains(a.Reason, "enrolled anew") {
			t.Errorf("reason %q does not say why a person is asked", a.Reason)
		}
		eq(t, "status within the lease of an approval", thief.ask(byHand.ID).Status, api.KeyPending)

		a.approve().collect()
		r.later(2 * time.Minute)
		eq(t, "status after an approval", thief.ask(d.ID, "22").Status, api.KeyApproved)
	})
}

// encryptedToo is encrypted for a further disk beside "data".
func (b *box) encryptedToo(name string) (api.Device, []byte) {
	b.t.Helper()
	id := b.publish(disk("data"), disk(name))[name].ID
	b.configured(id, "/mnt/"+name)
	if _, err := b.admin.EncryptDevice(b.t.Context(), id, api.EncryptWrite{Confirm: name}); err != nil {
		b.t.Fatalf("encrypt: %v", err)
	}
	c := b.command(api.CommandEncrypt)
	key := b.take(c)
	if err := b.JobProgress(b.t.Context(), c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Volume: b.record(*c.Device, key)}); err != nil {
		b.t.Fatalf("done: %v", err)
	}
	d, err := b.admin.Device(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return d, key
}
