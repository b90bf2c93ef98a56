package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// What a RAID set is made with.
const (
	// setChunk is how many bytes lie on one member before the next one follows: what md takes, too.
	setChunk = 512 << 10
	// maxMembers is how many members a volume header can name.
	maxMembers = 64
)

// forbiddenInSets are the characters that the name of a RAID set may not have.
const forbiddenInSets = "!@#$(%^&*+)"

// RAIDSets lists the account's RAID sets by name.
func (s *Service) RAIDSets(ctx context.Context, p tenant.Principal) ([]api.Device, error) {
	all, _, err := s.Devices(ctx, p, DeviceQuery{})
	return slices.DeleteFunc(all, func(d api.Device) bool { return d.MemberIDs == nil }), err
}

// RAIDSet returns one RAID set.
func (s *Service) RAIDSet(ctx context.Context, p tenant.Principal, id string) (api.Device, error) {
	var out api.Device
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		out, err = readSet(tx.Tenant(p.AccountID), id)
		return err
	})
	return out, err
}

func readSet(t *store.Tenant, id string) (api.Device, error) {
	r, err := set(t, id)
	if err != nil {
		return api.Device{}, err
	}
	n, err := namesOf(t)
	if err != nil {
		return api.Device{}, err
	}
	m, err := members(t, id)
	return n.set(r, m), err
}

func set(t *store.Tenant, id string) (store.RAIDSet, error) {
	r, err := store.In[store.RAIDSet](t).Get(id)
	if errors.Is(err, store.ErrNotFound) {
		return r, problem.NotFound("device or RAID set")
	}
	return r, err
}

// CreateRAIDSet makes a RAID 0 set of devices that are in no set, not encrypted, and of one provider and image.
func (s *Service) CreateRAIDSet(ctx context.Context, p tenant.Principal, in api.RAIDSetWrite) (api.Device, error) {
	return s.writeSet(ctx, p, "", in)
}

// UpdateRAIDSet changes a RAID set, its members included.
func (s *Service) UpdateRAIDSet(ctx context.Context, p tenant.Principal, id string, in api.RAIDSetWrite) error {
	_, err := s.writeSet(ctx, p, id, in)
	return err
}

func (s *Service) writeSet(ctx context.Context, p tenant.Principal, id string, in api.RAIDSetWrite) (api.Device, error) {
	in.Name = strings.TrimSpace(in.Name)
	f := faults{}
	f.text("name", in.Name, 1, maxName)
	f.text("description", strings.ReplaceAll(in.Description, "\n", " "), 0, 1024)
	f.volume(in.Platform, in.FileSystem, in.MountPoint, in.KeyBits)
	if strings.ContainsAny(in.Name, forbiddenInSets) {
		f["name"] = "may not contain any of " + forbiddenInSets
	}
	if err := f.err(); err != nil {
		return api.Device{}, err
	}
	var out api.Device
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r := store.RAIDSet{}
		event := Created
		if id != "" {
			var err error
			if r, err = set(t, id); err != nil {
				return err
			}
			if in.Version != r.Version {
				return problem.Stale("RAID set")
			}
			event = Configured
			if r.Status == api.DeviceEncryptionError {
				event = RetrySaved
			}
		}
		if err := nameFree(t, r.ID, in.Name); err != nil {
			return err
		}
		chosen, err := chosenMembers(t, id, in)
		if err != nil {
			return err
		}
		if r.PolicyID == "" {
			home, err := policyset.Default(t)
			if err != nil {
				return err
			}
			r.PolicyID = home.ID
		}
		r.Name, r.Description, r.Platform, r.FileSystem = in.Name, in.Description, in.Platform, in.FileSystem
		r.MountPoint, r.KeyBits, r.ImageID = in.MountPoint, in.KeyBits, chosen[0].ImageID
		if _, err := MoveSet(t, p, &r, event, Ctx{Members: true, Complete: true}, ""); err != nil {
			return err
		}
		if err := releaseMembers(t, r.ID); err != nil {
			return err
		}
		if err := joinMembers(t, p, r, in.MemberIDs); err != nil {
			return err
		}
		s.publish(t, feed.TopicDevices)
		out, err = readSet(t, r.ID)
		return err
	})
	return out, err
}

// joinMembers gives devices their places in a set, and the set's configuration.
func joinMembers(t *store.Tenant, p tenant.Principal, r store.RAIDSet, ids []string) error {
	for i, id := range ids {
		d, err := device(t, id)
		if err != nil {
			return err
		}
		d.RAIDSetID, d.RAIDIndex, d.PolicyID, d.ImageID, d.ConfiguredBy = r.ID, i, r.PolicyID, r.ImageID, p.UserID
		d.Platform, d.FileSystem, d.MountPoint, d.Access, d.KeyBits = r.Platform, r.FileSystem, r.MountPoint, api.AccessReadWrite, r.KeyBits
		if _, err := Move(t, p, &d, Configured, Ctx{Complete: Complete(d)}, ""); err != nil {
			return err
		}
	}
	return nil
}

func nameFree(t *store.Tenant, id, name string) error {
	rows, err := store.In[store.RAIDSet](t).List()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(rows, func(r store.RAIDSet) bool { return r.ID != id && strings.EqualFold(r.Name, name) }) {
		return problem.New(409, "name-taken", "The name is taken", fmt.Sprintf("There is a RAID set named %q already.", name), "Choose another name.")
	}
	return nil
}

// chosenMembers reads the members that a person chose and checks that they fit together.
func chosenMembers(t *store.Tenant, setID string, in api.RAIDSetWrite) ([]store.Device, error) {
	if len(slices.Compact(slices.Sorted(slices.Values(in.MemberIDs)))) != len(in.MemberIDs) || len(in.MemberIDs) < 2 {
		return nil, problem.Invalid("member_ids", "choose at least two devices, each once")
	}
	var chosen []store.Device
	var sizes []int64
	for _, id := range in.MemberIDs {
		d, err := store.In[store.Device](t).Get(id)
		if errors.Is(err, store.ErrNotFound) {
			return nil, problem.Invalid("member_ids", fmt.Sprintf("there is no device %q", id))
		}
		if err != nil {
			return nil, err
		}
		switch {
		case d.RAIDSetID != "" && d.RAIDSetID != setID:
			return nil, problem.Invalid("member_ids", fmt.Sprintf("device %q is in another RAID set", d.Name))
		case d.Status != api.DeviceNotConfigured && d.Status != api.DeviceConfigured && (d.RAIDSetID == "" || d.Status != api.DeviceEncryptionError):
			return nil, problem.Invalid("member_ids", fmt.Sprintf("device %q is %q; unconfigure it first", d.Name, d.Status))
		case len(chosen) > 0 && (d.Provider != chosen[0].Provider || d.InstanceID != chosen[0].InstanceID || d.ImageID != chosen[0].ImageID):
			return nil, problem.Invalid("member_ids", fmt.Sprintf("device %q is of another provider, machine or image than %q", d.Name, chosen[0].Name))
		case in.ImageID != "" && d.ImageID != in.ImageID:
			return nil, problem.Invalid("image_id", fmt.Sprintf("device %q is of another image", d.Name))
		}
		chosen, sizes = append(chosen, d), append(sizes, d.Size)
	}
	if len(chosen) > maxMembers {
		return nil, problem.Invalid("member_ids", fmt.Sprintf("are more than %d", maxMembers))
	}
	if _, err := RAIDSize(sizes); err != nil {
		return nil, problem.Invalid("member_ids", err.Error())
	}
	others, err := store.In[store.Device](t).List(store.Eq("instance_id", chosen[0].InstanceID), store.Eq("mount_point", in.MountPoint), store.Only("id", "name", "raid_set_id"))
	for _, d := range others {
		if (setID == "" || d.RAIDSetID != setID) && !slices.Contains(in.MemberIDs, d.ID) {
			return nil, problem.Invalid("mount_point", fmt.Sprintf("is that of device %q on the same machine", d.Name))
		}
	}
	if err != nil {
		return nil, err
	}
	return chosen, nil
}

// UnconfigureRAIDSet destroys the keys of all members for ever.
func (s *Service) UnconfigureRAIDSet(ctx context.Context, p tenant.Principal, id string, in api.UnconfigureWrite) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r, err := set(t, id)
		if err != nil {
			return err
		}
		if err := CheckConfirm(in.Confirm, r.Name); err != nil {
			return err
		}
		c, err := setKeys(t, id)
		if err != nil {
			return err
		}
		if _, err := MoveSet(t, p, &r, Unconfigured, c, ""); err != nil {
			return err
		}
		s.publish(t, feed.TopicDevices)
		return nil
	})
}

// DeleteRAIDSet dissolves a set; its members are single devices again.
func (s *Service) DeleteRAIDSet(ctx context.Context, p tenant.Principal, id string) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r, err := set(t, id)
		if err != nil {
			return err
		}
		c, err := setKeys(t, id)
		if err != nil {
			return err
		}
		if _, err := MoveSet(t, p, &r, Deleted, c, ""); err != nil {
			return err
		}
		s.publish(t, feed.TopicDevices)
		return nil
	})
}

// setKeys says what becomes of the members' keys when a person gives the word.
func setKeys(t *store.Tenant, id string) (Ctx, error) {
	c := Ctx{KeyIn: true, NoKey: true, Destroy: true}
	all, err := members(t, id)
	if err != nil {
		return c, err
	}
	for _, m := range all {
		jobs, err := store.In[store.Job](t).Count(store.Eq("device_id", m.ID), store.OneOf("status", []string{"queued", "running"}))
		if err != nil {
			return c, err
		}
		c.KeyIn = c.KeyIn && jobs == 0 // the machine of a job that is under way may hold the keys
		in, err := noKeyOut(t, m.ID)
		if err != nil {
			return c, err
		}
		none, err := noKey(t, m.ID)
		if err != nil {
			return c, err
		}
		c.KeyIn, c.NoKey = c.KeyIn && in, c.NoKey && none
	}
	return c, nil
}

// unconfigureMembers destroys the keys and the configuration of all members, which stay in the set.
func unconfigureMembers(t *store.Tenant, p tenant.Principal, setID string) error {
	all, err := members(t, setID)
	if err != nil {
		return err
	}
	for i := range all {
		if _, err := Move(t, p, &all[i], SetUnconfigured, Ctx{KeyIn: true, Destroy: true}, ""); err != nil {
			return err
		}
	}
	return nil
}

// releaseMembers makes members single devices again.
func releaseMembers(t *store.Tenant, setID string) error {
	all, err := members(t, setID)
	if err != nil {
		return err
	}
	for _, m := range all {
		m.RAIDSetID, m.RAIDIndex = "", 0
		if err := store.In[store.Device](t).Update(&m); err != nil {
			return err
		}
	}
	return nil
}

// settleSets makes the status of every RAID set follow its members'.
func settleSets(t *store.Tenant, p tenant.Principal) error {
	sets, err := store.In[store.RAIDSet](t).List()
	if err != nil {
		return err
	}
	for _, r := range sets {
		all, err := members(t, r.ID)
		if err != nil {
			return err
		}
		lost := slices.IndexFunc(all, func(d store.Device) bool { return d.Status == api.DeviceUndetected })
		switch {
		case lost >= 0 && r.Status != api.DeviceMissing && r.Status != api.DeviceInUse:
			why := fmt.Sprintf("Device %q of RAID set %q is gone from its machine.", all[lost].Name, r.Name)
			var res Result
			if res, err = MoveSet(t, p, &r, MemberVanished, Ctx{}, why); err == nil {
				err = tell(t, res, all[lost], why)
			}
		case lost < 0 && r.Status == api.DeviceMissing:
			_, err = MoveSet(t, p, &r, MembersBack, Ctx{AllMembers: true}, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
