package httpapi_test

import (
	"archive/zip"
	"bytes"
	"io"
	"net/url"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
)

func TestInventory_vanishedDevicesComeBackAsTheyWere(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, key := b.encrypted("data")
		fresh := b.publish(disk("data"), disk("spare"))["spare"].ID
		b.publish()
		o.deviceIs(d.ID, api.DeviceUndetected)
		o.deviceIs(fresh, api.DeviceUndetected)
		b.publish(disk("data"))
		back := o.deviceIs(d.ID, api.DeviceEncrypted)
		o.deviceIs(fresh, api.DeviceUndetected)
		if back.Key == nil || back.MountPoint != "/mnt/data" {
			t.Fatalf("the device came back as %+v", back)
		}
		a := b.ask(d.ID)
		if got := a.approve().collect(); !bytes.Equal(got, key) {
			t.Fatal("another key")
		}
		a.report(api.EventMounted)
		// Inventory is advice; the mounted volume is the truth.
		b.publish()
		if got := o.deviceIs(d.ID, api.DeviceInUse); !strings.Contains(got.StatusDetail, "Missing") {
			t.Fatalf("detail %q", got.StatusDetail)
		}
		b.publish(disk("data"))
		eq(t, "detail", o.deviceIs(d.ID, api.DeviceInUse).StatusDetail, "")
	})
}

func TestInventory_reportsThatAreRefused(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		report := func(change func(*api.InventoryReport)) error {
			in := api.InventoryReport{Provider: "native", Devices: []api.InventoryDevice{disk("data")},
				Instance: api.InstanceInfo{Identity: "id-db1", HostName: "db1", ImageIdentity: "image-db1", AgentVersion: "1"}}
			change(&in)
			_, err := b.PublishInventory(t.Context(), in)
			return err
		}
		wantProblem(t, report(func(in *api.InventoryReport) { in.Devices = append(in.Devices, in.Devices[0]) }), 422, "invalid")
		wantProblem(t, report(func(in *api.InventoryReport) { in.Devices[0].Size = -1 }), 422, "invalid")
		wantProblem(t, report(func(in *api.InventoryReport) { in.Devices[0].Identity = "" }), 422, "invalid")
		wantProblem(t, report(func(in *api.InventoryReport) { in.Instance.Identity = "id-db2" }), 403, "identity-changed")
		wantProblem(t, report(func(in *api.InventoryReport) { in.Devices[0].Information = strings.Repeat("x", 2<<20) }), 413, "too-large")
		if err := report(func(*api.InventoryReport) {}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestConfigure_saysWhatIsWrong(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		ids := b.publish(disk("data"), disk("spare"))
		id := ids["data"].ID
		good := api.DeviceWrite{Name: "data", Platform: "linux", FileSystem: "xfs", MountPoint: "/mnt/data", Version: o.deviceIs(id, api.DeviceNotConfigured).Version}
		for field, change := range map[string]func(*api.DeviceWrite){
			"name":        func(w *api.DeviceWrite) { w.Name = " " },
			"file_system": func(w *api.DeviceWrite) { w.FileSystem = "ntfs" },
			"mount_point": func(w *api.DeviceWrite) { w.MountPoint = "/etc" },
			"image_id":    func(w *api.DeviceWrite) { w.ImageID = "nowhere" },
		} {
			w := good
			change(&w)
			_, err := o.admin.ConfigureDevice(ctx, id, w)
			if !client.Is(err, "invalid") || !strings.Contains(err.Error(), field) {
				t.Errorf("%s: %v", field, err)
			}
		}
		for _, path := range []string{"mnt/data", "/mnt/../etc", "/mnt/data/", "/", "/proc/1", "C:"} {
			w := good
			w.MountPoint = path
			_, err := o.admin.ConfigureDevice(ctx, id, w)
			wantProblem(t, err, 422, "invalid")
		}
		d := must[api.Device](t)(o.admin.ConfigureDevice(ctx, id, good))
		if d.Status != api.DeviceConfigured || d.KeyBits != 256 || d.Access != api.AccessReadWrite {
			t.Fatalf("configured as %+v", d)
		}
		_, err := o.admin.ConfigureDevice(ctx, id, good)
		wantProblem(t, err, 409, "stale")
		spare := good
		spare.Name, spare.Version = "spare", o.deviceIs(ids["spare"].ID, api.DeviceNotConfigured).Version
		_, err = o.admin.ConfigureDevice(ctx, ids["spare"].ID, spare)
		wantProblem(t, err, 422, "invalid") // the same mount point on the same machine
		// A name alone does not configure.
		d = must[api.Device](t)(o.admin.ConfigureDevice(ctx, ids["spare"].ID, api.DeviceWrite{Name: "cold spare", Version: spare.Version}))
		if d.Status != api.DeviceNotConfigured || d.Name != "cold spare" {
			t.Fatalf("renamed to %+v", d)
		}
	})
}

func TestConfigure_anEncryptedDeviceKeepsWhatItsVolumeIs(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		d, _ := o.machine("db1").encrypted("data")
		_, err := o.admin.ConfigureDevice(ctx, d.ID, api.DeviceWrite{Name: d.Name, FileSystem: "xfs", Version: d.Version})
		wantProblem(t, err, 422, "invalid")
		_, err = o.admin.ConfigureDevice(ctx, d.ID, api.DeviceWrite{Name: d.Name, KeyBits: 128, Version: d.Version})
		wantProblem(t, err, 422, "invalid")
		d = must[api.Device](t)(o.admin.ConfigureDevice(ctx, d.ID, api.DeviceWrite{Name: "db", MountPoint: "/srv/db", Version: d.Version}))
		if d.Status != api.DeviceEncrypted || d.MountPoint != "/srv/db" || d.FileSystem != "ext4" {
			t.Fatalf("saved as %+v", d)
		}
	})
}

func TestEncrypt_wantsTheWordThatDestroys(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		full := disk("data")
		full.Contents = "ext4 file system \"home\""
		id := b.publish(full)["data"].ID
		_, err := o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data", Destroy: true})
		wantProblem(t, err, 409, "conflict") // not configured
		o.configured(id, "/mnt/data")
		_, err = o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "Data", Destroy: true})
		wantProblem(t, err, 422, "invalid")
		_, err = o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data"})
		wantProblem(t, err, 409, "device-not-empty")
		if !strings.Contains(err.Error(), "home") {
			t.Errorf("%v does not say what would be lost", err)
		}
		if _, err := o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data", Destroy: true}); err != nil {
			t.Fatal(err)
		}
		if c := b.command(api.CommandEncrypt); !c.Destroy {
			t.Error("the machine does not learn of the word")
		}
		d := must[api.Device](t)(o.admin.CancelEncryption(ctx, id))
		eq(t, "status after cancelling", d.Status, api.DeviceConfigured)
		if list := must[api.CommandList](t)(b.Commands(ctx, 0)); len(list.Commands) != 0 {
			t.Errorf("a cancelled job is still asked for: %+v", list)
		}
		_, err = o.admin.CancelEncryption(ctx, id)
		wantProblem(t, err, 409, "conflict")
	})
}

func TestJob_waitsForItsMachineAndNotForEver(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		id := b.publish(disk("data"))["data"].ID
		o.configured(id, "/mnt/data")
		encrypt := func() api.Command {
			if _, err := o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data"}); err != nil {
				t.Fatal(err)
			}
			return b.command(api.CommandEncrypt)
		}
		stale := encrypt()
		r.later(11 * time.Hour)
		o.deviceIs(id, api.DeviceEncryptionPending)
		r.later(2 * time.Hour)
		o.deviceIs(id, api.DeviceConfigured)
		private := must[*client.DeliveryKey](t)(client.NewDeliveryKey())
		nonce := must[api.NonceResponse](t)(b.Nonce(ctx))
		_, err := b.JobKey(ctx, stale.JobID, api.JobKeyRequest{PublicKey: private.PublicKey(), Nonce: nonce.Nonce})
		wantProblem(t, err, 409, "job-ended")

		// Whoever asks may say how long.
		for _, never := range []int64{-1, api.MaxEncryptWait + 1} {
			_, err := o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data", WaitSeconds: never})
			wantProblem(t, err, 422, "invalid")
		}
		d := must[api.Device](t)(o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data", WaitSeconds: 90 * 60}))
		eq(t, "detail while it waits", d.StatusDetail, "Waiting for the machine to begin, for at most 90 minutes.")
		r.later(89 * time.Minute)
		o.deviceIs(id, api.DeviceEncryptionPending)
		r.later(2 * time.Minute)
		eq(t, "notices of the two that were not begun", o.noticed("provisioning-idle"), 2)
		eq(t, "detail after the wait", o.deviceIs(id, api.DeviceConfigured).StatusDetail, "No machine began the encryption within 90 minutes.")

		c := encrypt()
		first := b.take(c)
		if list := must[api.CommandList](t)(b.Commands(ctx, 0)); len(list.Commands) != 0 {
			t.Errorf("a job that was just taken is asked for again: %+v", list)
		}
		r.later(31 * time.Second)
		if second := b.take(b.command(api.CommandEncrypt)); !bytes.Equal(first, second) {
			t.Error("a machine that was restarted gets another key for the same job")
		}
		r.later(16 * time.Minute)
		o.deviceIs(id, api.DeviceEncryptionError)
		wantProblem(t, b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "header", Percent: 1}), 409, "job-ended")
		// Saving is the retry; a failure that the machine reports is shown in its words.
		o.configured(id, "/mnt/data")
		c = encrypt()
		b.take(c)
		if err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "failed", Failed: "root disk: refused"}); err != nil {
			t.Fatal(err)
		}
		eq(t, "detail", o.deviceIs(id, api.DeviceEncryptionError).StatusDetail, "root disk: refused")
		eq(t, "notices of the two that failed", o.noticed("provisioning-failed"), 2)
		if n := o.notices()[0]; n.Text != "root disk: refused" || n.DeviceID != id || n.RequestID != "" || n.Instance == "" {
			t.Errorf("the notice is %+v", n)
		}
	})
}

func TestJob_anotherMachinesJobIsNotThere(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b, other := o.machine("db1"), o.machine("db2")
		id := b.publish(disk("data"))["data"].ID
		o.configured(id, "/mnt/data")
		if _, err := o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data"}); err != nil {
			t.Fatal(err)
		}
		c := b.command(api.CommandEncrypt)
		private := must[*client.DeliveryKey](t)(client.NewDeliveryKey())
		nonce := must[api.NonceResponse](t)(other.Nonce(ctx))
		_, err := other.JobKey(ctx, c.JobID, api.JobKeyRequest{PublicKey: private.PublicKey(), Nonce: nonce.Nonce})
		wantProblem(t, err, 404, "not-found")
		wantProblem(t, other.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "header"}), 404, "not-found")
		o.deviceIs(id, api.DeviceEncryptionPending)
	})
}

// The broker computes the digest itself, so a volume that was made with another key or cipher is never recorded.
func TestJob_refusesAVolumeThatIsNotWhatWasAskedFor(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		id := b.publish(disk("data"))["data"].ID
		o.configured(id, "/mnt/data")
		if _, err := o.admin.EncryptDevice(ctx, id, api.EncryptWrite{Confirm: "data"}); err != nil {
			t.Fatal(err)
		}
		c := b.command(api.CommandEncrypt)
		key := b.take(c)
		for field, change := range map[string]func(*api.VolumeRecord){
			"digest":            func(v *api.VolumeRecord) { v.Digest = b.record(*c.Device, make([]byte, 64)).Digest },
			"cipher":            func(v *api.VolumeRecord) { v.Cipher = "cipher_null-ecb" },
			"key_bits":          func(v *api.VolumeRecord) { v.KeyBits = 128 },
			"sector_size":       func(v *api.VolumeRecord) { v.SectorSize = 1024 },
			"data_offset":       func(v *api.VolumeRecord) { v.DataOffset = 0 },
			"data_size":         func(v *api.VolumeRecord) { v.DataSize = 1 << 40 },
			"digest_iterations": func(v *api.VolumeRecord) { v.DigestIterations = 1 << 40 },
			"digest_salt":       func(v *api.VolumeRecord) { v.DigestSalt = v.DigestSalt[:4] },
			"uuid":              func(v *api.VolumeRecord) { v.UUID = "x" },
			"header_hash":       func(v *api.VolumeRecord) { v.HeaderHash = v.HeaderHash[:31] },
			"account":           func(v *api.VolumeRecord) { v.Account = "x" },
			"device":            func(v *api.VolumeRecord) { v.Device = "x" },
			"broker":            func(v *api.VolumeRecord) { v.Broker = "https://elsewhere" },
		} {
			v := b.record(*c.Device, key)
			change(v)
			err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Volume: v})
			if !client.Is(err, "invalid") || !strings.Contains(err.Error(), "volume."+field) {
				t.Errorf("%s: %v", field, err)
			}
		}
		wantProblem(t, b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true}), 422, "invalid")
		o.deviceIs(id, api.DeviceEncrypting)
		if len(o.events("job.volume-refused")) != 13 {
			t.Errorf("the log has %d refused volumes, want 13", len(o.events("job.volume-refused")))
		}
	})
}

func TestUnconfigure_destroysTheKeyForEver(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, key := b.encrypted("data")
		a := b.ask(d.ID).mounted()
		_, err := o.admin.UnconfigureDevice(ctx, d.ID, api.UnconfigureWrite{Confirm: "data"})
		wantProblem(t, err, 409, "conflict") // in use
		a.report(api.EventUnmounted)
		_, err = o.admin.UnconfigureDevice(ctx, d.ID, api.UnconfigureWrite{Confirm: "dat"})
		wantProblem(t, err, 422, "invalid")
		pending := b.ask(d.ID)
		got := must[api.Device](t)(o.admin.UnconfigureDevice(ctx, d.ID, api.UnconfigureWrite{Confirm: "data"}))
		if got.Status != api.DeviceNotConfigured || got.Key != nil || got.MountPoint != "" {
			t.Fatalf("unconfigured to %+v", got)
		}
		_, err = o.approver.Approve(ctx, pending.ID, api.Decision{})
		wantProblem(t, err, 409, "conflict")
		r.later(time.Second)
		eq(t, "reason", pending.is(api.KeyExpired).Reason, "The device was unconfigured or deleted since the request.")
		_, again := b.encrypted("data")
		if bytes.Equal(key, again) {
			t.Fatal("the destroyed key came back")
		}
	})
}

func TestDelete_onlyWhatNoMachineShows(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		wantProblem(t, o.admin.DeleteDevice(ctx, d.ID), 409, "conflict")
		a := b.ask(d.ID)
		b.publish()
		if err := o.admin.DeleteDevice(ctx, d.ID); err != nil {
			t.Fatal(err)
		}
		_, err := o.admin.Device(ctx, d.ID)
		wantProblem(t, err, 404, "not-found")
		// What was asked for stays readable.
		if got := must[api.KeyRequestDetail](t)(o.admin.KeyRequest(ctx, a.ID)); got.DeviceName != "(deleted device)" {
			t.Errorf("device name %q", got.DeviceName)
		}
	})
}

func TestCopyConfiguration_givesACloneTheKeyOfItsSource(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		source, key := b.encrypted("data")
		clone := b.publish(disk("data"), disk("clone"))["clone"].ID
		_, err := o.admin.CopyDeviceConfiguration(ctx, source.ID, client.CopyConfiguration{SourceID: clone})
		wantProblem(t, err, 409, "conflict")
		got := must[api.Device](t)(o.admin.CopyDeviceConfiguration(ctx, clone, client.CopyConfiguration{SourceID: source.ID}))
		if got.Status != api.DeviceEncrypted || !strings.Contains(got.StatusDetail, "Not verified") || got.FileSystem != "ext4" {
			t.Fatalf("the clone is %+v", got)
		}
		b.publish(disk("data")) // away, and back
		o.deviceIs(clone, api.DeviceUndetected)
		b.publish(disk("data"), disk("clone"))
		if now := o.deviceIs(clone, api.DeviceEncrypted); now.StatusDetail != got.StatusDetail {
			t.Errorf("back again, the clone says %q", now.StatusDetail)
		}
		a := b.ask(clone)
		if opened := a.approve().collect(); !bytes.Equal(opened, key) {
			t.Fatal("the clone has another key")
		}
		a.report(api.EventMounted)
		eq(t, "detail once opened", o.deviceIs(clone, api.DeviceInUse).StatusDetail, "")
		if len(o.events("device.cloned")) != 1 {
			t.Error("the log does not have the clone")
		}
	})
}

func TestExport_isAZIPOfEncryptedKeys(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, key := b.encrypted("data")
		security := o.person(api.RoleSecurityAdmin)
		var out bytes.Buffer
		in := api.ExportWrite{DeviceIDs: []string{d.ID, d.ID}, Passphrase: "correct horse battery"}
		if err := security.ExportKeys(ctx, in, &out); err != nil {
			t.Fatal(err)
		}
		z := must[*zip.Reader](t)(zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len())))
		if len(z.File) != 1 || z.File[0].Name != d.ID+".xml" {
			t.Fatalf("files %+v", z.File)
		}
		f := must[io.ReadCloser](t)(z.File[0].Open())
		defer f.Close()
		text := must[[]byte](t)(io.ReadAll(f))
		got, err := client.OpenExported(bytes.NewReader(text), in.Passphrase)
		if err != nil || got.DeviceID != d.ID || !bytes.Equal(got.Key, key) || got.Volume.UUID != d.Key.VolumeUUID {
			t.Fatalf("opened %s: %v", got.DeviceID, err)
		}
		if _, err := client.OpenExported(bytes.NewReader(text), "wrong horse battery"); err == nil {
			t.Fatal("another passphrase opens it")
		}
		if len(o.events("device-key.exported")) != 1 {
			t.Error("the log does not have the export")
		}
		wantProblem(t, o.admin.ExportKeys(ctx, in, io.Discard), 403, "forbidden")
		in.Passphrase = "short"
		wantProblem(t, security.ExportKeys(ctx, in, io.Discard), 422, "invalid")
		spare := b.publish(disk("data"), disk("spare"))["spare"].ID
		in = api.ExportWrite{DeviceIDs: []string{d.ID, spare}, Passphrase: "correct horse battery"}
		wantProblem(t, security.ExportKeys(ctx, in, io.Discard), 409, "conflict")
	})
}

func TestRAIDSet_asRecords(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		large := disk("b")
		large.Size = 600 << 20
		ids := b.publish(disk("a"), large, disk("c"))
		in := api.RAIDSetWrite{Name: "stripe", Platform: "linux", FileSystem: "xfs", MountPoint: "/mnt/stripe", KeyBits: 256, MemberIDs: []string{ids["a"].ID, ids["b"].ID}}
		do := func(method, path string, body any) (out api.Device, err error) {
			return out, o.admin.Do(ctx, method, path, body, &out)
		}
		set := must[api.Device](t)(do("POST", "/api/v1/raid-sets", in))
		if set.Status != api.DeviceConfigured || set.Size != 1024<<20 || len(set.MemberIDs) != 2 {
			t.Fatalf("set %+v", set)
		}
		_, err := do("POST", "/api/v1/raid-sets", in)
		wantProblem(t, err, 409, "name-taken")
		for name, change := range map[string]func(*api.RAIDSetWrite){
			"a member of another set": func(w *api.RAIDSetWrite) { w.Name = "other" },
			"a forbidden character":   func(w *api.RAIDSetWrite) { w.Name = "a+b" },
			"one device twice":        func(w *api.RAIDSetWrite) { w.Name, w.MemberIDs = "other", []string{ids["c"].ID, ids["c"].ID} },
			"one device":              func(w *api.RAIDSetWrite) { w.Name, w.MemberIDs = "other", []string{ids["c"].ID} },
		} {
			w := in
			change(&w)
			if _, err := do("POST", "/api/v1/raid-sets", w); !client.Is(err, "invalid") {
				t.Errorf("%s: %v", name, err)
			}
		}
		list := must[client.Devices](t)(o.admin.Devices(ctx, url.Values{}))
		if list.Total != 4 {
			t.Fatalf("%d devices and sets, want 4", list.Total)
		}
		if _, err := o.admin.EncryptDevice(ctx, ids["a"].ID, api.EncryptWrite{Confirm: "a", Destroy: true}); !client.Is(err, "conflict") || !strings.Contains(err.Error(), "RAID set") {
			t.Errorf("encrypting a member of a set: %v", err)
		}
		b.publish(disk("a"), disk("c"))
		set = must[api.Device](t)(do("GET", "/api/v1/raid-sets/"+set.ID, nil))
		eq(t, "status with a missing member", set.Status, api.DeviceMissing)
		wantProblem(t, o.admin.DeleteDevice(ctx, ids["b"].ID), 409, "conflict") // a member leaves its set first
		b.publish(disk("a"), large, disk("c"))
		set = must[api.Device](t)(do("GET", "/api/v1/raid-sets/"+set.ID, nil))
		eq(t, "status with all members back", set.Status, api.DeviceConfigured)
		in.Version, in.MountPoint = set.Version, "/srv/stripe"
		set = must[api.Device](t)(do("PUT", "/api/v1/raid-sets/"+set.ID, in))
		eq(t, "mount point", set.MountPoint, "/srv/stripe")
		wantProblem(t, o.admin.Do(ctx, "DELETE", "/api/v1/raid-sets/"+set.ID, nil, nil), 409, "conflict")
		set = must[api.Device](t)(do("POST", "/api/v1/raid-sets/"+set.ID+"/unconfigure", api.UnconfigureWrite{Confirm: "stripe"}))
		eq(t, "status", set.Status, api.DeviceNotConfigured)
		if err := o.admin.Do(ctx, "DELETE", "/api/v1/raid-sets/"+set.ID, nil, nil); err != nil {
			t.Fatal(err)
		}
		eq(t, "set of a released member", o.deviceIs(ids["a"].ID, api.DeviceNotConfigured).RAIDSetID, "")
	})
}

func TestDevices_filtersAndPages(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		b.publish(disk("data"), disk("spare1"), disk("spare2"), disk("log_"))
		for query, want := range map[string]int64{
			"": 4, "status=Encrypted": 1, "status=Encrypted&status=Not+configured": 4, "search=SPARE": 2, "search=_": 1, "search=/mnt/data": 1,
			"instance=" + b.id: 4, "instance=x": 0, "policy=" + d.PolicyID: 4, "image=" + d.ImageID: 4, "size=2&page=2": 4,
		} {
			q, _ := url.ParseQuery(query)
			got := must[client.Devices](t)(o.admin.Devices(t.Context(), q))
			if got.Total != want {
				t.Errorf("%q: %d devices, want %d", query, got.Total, want)
			}
			if q.Has("size") && (len(got.Devices) != 2 || got.Devices[0].Name != "spare1") {
				t.Errorf("%q: page %+v", query, got.Devices)
			}
		}
		_, err := o.admin.Devices(t.Context(), url.Values{"size": {"1000"}})
		wantProblem(t, err, 422, "invalid")
	})
}
