package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// defaultBits is the key size of a device whose configuration names none.
const defaultBits = 256

// fileSystems are those of each platform.
var fileSystems = map[string][]string{
	"linux":   {"ext3", "ext4", "xfs", "btrfs"},
	"windows": {"ntfs", "fat32"},
}

// systemPaths may not be hidden under a mount.
var systemPaths = []string{"/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var"}

// Configure saves a device's name and configuration. With platform, file system and mount point complete the device is
// Configured; what its status does not allow to change is refused when it differs.
func (s *Service) Configure(ctx context.Context, p tenant.Principal, id string, in api.DeviceWrite) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		d, err := device(t, id)
		if err != nil {
			return err
		}
		if in.Version != d.Version {
			return problem.Stale("device")
		}
		if err := s.configure(t, p, &d, in); err != nil {
			return err
		}
		s.publish(t, feed.TopicDevices, feed.TopicKeyRequests, feed.Instance(d.InstanceID))
		return nil
	})
}

func (s *Service) configure(t *store.Tenant, p tenant.Principal, d *store.Device, in api.DeviceWrite) error {
	before := *d
	normalise(&in, before)
	f := faults{}
	f.text("name", in.Name, 1, maxName)
	f.text("description", strings.ReplaceAll(in.Description, "\n", " "), 0, 1024)
	allowed := Allowed(d.Status)
	status, member := d.Status, d.RAIDSetID != ""
	if member { // it has its set's configuration; a name is its own
		allowed, status = Actions{CanEditName: true}, "a member of a RAID set"
	}
	f.fixed("platform", in.Platform == d.Platform, allowed.CanEditKeyBits, status)
	f.fixed("file_system", in.FileSystem == d.FileSystem, allowed.CanEditKeyBits, status)
	f.fixed("key_bits", in.KeyBits == d.KeyBits, allowed.CanEditKeyBits, status)
	f.fixed("mount_point", in.MountPoint == d.MountPoint, allowed.CanEditMount, status)
	f.fixed("access", in.Access == d.Access, allowed.CanEditMount, status)
	f.fixed("image_id", in.ImageID == d.ImageID, allowed.CanEditKeyBits || allowed.CanRemapImage, status)
	d.Name, d.Description = in.Name, in.Description
	d.Platform, d.FileSystem, d.MountPoint, d.Access = in.Platform, in.FileSystem, in.MountPoint, in.Access
	d.KeyBits, d.ImageID = in.KeyBits, in.ImageID
	if !configured(*d) && before.Status == api.DeviceNotConfigured {
		// A new name for a device that is not to be encrypted yet.
		if err := f.err(); err != nil {
			return err
		}
		return s.saved(t, p, d)
	}
	if err := f.configuration(t, *d); err != nil {
		return err
	}
	if err := f.err(); err != nil {
		return err
	}
	same := before.Platform == d.Platform && before.FileSystem == d.FileSystem && before.MountPoint == d.MountPoint &&
		before.Access == d.Access && before.KeyBits == d.KeyBits && before.ImageID == d.ImageID
	if same && (member || d.Status != api.DeviceEncryptionError) {
		return s.saved(t, p, d)
	}
	d.ConfiguredBy = p.UserID
	event := Configured
	if d.Status == api.DeviceEncryptionError {
		event = RetrySaved
	}
	detail := ""
	if d.Status == api.DeviceEncrypted {
		detail = d.StatusDetail
	}
	_, err := Move(t, p, d, event, Ctx{Complete: true}, detail)
	return err
}

// saved stores a device of which only name and description changed.
func (s *Service) saved(t *store.Tenant, p tenant.Principal, d *store.Device) error {
	if err := stale(store.In[store.Device](t).Update(d), "device"); err != nil {
		return err
	}
	return audit.Append(t, audit.Entry{Category: "user", Event: "device.renamed", Actor: p.Actor(), Subject: d.ID,
		Detail: map[string]string{"name": d.Name}})
}

// normalise fills what a form may leave empty: empty means as it is, and where there is nothing yet, the default.
func normalise(in *api.DeviceWrite, d store.Device) {
	in.Name = strings.TrimSpace(in.Name)
	in.ImageID, in.Platform, in.FileSystem = cmp.Or(in.ImageID, d.ImageID), cmp.Or(in.Platform, d.Platform), cmp.Or(in.FileSystem, d.FileSystem)
	in.MountPoint, in.Access, in.KeyBits = cmp.Or(in.MountPoint, d.MountPoint), cmp.Or(in.Access, d.Access), cmp.Or(in.KeyBits, d.KeyBits)
	if in.Platform == "" && in.FileSystem == "" && in.MountPoint == "" {
		return
	}
	if in.KeyBits == 0 {
		in.KeyBits = defaultBits
	}
	if in.Access == "" {
		in.Access = api.AccessReadWrite
	}
}

// configured says that a person has begun to configure the device.
func configured(d store.Device) bool {
	return d.Platform != "" || d.FileSystem != "" || d.MountPoint != ""
}

// fixed refuses a change that the status does not allow.
func (f faults) fixed(field string, same, allowed bool, status api.DeviceStatus) {
	if !same && !allowed {
		f[field] = fmt.Sprintf("cannot be changed while the device is %q", status)
	}
}

// configuration checks what encryption needs to know.
func (f faults) configuration(t *store.Tenant, d store.Device) error {
	f.volume(d.Platform, d.FileSystem, d.MountPoint, d.KeyBits)
	if d.Access != api.AccessReadOnly && d.Access != api.AccessReadWrite {
		f["access"] = "choose read-only or read-write"
	}
	if d.ImageID == "" {
		f["image_id"] = "choose the image of the machine that uses the device"
	} else if _, err := store.In[store.Image](t).Get(d.ImageID); errors.Is(err, store.ErrNotFound) {
		f["image_id"] = "there is no such image"
	} else if err != nil {
		return err
	}
	if f["mount_point"] != "" || d.InstanceID == "" {
		return nil
	}
	others, err := store.In[store.Device](t).List(store.Eq("instance_id", d.InstanceID), store.Eq("mount_point", d.MountPoint), store.Ne("id", d.ID))
	if err != nil {
		return err
	}
	if d.RAIDSetID != "" {
		others = slices.DeleteFunc(others, func(o store.Device) bool { return o.RAIDSetID == d.RAIDSetID })
	}
	pool, err := store.In[store.Policy](t).Count(store.Eq("id", d.PolicyID), store.Eq("resource_pool", true))
	if pool > 0 { // of a pool a machine gets one device, so they may share a mount point
		others = slices.DeleteFunc(others, func(o store.Device) bool { return o.PolicyID == d.PolicyID })
	}
	if len(others) > 0 {
		f["mount_point"] = fmt.Sprintf("is that of device %q on the same machine", others[0].Name)
	}
	return err
}

func (f faults) volume(platform, fileSystem, mountPoint string, bits int) {
	systems, ok := fileSystems[platform]
	switch {
	case !ok:
		f["platform"] = "choose linux or windows"
	case !slices.Contains(systems, fileSystem):
		f["file_system"] = fmt.Sprintf("choose one of %s for %s", strings.Join(systems, ", "), platform)
	}
	f.text("mount_point", mountPoint, 1, maxLongText)
	if f["mount_point"] == "" && ok {
		if why := badMountPoint(platform, mountPoint); why != "" {
			f["mount_point"] = why
		}
	}
	if bits != 128 && bits != 192 && bits != 256 {
		f["key_bits"] = "choose 128, 192 or 256"
	}
}

func badMountPoint(platform, m string) string {
	if platform == "windows" {
		letter := strings.TrimSuffix(m, ":")
		if len(letter) != 1 || !strings.Contains("DEFGHIJKLMNOPQRSTUVWXYZ", strings.ToUpper(letter)) {
			return "choose a drive letter from D to Z"
		}
		return ""
	}
	if !strings.HasPrefix(m, "/") || path.Clean(m) != m {
		return "write an absolute path without a slash at its end, such as /mnt/secure"
	}
	if slices.Contains(systemPaths, m) || strings.HasPrefix(m, "/proc/") || strings.HasPrefix(m, "/sys/") || strings.HasPrefix(m, "/dev/") {
		return "is a path of the system; choose a directory of its own, such as /mnt/secure"
	}
	return ""
}

// Complete says that everything encryption needs is set.
func Complete(d store.Device) bool {
	return d.Platform != "" && d.FileSystem != "" && d.MountPoint != "" && d.Access != "" && d.KeyBits != 0 && d.ImageID != ""
}
