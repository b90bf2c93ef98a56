package job

import (
	"context"
	"errors"
	"fmt"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// OfferImport answers a machine that has a volume which was not encrypted by the broker's word: whether its key may be
// handed over, and the key to seal it to. A person has allowed it by configuring the device.
func (s *Service) OfferImport(ctx context.Context, p tenant.Principal, deviceID string, in api.ImportOfferRequest) (api.ImportOffer, error) {
	var out api.ImportOffer
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		d, err := importable(t, p, deviceID)
		if err != nil {
			return err
		}
		account, err := inventory.AccountKey(t)
		if err != nil {
			return err
		}
		out = api.ImportOffer{Broker: s.AgentURL, AccountID: p.AccountID, Device: inventory.AssignedView(d)}
		out.PublicKey, err = keystore.ImportPublicKey(s.Root, account, importBinding(p, d.ID, in.Nonce))
		return err
	})
	return out, err
}

// Import takes a volume key over. From then on the device is like one that was encrypted by a job.
func (s *Service) Import(ctx context.Context, p tenant.Principal, call idempotency.Call, deviceID string, in api.ImportKey) (api.AssignedDevice, error) {
	key, err := s.openImport(ctx, p, deviceID, in)
	if err != nil {
		return api.AssignedDevice{}, err
	}
	defer key.Wipe()
	return idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (api.AssignedDevice, error) {
		d, err := importable(t, p, deviceID)
		if err != nil {
			return api.AssignedDevice{}, err
		}
		if err := s.Challenges.Spend(t, p, in.Nonce); err != nil {
			return api.AssignedDevice{}, err
		}
		if err := inventory.StoreKey(t, s.Root, d, in.Volume.Cipher, in.Volume.KeyBits, key); err != nil {
			return api.AssignedDevice{}, err
		}
		d.Volume, d.KeyBits, d.HomeInstanceID = &in.Volume, in.Volume.KeyBits, p.Instance
		if _, err := inventory.Move(t, p, &d, inventory.KeyImported, inventory.Ctx{Complete: inventory.Complete(d), NotRoot: true, Single: d.RAIDSetID == ""},
			fmt.Sprintf("Imported with what it holds (%s, %d bits).", in.Volume.Cipher, in.Volume.KeyBits)); err != nil {
			return api.AssignedDevice{}, err
		}
		s.announce(t, d)
		return inventory.AssignedView(d), nil
	})
}

// openImport opens the key and proves that it is the volume's, outside of a transaction: the digest takes its time.
func (s *Service) openImport(ctx context.Context, p tenant.Principal, deviceID string, in api.ImportKey) (keystore.Key, error) {
	var d store.Device
	var account keystore.AccountKey
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		var err error
		if d, err = importable(t, p, deviceID); err != nil {
			return err
		}
		account, err = inventory.AccountKey(t)
		return err
	})
	if err != nil {
		return keystore.Key{}, err
	}
	if _, err := client.VolumeKeyBytes(in.Volume.Cipher, in.Volume.KeyBits); err != nil || in.Volume.Cipher == "" {
		return keystore.Key{}, problem.Invalid("volume.cipher", fmt.Sprintf("with its key size is none of %s and %s with 128, 192 or 256 bits", api.CipherXTS, api.CipherESSIV))
	}
	if field, why := inventory.CheckVolume(s.AgentURL, d, nil, in.Volume.Cipher, in.Volume.KeyBits, in.Volume); field != "" {
		return keystore.Key{}, s.refuseVolume(ctx, p, d.ID, field, why)
	}
	key, err := keystore.OpenImport(s.Root, account, importBinding(p, d.ID, in.Nonce), in)
	if err != nil {
		s.Logger.Warn("an imported key was refused", "account", p.AccountID, "instance", p.Instance, "device", d.ID, "error", err)
		return keystore.Key{}, problem.Invalid("sealed_key", "does not open; ask for a new offer and seal the key to that")
	}
	fits, err := inventory.FitsDigest(key, in.Volume)
	if err == nil && !fits {
		err = s.refuseVolume(ctx, p, d.ID, "digest", "is not that of the key that was handed over")
	}
	if n, _ := client.VolumeKeyBytes(in.Volume.Cipher, in.Volume.KeyBits); err == nil && key.Len() != n {
		err = s.refuseVolume(ctx, p, d.ID, "key_bits", fmt.Sprintf("say %d bytes, the key has %d", n, key.Len()))
	}
	if err != nil {
		key.Wipe()
		return keystore.Key{}, err
	}
	return key, nil
}

func importBinding(p tenant.Principal, deviceID, nonce string) api.ImportBinding {
	return api.ImportBinding{AccountID: p.AccountID, DeviceID: deviceID, InstanceID: p.Instance, Nonce: nonce}
}

// importable is a device of this machine whose key may be handed over now.
func importable(t *store.Tenant, p tenant.Principal, deviceID string) (store.Device, error) {
	d, err := store.In[store.Device](t).Get(deviceID)
	if errors.Is(err, store.ErrNotFound) || err == nil && d.InstanceID != p.Instance {
		return store.Device{}, problem.NotFound("device")
	}
	if err != nil {
		return d, err
	}
	_, err = inventory.Apply(inventory.State{Status: d.Status, Former: d.FormerStatus}, inventory.KeyImported,
		inventory.Ctx{Complete: inventory.Complete(d), NotRoot: true, Single: d.RAIDSetID == ""})
	if err != nil {
		return d, problem.New(409, "not-importable", "The volume cannot be imported now", fmt.Sprintf("Device %q: %v.", d.Name, err),
			"In the console, configure the device (image, file system, mount point), then import again.")
	}
	return d, nil
}
