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

// verify checks a finished job's volume records, one for each member, against what was asked for and computes the digest
// of each key itself, so that a record for another key, or for a weaker cipher, is never stored.
func (s *Service) verify(ctx context.Context, p tenant.Principal, id string, done []api.VolumeRecord) error {
	if len(done) == 0 {
		return problem.Invalid("volume", "is missing; a finished job brings its volume record")
	}
	var u inventory.Unit
	var keys []keystore.DeviceKey
	var account keystore.AccountKey
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		j, err := own(t, p, id)
		if err != nil {
			return err
		}
		if u, err = unitOf(t, j); err != nil {
			return err
		}
		if keys, err = u.Keys(t); err != nil {
			return err
		}
		account, err = inventory.AccountKey(t)
		return err
	})
	if err != nil {
		return err
	}
	if len(done) != len(u.Members) {
		return s.refuseVolume(ctx, p, id, "members", fmt.Sprintf("are %d, wanted are %d", len(done), len(u.Members)))
	}
	for i, v := range done {
		if err := s.verifyMember(ctx, p, id, u.Members[i], u.Place(i), account, keys[i], v); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) verifyMember(ctx context.Context, p tenant.Principal, id string, d store.Device, place *api.RAIDMember, account keystore.AccountKey,
	wrapped keystore.DeviceKey, v api.VolumeRecord) error {
	field, why := inventory.CheckVolume(s.AgentURL, d, place, wrapped.Cipher, wrapped.Bits, v)
	if field == "" && v.KeyBits != d.KeyBits {
		field, why = "key_bits", fmt.Sprintf("are %d, asked for were %d", v.KeyBits, d.KeyBits)
	}
	if field != "" {
		return s.refuseVolume(ctx, p, id, field, why)
	}
	key, err := keystore.OpenDeviceKey(s.Root, account, wrapped)
	if err != nil {
		return err
	}
	defer key.Wipe()
	fits, err := inventory.FitsDigest(key, v)
	if err != nil {
		return fmt.Errorf("computing the digest of the key of device %q: %w", d.Name, err)
	}
	if !fits {
		return s.refuseVolume(ctx, p, id, "digest", "is not that of the key that was delivered")
	}
	return nil
}
