package httpapi_test

import (
	"bytes"
	"net/url"
	"slices"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// archive exports the keys of a device as the Security Administrator, and opens them by file name.
func (o *org) archive(id string) map[string]client.Exported {
	o.t.Helper()
	var out bytes.Buffer
	if err := o.person(api.RoleSecurityAdmin).ExportKeys(o.t.Context(), api.ExportWrite{DeviceIDs: []string{id}, Passphrase: exportPassphrase.Passphrase}, &out); err != nil {
		o.t.Fatalf("export: %v", err)
	}
	opened := map[string]client.Exported{}
	for name, text := range files(o.t, out.Bytes()) {
		opened[strings.TrimPrefix(name, id)] = must[client.Exported](o.t)(client.OpenExported(bytes.NewReader(text), exportPassphrase.Passphrase))
	}
	return opened
}

func (o *org) jobs() []api.Job {
	o.t.Helper()
	var out struct {
		Jobs []api.Job `json:"jobs"`
	}
	if err := o.admin.Do(o.t.Context(), "GET", "/api/v1/jobs", nil, &out); err != nil {
		o.t.Fatal(err)
	}
	return out.Jobs
}

// a new key waits beside the one that the volume has. What opens the volume, what machines get and what envelopes
// hold stays the same; exports carry both.
func TestRotation_changesNothingAboutUnlocking(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, key := b.encrypted("data")
		security := o.person(api.RoleSecurityAdmin)
		h := newHolders(t)
		must[api.RecoveryKey](t)(security.SetRecoveryKey(ctx, api.RecoveryKeyWrite{PublicKey: string(h.key.PEM())}))
		before := must[api.RecoveryEnvelope](t)(b.Recovery(ctx, ""))

		_, err := security.RotateDeviceKey(ctx, d.ID, api.KeyRotationWrite{})
		wantProblem(t, err, 403, "forbidden")
		got := must[api.Device](t)(o.admin.RotateDeviceKey(ctx, d.ID, api.KeyRotationWrite{Reason: "quarterly"}))
		if got.Status != api.DeviceEncrypted || got.Rotation == nil || got.Rotation.Generation != 2 || got.Rotation.Reason != "quarterly" ||
			got.Rotation.AskedBy != string(api.RoleAccountAdmin) || got.Key.CreatedAt != d.Key.CreatedAt {
			t.Fatalf("asked for: %+v, rotation %+v", got, got.Rotation)
		}
		_, err = o.admin.RotateDeviceKey(ctx, d.ID, api.KeyRotationWrite{})
		wantProblem(t, err, 409, "conflict")
		list := must[client.Devices](t)(o.admin.Devices(ctx, url.Values{"size": {"10"}}))
		if len(list.Devices) != 1 || list.Devices[0].Rotation == nil || list.Devices[0].Key.CreatedAt != d.Key.CreatedAt {
			t.Errorf("the list: %+v", list.Devices)
		}

		a := b.ask(d.ID).approve()
		if !bytes.Equal(a.collect(), key) {
			t.Error("the machine got another key than its volume has")
		}
		a.report(api.EventMounted)
		o.deviceIs(d.ID, api.DeviceInUse)
		if after := must[api.RecoveryEnvelope](t)(b.Recovery(ctx, before.Revision)); after.Revision != before.Revision {
			t.Error("the envelope changed")
		}
		keys := o.archive(d.ID)
		if len(keys) != 2 || !bytes.Equal(keys[".xml"].Key, key) || bytes.Equal(keys[".pending.xml"].Key, key) || len(keys[".pending.xml"].Key) != len(key) {
			t.Errorf("exported: %v", keys)
		}

		back := must[api.Device](t)(o.admin.CancelKeyRotation(ctx, d.ID))
		if back.Rotation != nil || back.Status != api.DeviceInUse {
			t.Errorf("cancelled: %+v", back)
		}
		_, err = o.admin.CancelKeyRotation(ctx, d.ID)
		wantProblem(t, err, 409, "conflict")
		if keys := o.archive(d.ID); len(keys) != 1 || !bytes.Equal(keys[".xml"].Key, key) {
			t.Errorf("exported afterwards: %v", keys)
		}
		// The next one is another key again.
		eq(t, "generation", must[api.Device](t)(o.admin.RotateDeviceKey(ctx, d.ID, api.KeyRotationWrite{})).Rotation.Generation, 2)
		for event, n := range map[string]int{"device.key-rotation-asked": 2, "device-key.pending": 2, "device.key-rotation-cancelled": 1, "device-key.pending-destroyed": 1} {
			if got := len(o.events(event)); got != n {
				t.Errorf("%d records %s, want %d", got, event, n)
			}
		}
	})
}

// The machine is asked, says that it cannot, and the job waits with its word until an agent of another version comes.
func TestRotation_waitsWithTheMachinesWord(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b, other := o.machine("db1"), o.machine("db2")
		d, _ := b.encrypted("data")
		must[api.Device](t)(o.admin.RotateDeviceKey(ctx, d.ID, api.KeyRotationWrite{}))
		c := b.command(api.CommandRotateKey)
		eq(t, "device", c.DeviceID, d.ID)
		private := must[*client.DeliveryKey](t)(client.NewDeliveryKey())
		_, err := b.JobKey(ctx, c.JobID, api.JobKeyRequest{PublicKey: private.PublicKey(), Nonce: must[api.NonceResponse](t)(b.Nonce(ctx)).Nonce})
		wantProblem(t, err, 409, "conflict")
		wantProblem(t, b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "waiting"}), 422, "invalid")
		wantProblem(t, b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "header", Percent: 1}), 409, "job-ended")
		wantProblem(t, other.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "waiting", Waiting: "mine"}), 404, "not-found")
		for range 2 {
			if err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "waiting", Waiting: "not this agent\nyet"}); err != nil {
				t.Fatal(err)
			}
		}
		eq(t, "why it waits", must[api.Device](t)(o.admin.Device(ctx, d.ID)).Rotation.Waits, "not this agent yet")
		eq(t, "records", len(o.events("job.waits")), 1)
		asked := func() bool {
			list := must[api.CommandList](t)(b.Commands(ctx, 0))
			return slices.ContainsFunc(list.Commands, func(c api.Command) bool { return c.Kind == api.CommandRotateKey })
		}
		if asked() {
			t.Error("a machine that has answered is asked again")
		}
		r.later(100 * 3600e9) // it waits for as long as it takes
		b.beat()
		if j := o.jobs()[0]; j.Kind != "rotate-key" || j.Status != "queued" || j.DeviceName != "data" || j.InstanceName != "db1" || j.Waits == "" {
			t.Errorf("the job: %+v", j)
		}
		report := api.InventoryReport{Provider: "native", Devices: []api.InventoryDevice{disk("data")}, Instance: api.InstanceInfo{Identity: "id-db1", HostName: "db1",
			Location: "lab", ImageIdentity: "image-db1", AgentVersion: "2.0.0"}}
		must[api.DeviceList](t)(b.PublishInventory(ctx, report))
		if !asked() {
			t.Error("an agent of another version is not asked")
		}

		// Destroying the device's key destroys the one that waits, and ends the job.
		if _, err := o.admin.UnconfigureDevice(ctx, d.ID, api.UnconfigureWrite{Confirm: "data"}); err != nil {
			t.Fatal(err)
		}
		if j := o.jobs()[0]; j.Status != "cancelled" || j.Error == "" || j.EndedAt == nil || asked() {
			t.Errorf("the job: %+v", j)
		}
		err = o.store.View(ctx, func(tx *store.Tx) error {
			if n, err := store.In[store.DeviceKey](tx.Tenant(o.id)).Count(store.Eq("device_id", d.ID)); err != nil || n != 0 {
				t.Errorf("%d keys are left: %v", n, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// A volume that came with another cipher gets a key of that cipher; the key is stored wrapped, and opens.
func TestRotation_newKeyFitsTheVolume(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		d, key := o.machine("db1").encrypted("data")
		must[api.Device](t)(o.admin.RotateDeviceKey(t.Context(), d.ID, api.KeyRotationWrite{}))
		err := o.store.View(t.Context(), func(tx *store.Tx) error {
			tn := tx.Tenant(o.id)
			account, err := inventory.AccountKey(tn)
			if err != nil {
				return err
			}
			row, err := inventory.PendingKey(tn, d.ID)
			if err != nil {
				return err
			}
			k, err := keystore.OpenDeviceKey(r.root, account, inventory.WrappedKey(row))
			if err != nil {
				return err
			}
			defer k.Wipe()
			if k.Len() != len(key) || bytes.Equal(k.Bytes(), key) || bytes.Contains(row.Wrapped, k.Bytes()) {
				t.Error("the pending key does not fit, is the old one, or is stored in clear")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
