package sector

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// KnownAnswer is one power-up test of a cipher: the SHA-256 of SelfTestInput encrypted under SelfTestKey(KeyLen) from
// SelfTestTweak in steps of 8, in hex.
type KnownAnswer struct {
	// Label names cipher and key size in messages.
	Label  string
	KeyLen int // bytes
	Digest string
}

// The self-test's input: one sector more than the batches of any kernel, and numbers that cross 32 bits.
const (
	SelfTestSectors = 17
	SelfTestSize    = 512
	SelfTestTweak   = 1<<32 - 16
)

// SelfTestKey is the key of a known answer.
func SelfTestKey(n int) []byte {
	key := make([]byte, n)
	for i := range key {
		key[i] = byte(i*5 + 1)
	}
	return key
}

// SelfTestInput is what the self-test encrypts: SelfTestSectors sectors of SelfTestSize bytes.
func SelfTestInput() []byte {
	in := make([]byte, SelfTestSectors*SelfTestSize)
	for i := range in {
		in[i] = byte(i*7 + i/256)
	}
	return in
}

// SelfTest checks a kernel against known answers, both ways.
func SelfTest(k Kernel, answers []KnownAnswer) error {
	for _, ka := range answers {
		c, err := New(k, SelfTestKey(ka.KeyLen))
		if err != nil {
			return fmt.Errorf("self-test of %s (%s): %w", ka.Label, k.Name(), err)
		}
		in := SelfTestInput()
		buf := make([]byte, len(in))
		c.EncryptSectors(buf, in, SelfTestSize, SelfTestTweak, 8)
		digest := sha256.Sum256(buf)
		c.DecryptSectors(buf, buf, SelfTestSize, SelfTestTweak, 8)
		c.Wipe()
		if hex.EncodeToString(digest[:]) != ka.Digest {
			return fmt.Errorf("self-test of %s (%s): wrong ciphertext; do not use this processor or build", ka.Label, k.Name())
		}
		if string(buf) != string(in) {
			return fmt.Errorf("self-test of %s (%s): wrong plaintext; do not use this processor or build", ka.Label, k.Name())
		}
	}
	return nil
}
