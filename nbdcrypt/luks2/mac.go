package luks2

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"

	"keyward/nbdcrypt/keymem"
)

// keyedHash is HMAC-SHA256 (RFC 2104) whose key never reaches the Go heap. crypto/hmac and crypto/pbkdf2 copy their key
// there, where nobody can wipe it; here the padded keys lie in protected memory and go through SHA-256 as whole 64-byte
// blocks, which it hashes where they lie without buffering them. Tests compare it with crypto/hmac, crypto/pbkdf2 and
// crypto/hkdf.
type keyedHash struct {
	pads *keymem.Key // inner, then outer, 64 bytes each
	hash hash.Hash
}

const blockLen = sha256.BlockSize

func newKeyedHash(key []byte) (*keyedHash, error) {
	if len(key) == 0 || len(key) > blockLen {
		return nil, errors.New("key for HMAC must be 1 to 64 bytes")
	}
	pads, err := keymem.New(2 * blockLen)
	if err != nil {
		return nil, err
	}
	inner, outer := pads.Bytes()[:blockLen], pads.Bytes()[blockLen:]
	copy(inner, key)
	copy(outer, key)
	for i := range blockLen {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	return &keyedHash{pads, sha256.New()}, nil
}

// sum is the HMAC of the concatenated parts.
func (k *keyedHash) sum(parts ...[]byte) (out [sha256.Size]byte) {
	k.hash.Reset()
	k.hash.Write(k.pads.Bytes()[:blockLen])
	for _, p := range parts {
		k.hash.Write(p)
	}
	inner := k.hash.Sum(out[:0])
	k.hash.Reset()
	k.hash.Write(k.pads.Bytes()[blockLen:])
	k.hash.Write(inner)
	k.hash.Sum(out[:0])
	return out
}

func (k *keyedHash) wipe() {
	k.pads.Wipe()
	k.hash.Reset()
}

// keyDigest is PBKDF2-HMAC-SHA256 (RFC 8018) of the volume key, one block of 32 bytes: the digest object of LUKS2.
func keyDigest(key, salt []byte, iterations int) ([]byte, error) {
	prf, err := newKeyedHash(key)
	if err != nil {
		return nil, err
	}
	defer prf.wipe()
	u := prf.sum(salt, binary.BigEndian.AppendUint32(nil, 1))
	out := u
	for range iterations - 1 {
		u = prf.sum(u[:])
		for i := range out {
			out[i] ^= u[i]
		}
	}
	return out[:], nil
}

// tokenInfo separates the token's key from every other use of the volume key.
const tokenInfo = "keyward luks2 token v1 "

// tokenMAC is HMAC-SHA256 over the canonical content. Its key is HKDF-Expand-SHA256 of the volume key with the header's
// UUID in the info; the volume key is uniformly random, so that extracting is skipped (RFC 5869, 3.3).
func tokenMAC(key []byte, uuid string, canonical []byte) ([]byte, error) {
	expand, err := newKeyedHash(key)
	if err != nil {
		return nil, err
	}
	defer expand.wipe()
	derived := expand.sum([]byte(tokenInfo+uuid), []byte{1})
	mac, err := newKeyedHash(derived[:])
	clear(derived[:])
	if err != nil {
		return nil, err
	}
	defer mac.wipe()
	sum := mac.sum(canonical)
	return sum[:], nil
}
