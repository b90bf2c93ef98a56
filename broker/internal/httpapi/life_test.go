package httpapi_test

import (
	"bytes"
	"testing"
	"time"

	"keyward/broker/api"
)

// From an unknown disk to a mounted volume, taken away and given back: every state on the way, over real TLS.
func TestLife_fromEnrolmentToRevocationAndBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		id := b.publish(disk("data"))["data"].ID
		d := o.deviceIs(id, api.DeviceNotConfigured)
		if d.PolicyName != "Default Policy" || d.InstanceName != "db1" || d.ImageID == "" {
			t.Fatalf("a new device is %+v; it belongs to the default policy and its machine's image", d)
		}
		o.configured(id, "/mnt/data")
		o.deviceIs(id, api.DeviceConfigured)
		if _, err := o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data"}); err != nil {
			t.Fatal(err)
		}
		o.deviceIs(id, api.DeviceEncryptionPending)
		c := b.command(api.CommandEncrypt)
		key := b.take(c)
		if len(key) != 64 {
			t.Fatalf("an AES-256-XTS key has %d bytes", len(key))
		}
		o.deviceIs(id, api.DeviceEncrypting)
		if err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "file system", Percent: 40}); err != nil {
			t.Fatal(err)
		}
		eq(t, "progress", o.deviceIs(id, api.DeviceEncrypting).StatusDetail, "file system, 40 %")
		if err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Volume: b.record(*c.Device, key)}); err != nil {
			t.Fatal(err)
		}
		d = o.deviceIs(id, api.DeviceEncrypted)
		if d.Key == nil || d.Key.Bits != 256 || d.Key.Mode != "XTS" || d.Key.VolumeUUID == "" {
			t.Fatalf("key information %+v", d.Key)
		}

		a := b.ask(id)
		eq(t, "status", a.Status, api.KeyPending)
		eq(t, "integrity", a.Integrity, api.IntegrityUnknownNoRules)
		eq(t, "number", a.Number, int64(1))
		if rows := o.running(); rows.Total != 1 || rows.Pending != 1 || rows.Instances != 1 || rows.Rows[0].DeviceName != "data" {
			t.Fatalf("running instances %+v", rows)
		}
		// The agent's long poll ends with the decision, not with its time.
		done := make(chan api.KeyRequestStatus, 1)
		go func() {
			s, err := b.RequestStatus(ctx, a.ID, 30*time.Second, a.Version)
			if err != nil {
				t.Errorf("long poll: %v", err)
			}
			done <- s
		}()
		time.Sleep(100 * time.Millisecond)
		a.approve()
		eq(t, "status after the long poll", (<-done).Status, api.KeyApproved)
		if got := a.collect(); !bytes.Equal(got, key) {
			t.Fatal("the delivered key is not the one that the volume was made with")
		}
		detail := a.is(api.KeyDelivered)
		if detail.DecidedBy != string(api.RoleKeyApprover) || detail.LeaseExpiresAt == nil || len(detail.History) != 3 {
			t.Fatalf("detail %+v", detail)
		}
		a.report(api.EventMounted)
		o.deviceIs(id, api.DeviceInUse)
		resp := b.beat(a)
		if len(resp.Leases) != 1 || resp.Leases[0].RequestID != a.ID || len(resp.Commands) != 0 || resp.NextSeconds != 30 {
			t.Fatalf("heartbeat %+v", resp)
		}

		if _, err := o.approver.Revoke(ctx, a.ID, api.Decision{Reason: "end of work"}); err != nil {
			t.Fatal(err)
		}
		a.is(api.KeyRevoking)
		cmd := b.command(api.CommandRevoke)
		if cmd.RequestID != a.ID || cmd.Mode != api.RevokeUnmount {
			t.Fatalf("command %+v", cmd)
		}
		if resp := b.beat(a); len(resp.Leases) != 0 || len(resp.Commands) != 1 {
			t.Fatalf("a heartbeat renews a key that is being revoked: %+v", resp)
		}
		a.report(api.EventRevoked)
		a.is(api.KeyRevoked)
		o.deviceIs(id, api.DeviceEncrypted)

		again := b.ask(id)
		eq(t, "status after a revocation", again.Status, api.KeyPending)
		if got := again.approve().collect(); !bytes.Equal(got, key) {
			t.Fatal("another key after the revocation")
		}
		again.report(api.EventMounted).report(api.EventUnmounted)
		again.is(api.KeyExpired)
		o.deviceIs(id, api.DeviceEncrypted)
		eq(t, "rows after the machine stopped", o.running().Total, 0)
		for _, name := range []string{"instance.enrolled", "device.added", "device.configured", "device.encrypted", "key-request.pending",
			"key-request.approved", "key-request.delivered", "key.mounted", "key-request.revoke-asked", "key-request.revoked", "key.returned"} {
			if len(o.events(name)) == 0 {
				t.Errorf("the audit log has no %s", name)
			}
		}
	})
}
