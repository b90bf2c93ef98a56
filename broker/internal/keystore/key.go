// Package keystore holds the key hierarchy (SP 800-57): a root key from a provider wraps one KEK per account, which
// wraps the DEK of each device. Wrapping is AES-256-GCM with a random nonce, and the associated data is the identity of
// the row that keeps the result, so a wrapped key copied into another row or tenant does not open.
//
// The package is pure but for the files of its root providers: the rows are the caller's.
package keystore

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"keyward/broker/api"
	"keyward/broker/client"
)

const redacted = "REDACTED"

// Key is a secret in plain form. Copies share the bytes, so one Wipe wipes them all. Nothing that prints or encodes a
// Key shows it.
type Key struct {
	// A closure, because fmt prints unexported fields of somebody's struct without asking String, through pointers too.
	reveal func() []byte
}

// KeyOf makes a Key of b and takes ownership: the caller must not use b any more.
func KeyOf(b []byte) Key { return Key{func() []byte { return b }} }

func randomKey(n int) Key {
	b := make([]byte, n)
	rand.Read(b) // never fails; crashes the program if the system has no randomness
	return KeyOf(b)
}

// Bytes are the secret bytes, owned by the Key and zero after Wipe; nil for the zero Key.
func (k Key) Bytes() []byte {
	if k.reveal == nil {
		return nil
	}
	return k.reveal()
}

// Len is the length in bytes.
func (k Key) Len() int { return len(k.Bytes()) }

// Wipe zeroes the key in memory. The zero Key may be wiped.
func (k Key) Wipe() { clear(k.Bytes()) }

// String says REDACTED.
func (Key) String() string { return redacted }

// GoString says REDACTED.
func (Key) GoString() string { return redacted }

// Format says REDACTED for every verb.
func (Key) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// LogValue says REDACTED.
func (Key) LogValue() slog.Value { return slog.StringValue(redacted) }

var errEncode = errors.New("keystore: a key is never encoded: wrap, seal or export it")

// MarshalJSON refuses.
func (Key) MarshalJSON() ([]byte, error) { return nil, errEncode }

// MarshalText refuses.
func (Key) MarshalText() ([]byte, error) { return nil, errEncode }

// MarshalBinary refuses.
func (Key) MarshalBinary() ([]byte, error) { return nil, errEncode }

// newVolumeKey makes a volume key whose two halves differ, as SP 800-38E wants.
func newVolumeKey(bits int) (Key, error) {
	n, err := client.VolumeKeyBytes(api.CipherXTS, bits)
	if err != nil {
		return Key{}, fmt.Errorf("making a volume key: %w", err)
	}
	key := randomKey(n)
	if bytes.Equal(key.Bytes()[:n/2], key.Bytes()[n/2:]) {
		return Key{}, errors.New("keystore: the system's random numbers repeat: stop and repair the machine")
	}
	return key, nil
}
