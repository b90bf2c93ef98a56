package essiv

import (
	"bytes"
	"crypto/sha256"
	"testing"
)

// Neither the key nor the one that IVs are made with.
func TestWipe_leavesNoRoundKeyInMemory(t *testing.T) {
	subject.Wiped(t, func(key []byte) [][]byte {
		salt := sha256.Sum256(key)
		return [][]byte{bytes.Clone(key), salt[:]}
	})
}
