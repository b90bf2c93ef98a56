package xts

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// knownAnswer is one power-up test: SHA-256 of selfTestSectors sectors of selfTestSize bytes, where byte i of the input
// is i*7+i/256, encrypted from tweak selfTestTweak in steps of 8. The digests were made with golang.org/x/crypto/xts, and
// a test makes them again.
type knownAnswer struct {
	bits   int
	digest string
}

const (
	selfTestSectors = 17 // one more than the batches of any kernel
	selfTestSize    = 512
	selfTestTweak   = 1<<32 - 16 // the tweaks cross 32 bits
)

var knownAnswers = []knownAnswer{
	{128, "fff9e1ee5d56f89518666235187bfff5ad188b07ebf6fca45d3c23df95176550"},
	{192, "916aea6434a3735dd5e882f113d1415577f2202e32297ca1eab8eaf51ab240f8"},
	{256, "703a0a7d78e919b18c55bc1e105b9aa71aac31f02c7739e279ff6c9036c026b0"},
}

func selfTestKey(bits int) []byte {
	key := make([]byte, bits/4)
	for i := range key {
		key[i] = byte(i*5 + 1)
	}
	return key
}

func selfTestInput() []byte {
	in := make([]byte, selfTestSectors*selfTestSize)
	for i := range in {
		in[i] = byte(i*7 + i/256)
	}
	return in
}

// SelfTest runs known-answer tests, both ways, of the kernel that New uses, for each key size. A volume must not be
// opened if it fails.
func SelfTest() error { return selfTest(best()) }

func selfTest(k kernel) error {
	for _, ka := range knownAnswers {
		c, err := newCipher(k, selfTestKey(ka.bits))
		if err != nil {
			return fmt.Errorf("self-test of AES-%d-XTS (%s): %w", ka.bits, k.name(), err)
		}
		in := selfTestInput()
		buf := make([]byte, len(in))
		c.EncryptSectors(buf, in, selfTestSize, selfTestTweak, 8)
		digest := sha256.Sum256(buf)
		c.DecryptSectors(buf, buf, selfTestSize, selfTestTweak, 8)
		c.Wipe()
		if hex.EncodeToString(digest[:]) != ka.digest {
			return fmt.Errorf("self-test of AES-%d-XTS (%s): wrong ciphertext; do not use this processor or build", ka.bits, k.name())
		}
		if string(buf) != string(in) {
			return fmt.Errorf("self-test of AES-%d-XTS (%s): wrong plaintext; do not use this processor or build", ka.bits, k.name())
		}
	}
	return nil
}
