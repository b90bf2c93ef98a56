package job

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"fmt"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// What a volume may look like. The cipher is the one of IEEE 1619 under the name that dm-crypt gives it.
const (
	cipherXTS     = "aes-xts-plain64"
	minDataOffset = 1 << 20 // bytes; two LUKS2 headers do not fit into less
	maxIterations = 5_000_000
	minIterations = 1000 // cryptsetup's least (LUKS2 on-disk format 1.1, digest object)
	minSalt       = 16
	maxSalt       = 64
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
	if field, why := s.wrong(p.AccountID, d, wrapped, *v); field != "" {
		return s.refuseVolume(ctx, p, id, field, why)
	}
	key, err := keystore.OpenDeviceKey(s.Root, account, inventory.WrappedKey(wrapped))
	if err != nil {
		return err
	}
	defer key.Wipe()
	// LUKS2 digest of type pbkdf2 over the volume key (LUKS2 on-disk format 1.1, section 3.5).
	digest, err := pbkdf2.Key(sha256.New, string(key.Bytes()), v.DigestSalt, v.DigestIterations, sha256.Size)
	if err != nil {
		return fmt.Errorf("computing the digest of the key of device %q: %w", d.Name, err)
	}
	if !hmac.Equal(digest, v.Digest) {
		return s.refuseVolume(ctx, p, id, "digest", "is not that of the key that was delivered")
	}
	return nil
}

// wrong names the first member of a volume record that is not what was asked for.
func (s *Service) wrong(accountID string, d store.Device, key store.DeviceKey, v api.VolumeRecord) (field, why string) {
	id, err := uuid.Parse(v.UUID)
	switch {
	case err != nil || id.String() != v.UUID:
		return "uuid", "is not a UUID in lower case"
	case v.Cipher != cipherXTS:
		return "cipher", "is not " + cipherXTS
	case v.KeyBits != d.KeyBits || v.KeyBits != key.Bits:
		return "key_bits", fmt.Sprintf("are %d, asked for were %d", v.KeyBits, d.KeyBits)
	case v.SectorSize != 512 && v.SectorSize != 4096:
		return "sector_size", "is neither 512 nor 4096"
	case v.DataOffset < minDataOffset || v.DataOffset%int64(v.SectorSize) != 0 || v.DataOffset >= d.Size:
		return "data_offset", "does not lie on the device behind the headers, at a sector"
	case v.DataSize <= 0 || v.DataSize%int64(v.SectorSize) != 0 || v.DataSize > d.Size-v.DataOffset:
		return "data_size", "does not fit on the device"
	case len(v.DigestSalt) < minSalt || len(v.DigestSalt) > maxSalt:
		return "digest_salt", fmt.Sprintf("has %d bytes, wanted are %d to %d", len(v.DigestSalt), minSalt, maxSalt)
	case v.DigestIterations < minIterations || v.DigestIterations > maxIterations:
		return "digest_iterations", fmt.Sprintf("are %d, wanted are %d to %d", v.DigestIterations, minIterations, maxIterations)
	case len(v.Digest) != sha256.Size:
		return "digest", "is not a SHA-256 digest"
	case len(v.HeaderHash) != sha256.Size:
		return "header_hash", "is not a SHA-256 hash"
	case v.Broker != s.AgentURL:
		return "broker", fmt.Sprintf("is %q, this broker is %q", clip(v.Broker), s.AgentURL)
	case v.Account != accountID:
		return "account", "is another account"
	case v.Device != d.ID:
		return "device", "is another device"
	}
	return "", ""
}

func clip(text string) string {
	if r := []rune(oneLine(text)); len(r) > 128 {
		return string(r[:128])
	}
	return oneLine(text)
}
