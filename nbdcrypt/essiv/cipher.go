// Package essiv is AES-CBC-ESSIV:sha256 as dm-crypt names it, over many sectors a call, for volumes that keep the mode of
// the product that Keyward succeeds: CBC inside a sector, its IV the sector's number encrypted with AES-256 under the
// SHA-256 of the key (C. Fruhwirth, New Methods in Hard Disk Encryption, 2005, section 4.2.2).
//
// The mode is malleable and shows equal beginnings of two versions of a sector; new volumes take xts.
package essiv

import (
	"errors"
	"fmt"

	"keyward/nbdcrypt/internal/sector"
)

var errKeySize = errors.New("must be 16, 24 or 32 bytes: one AES key of 128, 192 or 256 bits")

// Cipher encrypts and decrypts with one key; the number of a sector is what its IV is made of.
type Cipher = sector.Cipher

// registry holds every kernel of this build. Files of one architecture add theirs.
var registry = sector.NewRegistry("CBC-ESSIV", generic{})

// New expands a key of 16, 24 or 32 bytes for the best kernel of this processor. The caller keeps key and may wipe it
// afterwards. The caller calls Wipe when done.
func New(key []byte) (*Cipher, error) { return newCipher(registry.Best(), key) }

// NewWithKernel is New for one of Kernels by name, so that tests and benchmarks reach each of them.
func NewWithKernel(name string, key []byte) (*Cipher, error) {
	k, err := registry.ByName(name)
	if err != nil {
		return nil, err
	}
	return newCipher(k, key)
}

// Kernels are the names of the kernels that this processor can run, fastest first. New takes the first.
func Kernels() []string { return registry.Names() }

func newCipher(k sector.Kernel, key []byte) (*Cipher, error) {
	switch len(key) {
	case 16, 24, 32:
	default:
		return nil, fmt.Errorf("CBC-ESSIV key of %d bytes: %w", len(key), errKeySize)
	}
	c, err := sector.New(k, key)
	if err != nil {
		return nil, fmt.Errorf("CBC-ESSIV: %w", err)
	}
	return c, nil
}
