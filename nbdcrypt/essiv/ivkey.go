package essiv

import (
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"errors"
	"fmt"

	"keyward/nbdcrypt/keymem"
)

// ivKeyLen is the length of the key of the IVs in bytes: AES-256, whatever the data key.
const ivKeyLen = sha256.Size

// Where AppendBinary of crypto/sha256 puts the chaining value: behind a magic of 4 bytes. A test compares the outcome
// with sha256.Sum256.
const (
	stateMagic = 4
	stateLen   = stateMagic + sha256.Size + sha256.BlockSize + 8
)

// withIVKey passes SHA-256 of key to use, in protected memory that is wiped afterwards. crypto/sha256 keeps the rest of
// an unfinished block on the heap, where nobody can wipe it; so the key is padded here (FIPS 180-4, section 5.1.1), goes
// through it as one whole block, and the digest is read from its state.
func withIVKey(key []byte, use func(ivKey []byte) error) error {
	if len(key) > sha256.BlockSize-9 {
		return errors.New("hash key: longer than one block")
	}
	mem, err := keymem.New(sha256.BlockSize + stateLen)
	if err != nil {
		return fmt.Errorf("hash key: %w", err)
	}
	defer mem.Wipe()
	block, state := mem.Bytes()[:sha256.BlockSize], mem.Bytes()[sha256.BlockSize:]
	copy(block, key)
	block[len(key)] = 0x80
	binary.BigEndian.PutUint64(block[sha256.BlockSize-8:], uint64(len(key))*8)
	hash := sha256.New()
	defer hash.Reset()
	hash.Write(block)
	out, err := hash.(encoding.BinaryAppender).AppendBinary(state[:0])
	if err != nil || len(out) != stateLen {
		return fmt.Errorf("hash key: crypto/sha256 of this Go release has another state (%d bytes, %v); "+
			"build with the Go release that go.mod names", len(out), err)
	}
	return use(out[stateMagic : stateMagic+ivKeyLen])
}
