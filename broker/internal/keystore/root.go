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
	// Provider says what kind of place keeps the key.
	Provider() Provider
	// Wrap encrypts a secret of 1 to 65536 bytes bound to aad, the canonical identity of what keeps the result.
	Wrap(aad []byte, key Key) ([]byte, error)
	// Unwrap is the inverse; the error wraps ErrUnwrap when key, aad or bytes are not those of Wrap, and ErrUnreachable
	// when the place that keeps the key does not answer or does not let this broker in.
	Unwrap(aad, wrapped []byte) (Key, error)
}

// Provider is a kind of place that keeps a root key.
type Provider string

// The providers.
const (
	ProviderFile       Provider = "file"
	ProviderPassphrase Provider = "passphrase"
	ProviderCredential Provider = "credential"
	ProviderTransit    Provider = "transit"
	ProviderPKCS11     Provider = "pkcs11"
	ProviderKMIP       Provider = "kmip"
)

// Text is how people read of the provider.
func (p Provider) Text() string {
	switch p {
	case ProviderFile:
		return "root key in a file"
	case ProviderPassphrase:
		return "root key from a passphrase"
	case ProviderCredential:
		return "root key in a systemd credential"
	case ProviderTransit:
		return "root key in OpenBao or Vault"
	case ProviderPKCS11:
		return "root key in a PKCS#11 token"
	case ProviderKMIP:
		return "root key on a KMIP server"
	}
	return "root key elsewhere"
}

// Local says that the key itself is in this process's memory once it is open, so that nothing can take it away.
func (p Provider) Local() bool {
	return p == ProviderFile || p == ProviderPassphrase || p == ProviderCredential
}

// ErrUnreachable says that the root key cannot be asked now. What it has opened before may still be in memory.
var ErrUnreachable = errors.New("the root key cannot be reached")

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
	id       string
	provider Provider
	key      Key
}

func newMemoryRoot(key Key, from Provider) (*memoryRoot, error) {
	if key.Len() != kekBytes {
		return nil, fmt.Errorf("a root key has %d bytes, not %d", kekBytes, key.Len())
	}
	if subtle.ConstantTimeCompare(key.Bytes(), make([]byte, kekBytes)) == 1 {
		return nil, errors.New("the root key is all zeroes, which is a damaged file and no key: restore it from its backup")
	}
	return &memoryRoot{idOf(key), from, key}, nil
}

// idOf is the first eight bytes of the key's SHA-256 in hexadecimal.
func idOf(key Key) string {
	sum := sha256.Sum256(key.Bytes())
	return hex.EncodeToString(sum[:8])
}

func (r *memoryRoot) ID() string { return r.id }

func (r *memoryRoot) Provider() Provider { return r.provider }

// RootSecret is the key itself of a root that is in this process's memory, for a backup that is asked to hold it; false for
// one that cannot leave the place that keeps it. The bytes are the root's own.
func RootSecret(r Root) (Key, bool) {
	m, ok := Active(r).(*memoryRoot)
	if !ok {
		return Key{}, false
	}
	return m.key, true
}

func (r *memoryRoot) Wrap(aad []byte, key Key) ([]byte, error) { return wrap(r.key, aad, key) }

func (r *memoryRoot) Unwrap(aad, wrapped []byte) (Key, error) {
	k, err := unwrap(r.key, aad, wrapped)
	if err != nil {
		return Key{}, fmt.Errorf("with root key %s: %w", r.id, err)
	}
	return k, nil
}
