package httpapi_test

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/broker/client"
)

// striped publishes disks and joins them to a RAID set.
func (b *box) striped(name string, disks ...string) (set api.Device, members []api.AssignedDevice) {
	b.t.Helper()
	var found []api.InventoryDevice
	for _, d := range disks {
		found = append(found, disk(d))
	}
	ids := b.publish(found...)
	in := api.RAIDSetWrite{Name: name, Platform: "linux", FileSystem: "xfs", MountPoint: "/mnt/" + name, KeyBits: 256}
	for _, d := range disks {
		members = append(members, ids[d])
		in.MemberIDs = append(in.MemberIDs, ids[d].ID)
	}
	if err := b.admin.Do(b.t.Context(), "POST", "/api/v1/raid-sets", in, &set); err != nil {
		b.t.Fatal(err)
	}
	return set, members
}

// records are what a machine would report of a set that it has encrypted.
func (b *box) records(c api.Command, keys []byte) []api.VolumeRecord {
	b.t.Helper()
	var out []api.VolumeRecord
	for i, m := range c.Device.Set.Members {
		v := b.record(api.AssignedDevice{ID: m.ID, KeyBits: c.Device.KeyBits}, keys[64*i:64*(i+1)])
		v.RAID = &api.RAIDMember{Set: c.Device.Set.ID, Index: i, Count: len(c.Device.Set.Members), Chunk: c.Device.Set.Chunk}
		out = append(out, *v)
	}
	return out
}

// encryptedSet joins disks to a set and encrypts it.
func (b *box) encryptedSet(name string, disks ...string) (api.Device, []api.AssignedDevice, []byte) {
	b.t.Helper()
	ctx := b.t.Context()
	set, members := b.striped(name, disks...)
	if _, err := b.admin.EncryptDevice(ctx, set.ID, api.EncryptWrite{Confirm: name}); err != nil {
		b.t.Fatal(err)
	}
	c := b.command(api.CommandEncrypt)
	keys := b.take(c)
	if err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Members: b.records(c, keys)}); err != nil {
		b.t.Fatalf("done: %v", err)
	}
	return b.deviceIs(set.ID, api.DeviceEncrypted), members, keys
}

// setIs fails unless the set and all of its members are in a status.
func (o *org) setIs(set api.Device, want api.DeviceStatus) api.Device {
	o.t.Helper()
	for _, id := range set.MemberIDs {
		o.deviceIs(id, want)
	}
	return o.deviceIs(set.ID, want)
}

func TestRAIDSet_encryptedAsOne(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		b := r.org("acme").machine("db1")
		set, members := b.striped("stripe", "a", "b")
		b.setIs(set, api.DeviceConfigured)
		_, err := b.admin.EncryptDevice(ctx, set.ID, api.EncryptWrite{Confirm: "a"})
		wantProblem(t, err, 422, "invalid")
		_, err = b.admin.EncryptDevice(ctx, members[1].ID, api.EncryptWrite{Confirm: "b"})
		wantProblem(t, err, 409, "conflict")
		must[api.Device](t)(b.admin.EncryptDevice(ctx, set.ID, api.EncryptWrite{Confirm: "stripe"}))
		b.setIs(set, api.DeviceEncryptionPending)
		if err := b.admin.Do(ctx, "POST", "/api/v1/devices/"+set.ID+"/cancel-encryption", nil, nil); err != nil {
			t.Fatal(err)
		}
		b.setIs(set, api.DeviceConfigured)
		must[api.Device](t)(b.admin.EncryptDevice(ctx, set.ID, api.EncryptWrite{Confirm: "stripe"}))
		c := b.command(api.CommandEncrypt)
		if got := c.Device.Set; got == nil || got.ID != set.ID || got.Name != "stripe" || len(got.Members) != 2 || got.Members[0].ID != members[0].ID || got.Members[1].Identity != members[1].Identity {
			t.Fatalf("the job is for %+v", c.Device)
		}
		keys := b.take(c)
		if len(keys) != 128 || slices.Equal(keys[:64], keys[64:]) {
			t.Fatalf("two members have two keys; delivered are %d bytes", len(keys))
		}
		b.setIs(set, api.DeviceEncrypting)
		for name, change := range map[string]func(v []api.VolumeRecord) []api.VolumeRecord{
			"one record for two members": func(v []api.VolumeRecord) []api.VolumeRecord { return v[:1] },
			"records exchanged":          func(v []api.VolumeRecord) []api.VolumeRecord { v[0], v[1] = v[1], v[0]; return v },
			"no place in a set":          func(v []api.VolumeRecord) []api.VolumeRecord { v[1].RAID = nil; return v },
			"another place":              func(v []api.VolumeRecord) []api.VolumeRecord { v[1].RAID.Index = 0; return v },
			"another chunk":              func(v []api.VolumeRecord) []api.VolumeRecord { v[0].RAID.Chunk = 4096; return v },
			"another set":                func(v []api.VolumeRecord) []api.VolumeRecord { v[0].RAID.Set = members[0].ID; return v },
			"less than a chunk":          func(v []api.VolumeRecord) []api.VolumeRecord { v[0].DataSize = 4096; return v },
		} {
			err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Members: change(b.records(c, keys))})
			if !client.Is(err, "invalid") {
				t.Errorf("%s: %v", name, err)
			}
		}
		wrong := slices.Concat(keys[64:], keys[:64])
		if err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Members: b.records(c, wrong)}); !client.Is(err, "invalid") || !strings.Contains(err.Error(), "digest") {
			t.Errorf("each other's keys: %v", err)
		}
		if err := b.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "failed", Failed: "the disk is gone"}); err != nil {
			t.Fatal(err)
		}
		got := b.setIs(set, api.DeviceEncryptionError)
		if !strings.Contains(got.StatusDetail, "the disk is gone") {
			t.Errorf("the set says %q", got.StatusDetail)
		}
		// Saved again, it is tried again.
		in := api.RAIDSetWrite{Name: "stripe", Platform: "linux", FileSystem: "ext4", MountPoint: "/mnt/stripe", KeyBits: 256, MemberIDs: got.MemberIDs, Version: got.Version}
		if err := b.admin.Do(ctx, "PUT", "/api/v1/raid-sets/"+set.ID, in, nil); err != nil {
			t.Fatal(err)
		}
		b.setIs(set, api.DeviceConfigured)
	})
}

// One request opens the set: judged once, delivered with the keys of all members, In-use and taken back together.
func TestRAIDSet_oneRequestOpensAll(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		b := r.org("acme").machine("db1")
		set, members, keys := b.encryptedSet("stripe", "a", "b", "c")
		in, _ := b.prepare(members[1].ID)
		_, err := b.Request(ctx, in)
		wantProblem(t, err, 409, "device-in-raid-set")
		if !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("the refusal does not name the first member: %v", err)
		}
		pol := b.policy(noPort80("web"), set)
		if got := must[[]api.Policy](t)(b.admin.Policies(ctx)); !slices.ContainsFunc(got, func(p api.Policy) bool { return p.ID == pol.ID && slices.Equal(p.DeviceIDs, []string{set.ID}) }) {
			t.Errorf("the policy has the set, and not its members beside it: %+v", got)
		}
		a := b.ask(members[0].ID)
		a.is(api.KeyApproved)
		if got := a.collect(); !slices.Equal(got, keys) {
			t.Errorf("delivered %d bytes, other than the %d of all members", len(got), len(keys))
		}
		a.report(api.EventMounted)
		b.setIs(set, api.DeviceInUse)
		detail := a.is(api.KeyDelivered)
		if detail.DeviceName != "stripe" || !slices.Equal(detail.Device.MemberIDs, set.MemberIDs) || detail.PolicyName != "web" {
			t.Errorf("the request shows %q under %q: %+v", detail.DeviceName, detail.PolicyName, detail.Device)
		}
		if rows := b.running(); len(rows.Rows) != 1 || rows.Rows[0].DeviceName != "stripe" {
			t.Errorf("Running Instances: %+v", rows.Rows)
		}
		err = b.admin.Do(ctx, "POST", "/api/v1/raid-sets/"+set.ID+"/unconfigure", api.UnconfigureWrite{Confirm: "stripe"}, nil)
		wantProblem(t, err, 409, "conflict")
		must[api.KeyRequestDetail](t)(b.admin.Revoke(ctx, a.ID, api.Decision{Reason: "away"}))
		a.report(api.EventRevoked)
		a.is(api.KeyRevoked)
		b.setIs(set, api.DeviceEncrypted)
		if err := b.admin.Do(ctx, "POST", "/api/v1/raid-sets/"+set.ID+"/unconfigure", api.UnconfigureWrite{Confirm: "stripe"}, nil); err != nil {
			t.Fatal(err)
		}
		b.setIs(set, api.DeviceNotConfigured)
		in, _ = b.prepare(members[0].ID)
		_, err = b.Request(ctx, in)
		wantProblem(t, err, 409, "device-not-encrypted")
		for _, id := range set.MemberIDs {
			if d := must[api.Device](t)(b.admin.Device(ctx, id)); d.Key != nil {
				t.Errorf("device %s still has a key", d.Name)
			}
		}
	})
}

// A set is opened whole or not at all: a member that the machine does not see is named, before and after approval.
func TestRAIDSet_missingMemberIsRefusedByName(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		b := r.org("acme").machine("db1")
		set, members, _ := b.encryptedSet("stripe", "a", "b")
		refused := func(err error, name string) {
			t.Helper()
			wantProblem(t, err, 409, "raid-set-incomplete")
			if err != nil && !strings.Contains(err.Error(), `device "`+name+`"`) {
				t.Errorf("the refusal does not name %s: %v", name, err)
			}
		}
		waiting := b.ask(members[0].ID)
		b.publish(disk("a"))
		b.deviceIs(set.ID, api.DeviceMissing)
		waiting.approve()
		_, err := b.Delivery(ctx, waiting.ID, api.DeliveryRequest{PublicKey: waiting.private.PublicKey()})
		refused(err, "b")
		in, _ := b.prepare(members[0].ID)
		_, err = b.Request(ctx, in)
		refused(err, "b")
		b.publish(disk("b")) // the other one
		in, _ = b.prepare(members[0].ID)
		_, err = b.Request(ctx, in)
		refused(err, "a")
		b.publish(disk("x")) // none: then the set is not this machine's
		in, _ = b.prepare(members[0].ID)
		_, err = b.Request(ctx, in)
		wantProblem(t, err, 403, "not-your-device")
		b.publish(disk("a"), disk("b"))
		b.setIs(set, api.DeviceEncrypted)
		b.ask(members[0].ID).mounted()
		b.setIs(set, api.DeviceInUse)
	})
}

// Dissolved while a member is gone, every device is single again, and none keeps a key.
func TestRAIDSet_dissolvedWithAMemberMissing(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		b := r.org("acme").machine("db1")
		set, members, _ := b.encryptedSet("stripe", "a", "b")
		b.publish(disk("a"))
		b.deviceIs(set.ID, api.DeviceMissing)
		if err := b.admin.Do(ctx, "DELETE", "/api/v1/raid-sets/"+set.ID, nil, nil); err != nil {
			t.Fatal(err)
		}
		b.publish(disk("a"), disk("b"))
		for _, m := range members {
			if d := b.deviceIs(m.ID, api.DeviceNotConfigured); d.Key != nil || d.RAIDSetID != "" || d.MountPoint != "" {
				t.Errorf("a released member: %+v", d)
			}
		}
	})
}

// A member has its set's configuration: by itself it is renamed and nothing else, and another device cannot take its place.
func TestRAIDSet_membersFollowTheirSet(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		b := r.org("acme").machine("db1")
		_, members := b.striped("stripe", "a", "b")
		d := b.deviceIs(members[0].ID, api.DeviceConfigured)
		if d.MountPoint != "/mnt/stripe" || d.FileSystem != "xfs" || d.RAIDSetID == "" {
			t.Errorf("a member's configuration: %+v", d)
		}
		d = must[api.Device](t)(b.admin.ConfigureDevice(ctx, d.ID, api.DeviceWrite{Name: "left", Version: d.Version}))
		_, err := b.admin.ConfigureDevice(ctx, d.ID, api.DeviceWrite{Name: "left", MountPoint: "/mnt/other", Version: d.Version})
		wantProblem(t, err, 422, "invalid")
		err = b.admin.Do(ctx, "POST", "/api/v1/devices/"+d.ID+"/unconfigure", api.UnconfigureWrite{Confirm: "left"}, nil)
		wantProblem(t, err, 409, "conflict")
		ids := b.publish(disk("a"), disk("b"), disk("c"), disk("d"))
		in := api.RAIDSetWrite{Name: "second", Platform: "linux", FileSystem: "xfs", MountPoint: "/mnt/stripe", KeyBits: 256, MemberIDs: []string{ids["c"].ID, ids["d"].ID}}
		if err := b.admin.Do(ctx, "POST", "/api/v1/raid-sets", in, nil); !client.Is(err, "invalid") || !strings.Contains(err.Error(), "mount_point") {
			t.Errorf("a second set at the first one's mount point: %v", err)
		}
		list := must[client.Devices](t)(b.admin.Devices(ctx, url.Values{"search": {"/mnt/stripe"}}))
		if list.Total != 3 {
			t.Errorf("%d found at the mount point, want the set and its members", list.Total)
		}
	})
}
