package inventory

import (
	"context"
	"errors"
	"fmt"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// AccountKey is the account's wrapped KEK.
func AccountKey(t *store.Tenant) (keystore.AccountKey, error) {
	a, err := store.Global[store.Account](t.Tx()).Steady(t.AccountID())
	if err != nil {
		return keystore.AccountKey{}, fmt.Errorf("reading the account's key: %w", err)
	}
	return KeyOfAccount(a), nil
}

// AccountKeyOf foresees what AccountKey reads of an account.
func AccountKeyOf(accountID string) store.Read {
	return store.Opening(store.Row[store.Account](store.Eq("id", accountID)))
}

// KeyOfAccount is an account's row in the form that the key store takes.
func KeyOfAccount(a store.Account) keystore.AccountKey {
	out := keystore.AccountKey{AccountID: a.ID, Generation: a.KeyGeneration, RootKeyID: a.RootKeyID, Wrapped: a.WrappedKey}
	for _, e := range a.EarlierKeys {
		out.Earlier = append(out.Earlier, keystore.AccountKey{AccountID: a.ID, Generation: e.Generation, RootKeyID: e.RootKeyID, Wrapped: e.Wrapped})
	}
	return out
}

// WrappedKey is a row in the form that the key store takes.
func WrappedKey(k store.DeviceKey) keystore.DeviceKey {
	return keystore.DeviceKey{AccountID: k.AccountID, DeviceID: k.DeviceID, Bits: k.Bits, Cipher: k.Cipher, Generation: k.Generation,
		AccountGeneration: k.AccountGeneration, Wrapped: k.Wrapped}
}

// NewKey makes and stores the next key of a device.
func NewKey(t *store.Tenant, root keystore.Root, d store.Device) (store.DeviceKey, error) {
	account, err := AccountKey(t)
	if err != nil {
		return store.DeviceKey{}, err
	}
	generation, err := nextGeneration(t, d.ID)
	if err != nil {
		return store.DeviceKey{}, err
	}
	k, err := keystore.NewDeviceKey(root, account, d.ID, d.KeyBits, generation)
	if err != nil {
		return store.DeviceKey{}, fmt.Errorf("making a key for device %q: %w", d.Name, err)
	}
	row := store.DeviceKey{DeviceID: d.ID, Bits: k.Bits, Cipher: api.CipherXTS, Generation: k.Generation, AccountGeneration: k.AccountGeneration, Wrapped: k.Wrapped}
	return row, store.In[store.DeviceKey](t).Insert(&row)
}

// StoreKey keeps a volume key that was not made here as the next key of a device. key stays the caller's.
func StoreKey(t *store.Tenant, root keystore.Root, d store.Device, cipher string, bits int, key keystore.Key) error {
	account, err := AccountKey(t)
	if err != nil {
		return err
	}
	generation, err := nextGeneration(t, d.ID)
	if err != nil {
		return err
	}
	k, err := keystore.WrapDeviceKey(root, account, keystore.DeviceKey{AccountID: t.AccountID(), DeviceID: d.ID, Bits: bits, Cipher: cipher, Generation: generation}, key)
	if err != nil {
		return fmt.Errorf("keeping the key of device %q: %w", d.Name, err)
	}
	return store.In[store.DeviceKey](t).Insert(&store.DeviceKey{DeviceID: d.ID, Bits: k.Bits, Cipher: k.Cipher, Generation: k.Generation,
		AccountGeneration: k.AccountGeneration, Wrapped: k.Wrapped})
}

// nextGeneration is the number of a device's next key.
func nextGeneration(t *store.Tenant, deviceID string) (int64, error) {
	last, err := store.In[store.DeviceKey](t).First(store.Eq("device_id", deviceID), store.Desc("generation"))
	if errors.Is(err, store.ErrNotFound) {
		return 1, nil
	}
	return last.Generation + 1, err
}

// CopyConfiguration gives a clone the configuration, the volume record and the key of the device that it was made from.
// The volume record keeps naming the source, because the clone's header on disk does.
func (s *Service) CopyConfiguration(ctx context.Context, p tenant.Principal, id, sourceID string) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		d, err := device(t, id)
		if err != nil {
			return err
		}
		source, err := device(t, sourceID)
		if err != nil {
			return err
		}
		key, err := CurrentKey(t, sourceID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		has := err == nil && source.Volume != nil && source.ID != d.ID
		if has && source.Size > d.Size {
			return problem.Invalid("source_id", fmt.Sprintf("device %q is larger than %q, so this is no clone of it", source.Name, d.Name))
		}
		if has {
			d.Platform, d.FileSystem, d.MountPoint, d.Access, d.KeyBits = source.Platform, source.FileSystem, source.MountPoint, source.Access, source.KeyBits
			// A person says that this machine's device is the clone.
			d.Volume, d.HomeInstanceID, d.ConfiguredBy = source.Volume, d.InstanceID, p.UserID
		}
		if _, err := Move(t, p, &d, ConfigurationCopied, Ctx{Single: d.RAIDSetID == "", SourceHasKey: has}, ""); err != nil {
			return err
		}
		if err := s.copyKey(t, key, d.ID); err != nil {
			return err
		}
		s.publish(t, feed.TopicDevices, feed.Instance(d.InstanceID))
		return nil
	})
}

// copyKey wraps the source's volume key for the clone's row.
func (s *Service) copyKey(t *store.Tenant, source store.DeviceKey, cloneID string) error {
	account, err := AccountKey(t)
	if err != nil {
		return err
	}
	key, err := keystore.OpenDeviceKey(s.Root, account, WrappedKey(source))
	if err != nil {
		return err
	}
	defer key.Wipe()
	k, err := keystore.WrapDeviceKey(s.Root, account, keystore.DeviceKey{AccountID: t.AccountID(), DeviceID: cloneID, Bits: source.Bits, Cipher: source.Cipher, Generation: 1}, key)
	if err != nil {
		return err
	}
	return store.In[store.DeviceKey](t).Insert(&store.DeviceKey{DeviceID: cloneID, Bits: k.Bits, Cipher: k.Cipher, Generation: k.Generation,
		AccountGeneration: k.AccountGeneration, Wrapped: k.Wrapped})
}
