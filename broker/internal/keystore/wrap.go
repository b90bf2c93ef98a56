package keystore

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
)

// A wrapped key is one version byte, the 12-byte nonce, the ciphertext and the 16-byte tag of AES-256-GCM.
const (
	wrapVersion  = 1
	kekBytes     = 32
	wrapOverhead = 1 + 12 + 16
	// maxSecret bounds what is wrapped: keys, and the broker's own private keys.
	maxSecret = 64 << 10
)

// ErrUnwrap says that a wrapped key does not open: another root or account key, another row, or changed bytes. Which of
// them cannot be told apart.
var ErrUnwrap = errors.New("the wrapped key does not open: it was changed, moved between rows, or wrapped by another key; check that the broker runs with the root key that its database was made with, or restore the row from a backup")

// aad encodes an identity: a domain and fields, each preceded by its length as four bytes, big-endian, so that no two
// identities have the same encoding.
func aad(domain string, fields ...string) []byte {
	var out []byte
	for _, f := range append([]string{domain}, fields...) {
		out = binary.BigEndian.AppendUint32(out, uint32(len(f)))
		out = append(out, f...)
	}
	return out
}

func gcm(kek Key) (cipher.AEAD, error) {
	if kek.Len() != kekBytes {
		return nil, fmt.Errorf("keystore: a wrapping key has %d bytes, not %d", kekBytes, kek.Len())
	}
	block, err := aes.NewCipher(kek.Bytes())
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func wrap(kek Key, aad []byte, key Key) ([]byte, error) {
	if key.Len() == 0 || key.Len() > maxSecret {
		return nil, fmt.Errorf("keystore: a secret of %d bytes cannot be wrapped: 1 to %d bytes can", key.Len(), maxSecret)
	}
	aead, err := gcm(kek)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 1, wrapOverhead+key.Len())
	out[0] = wrapVersion
	return aead.Seal(out, nil, key.Bytes(), bound(aad)), nil
}

func unwrap(kek Key, aad, wrapped []byte) (Key, error) {
	if len(wrapped) <= wrapOverhead || len(wrapped) > wrapOverhead+maxSecret {
		return Key{}, fmt.Errorf("keystore: %d bytes are no wrapped key: %w", len(wrapped), ErrUnwrap)
	}
	if wrapped[0] != wrapVersion {
		return Key{}, fmt.Errorf("keystore: wrapping version %d is not known to this broker (%d is): was the database written by a newer one? %w",
			wrapped[0], wrapVersion, ErrUnwrap)
	}
	aead, err := gcm(kek)
	if err != nil {
		return Key{}, err
	}
	b, err := aead.Open(nil, nil, wrapped[1:], bound(aad))
	if err != nil {
		return Key{}, fmt.Errorf("keystore: %w", ErrUnwrap)
	}
	return KeyOf(b), nil
}

// bound puts the format's version under the tag as well.
func bound(data []byte) []byte { return append([]byte{wrapVersion}, data...) }
