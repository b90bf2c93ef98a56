package inventory

import (
	"errors"

	"keyward/broker/api"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// What people read about every device key; there is one cipher and one place for keys in this release.
const (
	keyCipher     = "AES"
	keyMode       = "XTS"
	keyHash       = "SHA-256"
	keyManagement = "Keyward Encryption Module"
	keyStoredOn   = "Keyward Broker"
)

// names resolves IDs to names for lists, reading each table once.
type names struct {
	policies, instances map[string]string
	// storedOn says where the keys are, down to what keeps the root key.
	storedOn string
}

// noNames knows where the account's keys are, and no names yet.
func noNames(t *store.Tenant) (names, error) {
	n := names{policies: map[string]string{}, instances: map[string]string{}, storedOn: keyStoredOn}
	account, err := store.Global[store.Account](t.Tx()).First(store.Eq("id", t.AccountID()), store.Only("id", "root_key_id"))
	if err != nil {
		return n, err
	}
	root, err := store.Global[store.RootKey](t.Tx()).Get(account.RootKeyID)
	if err == nil {
		n.storedOn += ", " + keystore.Provider(root.Provider).Text()
	} else if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return n, err
}

func namesOf(t *store.Tenant) (names, error) {
	n, err := noNames(t)
	if err != nil {
		return n, err
	}
	policies, err := store.In[store.Policy](t).List(store.Only("id", "name"))
	if err != nil {
		return n, err
	}
	for _, p := range policies {
		n.policies[p.ID] = p.Name
	}
	instances, err := store.In[store.Instance](t).List(store.Only("id", "host_name"))
	if err != nil {
		return n, err
	}
	for _, i := range instances {
		n.instances[i.ID] = i.HostName
	}
	return n, nil
}

func (n names) device(d store.Device, key *store.DeviceKey) api.Device {
	out := api.Device{
		ID: d.ID, Identity: d.Identity, Provider: d.Provider, Name: d.Name, Description: d.Description, Information: d.Information,
		Contents: d.Contents, Size: d.Size, Status: d.Status, StatusDetail: d.StatusDetail, Platform: d.Platform,
		FileSystem: d.FileSystem, MountPoint: d.MountPoint, Access: d.Access, KeyBits: d.KeyBits, ImageID: d.ImageID,
		PolicyID: d.PolicyID, PolicyName: n.policies[d.PolicyID], InstanceID: d.InstanceID, InstanceName: n.instances[d.InstanceID],
		RAIDSetID: d.RAIDSetID, Version: d.Version, UpdatedAt: d.UpdatedAt,
	}
	if key != nil {
		out.Key = &api.KeyInfo{Cipher: keyCipher, Bits: key.Bits, Mode: keyMode, Hash: keyHash, Management: keyManagement,
			StoredOn: n.storedOn, CreatedAt: key.CreatedAt}
		if d.Volume != nil {
			out.Key.VolumeUUID = d.Volume.UUID
		}
	}
	return out
}

// set is a RAID set as people see it: its size is the smallest member times their number.
func (n names) set(r store.RAIDSet, members []store.Device) api.Device {
	out := api.Device{
		ID: r.ID, Name: r.Name, Description: r.Description, Information: "RAID 0 Striping", Status: r.Status,
		Platform: r.Platform, FileSystem: r.FileSystem, MountPoint: r.MountPoint, Access: api.AccessReadWrite, KeyBits: r.KeyBits,
		ImageID: r.ImageID, PolicyID: r.PolicyID, PolicyName: n.policies[r.PolicyID], MemberIDs: []string{}, Version: r.Version, UpdatedAt: r.UpdatedAt,
	}
	if len(members) > 0 {
		out.StatusDetail, out.Contents = members[0].StatusDetail, contentsOf(members)
	}
	for i, m := range members {
		out.MemberIDs = append(out.MemberIDs, m.ID)
		out.Provider, out.InstanceID, out.InstanceName = m.Provider, m.InstanceID, n.instances[m.InstanceID]
		if size := m.Size * int64(len(members)); i == 0 || size < out.Size {
			out.Size = size
		}
	}
	return out
}

// CurrentKey is the newest key of a device that data is written with, or store.ErrNotFound.
func CurrentKey(t *store.Tenant, deviceID string) (store.DeviceKey, error) {
	return store.In[store.DeviceKey](t).First(currentKey(deviceID)...)
}

// CurrentKeyOf foresees what CurrentKey reads.
func CurrentKeyOf(deviceID string) store.Read {
	return store.Row[store.DeviceKey](currentKey(deviceID)...)
}

func currentKey(deviceID string) []store.Filter {
	return []store.Filter{store.Eq("device_id", deviceID), store.Eq("pending", false), store.Desc("generation")}
}

// PendingKey is the key that waits for a device's data to be written anew, or store.ErrNotFound.
func PendingKey(t *store.Tenant, deviceID string) (store.DeviceKey, error) {
	return store.In[store.DeviceKey](t).First(store.Eq("device_id", deviceID), store.Eq("pending", true))
}

// View is a device as people see it.
func View(t *store.Tenant, d store.Device) (api.Device, error) {
	n, err := namesFor(t, []store.Device{d}, nil)
	if err != nil {
		return api.Device{}, err
	}
	waiting, err := rotationsOf(t, []store.Device{d})
	if err != nil {
		return api.Device{}, err
	}
	key, err := CurrentKey(t, d.ID)
	if errors.Is(err, store.ErrNotFound) {
		return n.device(d, nil), nil
	}
	out := n.device(d, &key)
	out.Rotation = waiting[d.ID]
	return out, err
}

func members(t *store.Tenant, setID string) ([]store.Device, error) {
	return store.In[store.Device](t).List(store.Eq("raid_set_id", setID), store.Asc("raid_index"), store.Asc("id"))
}
