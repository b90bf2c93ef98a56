// Package xts is AES-XTS (IEEE 1619-2018, NIST SP 800-38E) over many sectors a call, in place or from buffer to buffer.
//
// The work is done by a kernel: generic Go, or assembly chosen by processor.
package xts

import (
	"crypto/subtle"
	"errors"
	"fmt"

	"keyward/nbdcrypt/internal/sector"
)

const (
	// BlockSize is the AES block in bytes; sectors are whole blocks.
	BlockSize = sector.BlockSize
	// MaxSectorSize is the largest data unit in bytes.
	MaxSectorSize = sector.MaxSize
)

var (
	errKeySize  = errors.New("must be 32, 48 or 64 bytes: two AES keys of 128, 192 or 256 bits")
	errSameKeys = errors.New("its two halves are equal, which breaks XTS (FIPS 140-3 IG C.I); generate a new key")
)

// Cipher encrypts and decrypts with one key; the number of a sector is its tweak.
type Cipher = sector.Cipher

// registry holds every kernel of this build. Files of one architecture add theirs.
var registry = sector.NewRegistry("XTS", generic{})

// New expands a key of 32, 48 or 64 bytes (data key, then tweak key) for the best kernel of this processor. The caller
// keeps key and may wipe it afterwards. The caller calls Wipe when done.
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
	case 32, 48, 64:
	default:
		return nil, fmt.Errorf("XTS key of %d bytes: %w", len(key), errKeySize)
	}
	half := len(key) / 2
	if subtle.ConstantTimeCompare(key[:half], key[half:]) == 1 {
		return nil, fmt.Errorf("XTS key: %w", errSameKeys)
	}
	c, err := sector.New(k, key)
	if err != nil {
		return nil, fmt.Errorf("XTS: %w", err)
	}
	return c, nil
}
