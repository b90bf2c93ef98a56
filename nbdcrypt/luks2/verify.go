package luks2

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strconv"

	"keyward/nbdcrypt/keymem"
)

// Verify compares the header with the broker's record and returns a MismatchError for the first field that differs, or
// the FieldError of a record that is not acceptable itself. It needs no key.
func (h *Header) Verify(rec Record) error {
	if err := rec.Validate(); err != nil {
		return fmt.Errorf("verify volume header: the broker's record is not acceptable: %w", err)
	}
	disk := h.Record()
	if err := verifyPlace(disk, rec); err != nil {
		return fmt.Errorf("verify volume header: %w", err)
	}
	diskSet, diskIndex, diskCount, diskChunk := disk.RAID.describe()
	set, index, count, chunk := rec.RAID.describe()
	number := func(v int64) string { return strconv.FormatInt(v, 10) }
	epoch := func(v uint64) string { return strconv.FormatUint(v, 10) }
	for _, f := range []struct{ field, disk, record string }{
		{"uuid", disk.UUID, rec.UUID},
		{"broker", disk.Broker, rec.Broker},
		{"account", disk.Account, rec.Account},
		{"device", disk.Device, rec.Device},
		{"raid_set", diskSet, set},
		{"raid_index", diskIndex, index},
		{"raid_count", diskCount, count},
		{"raid_chunk", diskChunk, chunk},
		{"epoch", epoch(disk.Epoch), epoch(rec.Epoch)},
		{"cipher", disk.Cipher, rec.Cipher},
		{"key_bits", number(int64(disk.KeyBits)), number(int64(rec.KeyBits))},
		{"sector_size", number(int64(disk.SectorSize)), number(int64(rec.SectorSize))},
		{"data_offset", number(disk.DataOffset), number(rec.DataOffset)},
		{"data_size", number(disk.DataSize), number(rec.DataSize)},
		{"digest_iterations", number(int64(disk.DigestIterations)), number(int64(rec.DigestIterations))},
		{"digest_salt", hex.EncodeToString(disk.DigestSalt), hex.EncodeToString(rec.DigestSalt)},
		{"digest", hex.EncodeToString(disk.Digest), hex.EncodeToString(rec.Digest)},
		// Last: it covers all the others and the HMAC, and says least about what is wrong.
		{"header_hash", hex.EncodeToString(disk.HeaderHash), hex.EncodeToString(rec.HeaderHash)},
	} {
		if f.disk != f.record {
			return fmt.Errorf("verify volume header: %w", &MismatchError{f.field, f.disk, f.record})
		}
	}
	return nil
}

// VerifyKey checks, in constant time, that key is the volume key: its length and PBKDF2 digest by the record, and the
// HMAC of the header's content under it. The error wraps ErrWrongKey, or is a FieldError for a header whose content was
// changed by somebody without the key.
func (h *Header) VerifyKey(rec Record, key *keymem.Key) error {
	if err := rec.Validate(); err != nil {
		return fmt.Errorf("verify volume key: the broker's record is not acceptable: %w", err)
	}
	secret := key.Bytes()
	if len(secret) != rec.KeyLen() {
		return fmt.Errorf("verify volume key: %w: it has %d bytes, the volume %d", ErrWrongKey, len(secret), rec.KeyLen())
	}
	digest, err := keyDigest(secret, rec.DigestSalt, rec.DigestIterations)
	if err != nil {
		return fmt.Errorf("verify volume key: %w", err)
	}
	if subtle.ConstantTimeCompare(digest, rec.Digest) != 1 {
		return fmt.Errorf("verify volume key: %w (digest); ask the broker for the key of device %s", ErrWrongKey, rec.Device)
	}
	mac, err := tokenMAC(secret, h.content.UUID, h.content.canonical(false))
	if err != nil {
		return fmt.Errorf("verify volume key: %w", err)
	}
	if subtle.ConstantTimeCompare(mac, h.content.Token.HMAC) != 1 {
		return fmt.Errorf("verify volume header: %w", badField("tokens.keyward.hmac",
			"does not match: the header was changed by somebody without the volume key, and is not opened"))
	}
	return nil
}

// sameContent reports whether two headers would be opened in the same way.
func sameContent(a, b *Header) bool { return bytes.Equal(a.Hash(), b.Hash()) }
