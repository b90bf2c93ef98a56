package keystore

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
)

// Root is the key above all others. Providers differ in where it lives; an HSM's never leaves it.
type Root interface {
	// ID names the key, so that a row says which root wrapped it. It reveals nothing about the key.
	ID() string
	// Wrap encrypts a secret of 1 to 65536 bytes bound to aad, the canonical identity of what keeps the result.
	Wrap(aad []byte, key Key) ([]byte, error)
	// Unwrap is the inverse; the error wraps ErrUnwrap when key, aad or bytes are not those of Wrap.
	Unwrap(aad, wrapped []byte) (Key, error)
}

// WrapSecret wraps one of the broker's own secrets, such as its CA key or the key that signs audit checkpoints.
// purpose tells them apart.
func WrapSecret(r Root, purpose string, secret Key) ([]byte, error) {
	return r.Wrap(aad("keyward broker secret v1", purpose), secret)
}

// UnwrapSecret is the inverse of WrapSecret.
func UnwrapSecret(r Root, purpose string, wrapped []byte) (Key, error) {
	k, err := r.Unwrap(aad("keyward broker secret v1", purpose), wrapped)
	if err != nil {
		return Key{}, fmt.Errorf("opening the broker's %s: %w", purpose, err)
	}
	return k, nil
}

// memoryRoot is a root key in this process's memory.
type memoryRoot struct {
	id  string
	key Key
}

func newMemoryRoot(key Key) (*memoryRoot, error) {
	if key.Len() != kekBytes {
		return nil, fmt.Errorf("a root key has %d bytes, not %d", kekBytes, key.Len())
	}
	if subtle.ConstantTimeCompare(key.Bytes(), make([]byte, kekBytes)) == 1 {
		return nil, errors.New("the root key is all zeroes, which is a damaged file and no key: restore it from its backup")
	}
	return &memoryRoot{idOf(key), key}, nil
}

// idOf is the first eight bytes of the key's SHA-256 in hexadecimal.
func idOf(key Key) string {
	sum := sha256.Sum256(key.Bytes())
	return hex.EncodeToString(sum[:8])
}

func (r *memoryRoot) ID() string { return r.id }

func (r *memoryRoot) Wrap(aad []byte, key Key) ([]byte, error) { return wrap(r.key, aad, key) }

func (r *memoryRoot) Unwrap(aad, wrapped []byte) (Key, error) {
	k, err := unwrap(r.key, aad, wrapped)
	if err != nil {
		return Key{}, fmt.Errorf("with root key %s: %w", r.id, err)
	}
	return k, nil
}
