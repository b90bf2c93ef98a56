package job

import (
	"context"
	"fmt"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// verify checks a finished job's volume record against what was asked for and computes the digest of the device key
// itself, so that a record for another key, or for a weaker cipher, is never stored.
func (s *Service) verify(ctx context.Context, p tenant.Principal, id string, v *api.VolumeRecord) error {
	if v == nil {
		return problem.Invalid("volume", "is missing; a finished job brings its volume record")
	}
	var d store.Device
	var wrapped store.DeviceKey
	var account keystore.AccountKey
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		j, err := own(t, p, id)
		if err != nil {
			return err
		}
		if d, err = deviceOf(t, j.DeviceID); err != nil {
			return err
		}
		if wrapped, err = inventory.CurrentKey(t, d.ID); err != nil {
			return fmt.Errorf("reading the key of device %q: %w", d.Name, err)
		}
		account, err = inventory.AccountKey(t)
		return err
	})
	if err != nil {
		return err
	}
	field, why := inventory.CheckVolume(s.AgentURL, d, wrapped.Cipher, wrapped.Bits, *v)
	if field == "" && v.KeyBits != d.KeyBits {
		field, why = "key_bits", fmt.Sprintf("are %d, asked for were %d", v.KeyBits, d.KeyBits)
	}
	if field != "" {
		return s.refuseVolume(ctx, p, id, field, why)
	}
	key, err := keystore.OpenDeviceKey(s.Root, account, inventory.WrappedKey(wrapped))
	if err != nil {
		return err
	}
	defer key.Wipe()
	fits, err := inventory.FitsDigest(key, *v)
	if err != nil {
		return fmt.Errorf("computing the digest of the key of device %q: %w", d.Name, err)
	}
	if !fits {
		return s.refuseVolume(ctx, p, id, "digest", "is not that of the key that was delivered")
	}
	return nil
}
