package inventory

import (
	"cmp"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"fmt"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// What a volume may look like.
const (
	minDataOffset = 1 << 20 // bytes; two LUKS2 headers do not fit into less
	maxIterations = 5_000_000
	minIterations = 1000 // cryptsetup's least (LUKS2 on-disk format 1.1, digest object)
	minSalt       = 16
	maxSalt       = 64
)

// CheckVolume names the first member of a volume record that a device with a key of that cipher and size cannot have. An
// empty cipher means XTS.
// place is the device's in its RAID set, nil for a device that stands alone.
func CheckVolume(agentURL string, d store.Device, place *api.RAIDMember, cipher string, bits int, v api.VolumeRecord) (field, why string) {
	id, err := uuid.Parse(v.UUID)
	cipher = cmp.Or(cipher, api.CipherXTS)
	switch {
	case err != nil || id.String() != v.UUID:
		return "uuid", "is not a UUID in lower case"
	case v.Cipher != cipher:
		return "cipher", "is not " + cipher
	case v.KeyBits != bits:
		return "key_bits", fmt.Sprintf("are %d, asked for were %d", v.KeyBits, bits)
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
	case v.Broker != agentURL:
		return "broker", fmt.Sprintf("is %q, this broker is %q", legible(v.Broker), agentURL)
	case v.Account != d.AccountID:
		return "account", "is another account"
	case v.Device != d.ID:
		return "device", "is another device"
	case v.RAID != nil && place == nil:
		return "raid", "is not known of a device that stands alone"
	case place != nil && (v.RAID == nil || *v.RAID != *place):
		return "raid", fmt.Sprintf("is not place %d of %d in RAID set %s with chunks of %d bytes", place.Index, place.Count, place.Set, place.Chunk)
	case place != nil && v.DataSize < place.Chunk:
		return "data_size", "is less than one chunk of the RAID set"
	}
	return "", ""
}

// FitsDigest computes the LUKS2 digest of type pbkdf2 over a volume key (LUKS2 on-disk format 1.1, section 3.5), so that a
// record for another key is never stored. It takes as long as the record's iterations say.
func FitsDigest(key keystore.Key, v api.VolumeRecord) (bool, error) {
	digest, err := pbkdf2.Key(sha256.New, string(key.Bytes()), v.DigestSalt, v.DigestIterations, sha256.Size)
	return err == nil && hmac.Equal(digest, v.Digest), err
}

// legible makes a machine's word fit to be shown.
func legible(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, text)
	if r := []rune(text); len(r) > 128 {
		return string(r[:128])
	}
	return text
}
