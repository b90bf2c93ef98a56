// Package luks2 writes, reads and verifies the header of a volume: LUKS2 (LUKS2 On-Disk Format Specification 1.1.3) as
// stock cryptsetup opens it, without passphrase slots, and with a token of our own that ties it to one broker, account
// and device. docs/volume-format.md has the bytes.
//
// A LUKS2 header is not authenticated, so nothing on the disk is believed: the broker's Record is authoritative, and a
// header that differs from it, or whose HMAC does not match the volume key, is refused by the name of the field.
package luks2

import (
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// The layout of format version 1, in bytes.
const (
	// HeaderSize is one copy: 4096 bytes binary, 12288 bytes JSON. The second copy follows the first.
	HeaderSize = 16 << 10
	// DataOffset is where Format puts the payload. Between the headers and it lies room for passphrase slots, so that
	// an owner can add one with cryptsetup.
	DataOffset = 16 << 20
	// MaxDataSize is 2^44 AES blocks, the most that IEEE 1619-2025 lets one XTS key cover (2^36, 1 TiB, is advised).
	MaxDataSize = 256 << 40
	// CipherXTS is the cipher of new volumes. The volume key is two AES keys.
	CipherXTS = "aes-xts-plain64"
	// CipherESSIV is the mode of the product that Keyward succeeds, for volumes that must keep it. The volume key is one
	// AES key.
	CipherESSIV = "aes-cbc-essiv:sha256"

	binarySize     = 4096
	jsonSize       = HeaderSize - binarySize
	keyslotsOffset = 2 * HeaderSize
	keyslotsSize   = DataOffset - keyslotsOffset
	digestLen      = 32
	// The volume key is uniformly random, so iterations add nothing to it: the least that LUKS allows.
	digestIterations    = 1000
	maxDigestIterations = 10_000_000
)

var (
	// ErrNotLUKS2 means that neither place of a header holds anything like one.
	ErrNotLUKS2 = errors.New("no LUKS2 header")
	// ErrForeign means a LUKS2 header that is not one of ours.
	ErrForeign = errors.New("a LUKS2 volume, but not made by Keyward")
	// ErrDamaged means that no copy of the header has a valid checksum.
	ErrDamaged = errors.New("the header is damaged")
	// ErrHoldsData means that Format would destroy something and was not told to.
	ErrHoldsData = errors.New("the device is not empty")
	// ErrWrongKey means that a key is not the key of the volume.
	ErrWrongKey = errors.New("the key does not belong to this volume")
)

// FieldError says which field of a header, record or parameter is not acceptable, and why.
type FieldError struct {
	// Field is the path as cryptsetup and the record name it, as in "segments.0.encryption".
	Field   string
	Problem string
}

// Error implements error.
func (e *FieldError) Error() string { return fmt.Sprintf("field %s: %s", e.Field, e.Problem) }

func badField(field, format string, args ...any) error {
	return &FieldError{field, fmt.Sprintf(format, args...)}
}

// MismatchError says in which field the header on the disk differs from the broker's record.
type MismatchError struct {
	// Field is the JSON name of the field in Record.
	Field string
	// OnDisk and Expected are the two values. They are never secret.
	OnDisk, Expected string
}

// Error implements error.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("header differs from the broker's record in %s: %s on the disk, %s in the record; "+
		"the disk was swapped, rolled back or tampered with, and is not opened", e.Field, e.OnDisk, e.Expected)
}

// Record is what the broker keeps about a volume; it decides how the volume is opened. It holds no secret: the digest
// is a PBKDF2 of a key with at least 128 random bits.
type Record struct {
	// UUID of the header.
	UUID string `json:"uuid"`
	// Cipher is CipherXTS or CipherESSIV.
	Cipher string `json:"cipher"`
	// KeyBits is the AES key size, 128, 192 or 256. KeyLen says how many such keys the volume key is.
	KeyBits int `json:"key_bits"`
	// SectorSize is the encryption unit in bytes, 512 or 4096.
	SectorSize int `json:"sector_size"`
	// DataOffset is where the payload starts, in bytes.
	DataOffset int64 `json:"data_offset"`
	// DataSize is the length of the payload in bytes, whole sectors. It does not change with the device.
	DataSize int64 `json:"data_size"`
	// DigestSalt, Digest and DigestIterations check the volume key: PBKDF2-HMAC-SHA256, 32 bytes each.
	DigestSalt       []byte `json:"digest_salt"`
	Digest           []byte `json:"digest"`
	DigestIterations int    `json:"digest_iterations"`
	// Epoch counts the headers of one device; an older one is refused.
	Epoch uint64 `json:"epoch"`
	// HeaderHash is SHA-256 over the canonical content (Header.Hash).
	HeaderHash []byte `json:"header_hash"`
	// Broker, Account and Device are whom the volume belongs to.
	Broker  string `json:"broker"`
	Account string `json:"account"`
	Device  string `json:"device"`
	// RAID is the volume's place in a stripe, nil for a volume that stands alone.
	RAID *RAIDMember `json:"raid,omitempty"`
}

// KeyLen is the length of the volume key in bytes.
func (r Record) KeyLen() int { return keyLen(r.Cipher, r.KeyBits) }

// keyLen is the length of a volume key in bytes: XTS takes two AES keys.
func keyLen(cipher string, bits int) int {
	if cipher == CipherESSIV {
		return bits / 8
	}
	return bits / 4
}

// keyBits is the AES key size of a volume key of n bytes, 0 for a length that none has.
func keyBits(cipher string, n int) int {
	for _, bits := range []int{128, 192, 256} {
		if keyLen(cipher, bits) == n {
			return bits
		}
	}
	return 0
}

// Validate returns nil if a volume may be opened by the record, and else a FieldError. Every header that was parsed
// went through the same checks.
func (r Record) Validate() error {
	if _, err := uuid.Parse(r.UUID); err != nil || len(r.UUID) != 36 {
		return badField("uuid", "%.64q is no UUID", r.UUID)
	}
	if r.Cipher != CipherXTS && r.Cipher != CipherESSIV {
		return badField("cipher", "%.64q; only %s and %s are accepted", r.Cipher, CipherXTS, CipherESSIV)
	}
	switch r.KeyBits {
	case 128, 192, 256:
	default:
		return badField("key_bits", "%d; must be 128, 192 or 256", r.KeyBits)
	}
	if r.SectorSize != 512 && r.SectorSize != 4096 {
		return badField("sector_size", "%d; must be 512 or 4096", r.SectorSize)
	}
	if r.DataOffset < keyslotsOffset || r.DataOffset > 1<<40 || r.DataOffset%4096 != 0 {
		return badField("data_offset", "%d; must be a multiple of 4096 behind the headers", r.DataOffset)
	}
	if r.DataSize <= 0 || r.DataSize > MaxDataSize || r.DataSize%int64(r.SectorSize) != 0 {
		return badField("data_size", "%d; must be whole sectors, at most %d bytes", r.DataSize, int64(MaxDataSize))
	}
	if len(r.DigestSalt) != digestLen {
		return badField("digest_salt", "%d bytes; must be %d", len(r.DigestSalt), digestLen)
	}
	if len(r.Digest) != digestLen {
		return badField("digest", "%d bytes; must be %d", len(r.Digest), digestLen)
	}
	if r.DigestIterations < digestIterations || r.DigestIterations > maxDigestIterations {
		return badField("digest_iterations", "%d; must be %d to %d", r.DigestIterations, digestIterations, maxDigestIterations)
	}
	if r.Epoch == 0 || r.Epoch > 1<<62 {
		return badField("epoch", "%d; counts from 1", r.Epoch)
	}
	if len(r.HeaderHash) != digestLen {
		return badField("header_hash", "%d bytes; must be %d", len(r.HeaderHash), digestLen)
	}
	for _, id := range []struct{ field, value string }{{"broker", r.Broker}, {"account", r.Account}, {"device", r.Device}} {
		if err := checkID(id.field, id.value); err != nil {
			return err
		}
	}
	return r.RAID.validate(r.DataSize)
}

// maxID is the longest identifier in bytes; three of them and the rest fit the JSON area many times.
const maxID = 255

// checkID accepts identifiers, host names and URLs: characters that are the same in every JSON encoding.
func checkID(field, value string) error {
	if value == "" || len(value) > maxID {
		return badField(field, "%d characters; must be 1 to %d", len(value), maxID)
	}
	for _, c := range []byte(value) {
		if c <= ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return badField(field, "holds the character %q; use letters, digits and . _ : / - @", c)
		}
	}
	return nil
}
