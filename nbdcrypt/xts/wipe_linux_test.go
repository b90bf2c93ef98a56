package xts

import (
	"bytes"
	"crypto/rand"
	"testing"

	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/keymem/memsearch"
)

// The first round keys of AES are the key itself, so a schedule left on the heap is a key left on the heap.
func TestWipe_leavesNeitherHalfOfTheKeyInMemory(t *testing.T) {
	for _, kernel := range Kernels() {
		for _, size := range []int{32, 48, 64} {
			raw := make([]byte, size)
			rand.Read(raw)
			half := size / 2
			patterns := []memsearch.Pattern{memsearch.NewPattern(raw[:half]), memsearch.NewPattern(raw[half:])}
			for _, p := range patterns {
				found, err := memsearch.Search(0, p)
				if err != nil {
					t.Skip(err)
				}
				if len(found) == 0 {
					t.Fatal("the search does not find a key that is there")
				}
			}
			key, err := keymem.FromBytes(raw)
			if err != nil {
				t.Fatal(err)
			}
			c, err := NewWithKernel(kernel, key.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			key.Wipe()
			buf := make([]byte, 4096)
			c.EncryptSectors(buf, buf, 512, 0, 1)
			if c.Protection() == keymem.MemfdSecret {
				expectAbsent(t, kernel+" in use, schedules in memfd_secret", patterns)
			}
			c.Wipe()
			expectAbsent(t, kernel+" wiped", patterns)
		}
	}
}

func expectAbsent(t *testing.T, when string, patterns []memsearch.Pattern) {
	t.Helper()
	for i, p := range patterns {
		found, err := memsearch.Search(0, p)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			t.Errorf("%s: half %d of the key was found in %q", when, i+1, found)
		}
	}
}

func TestWipe_leavesNoRoundKeyOnASignalStack(t *testing.T) {
	subject.Wiped(t, func(key []byte) [][]byte {
		return [][]byte{bytes.Clone(key[:len(key)/2]), bytes.Clone(key[len(key)/2:])}
	})
}
