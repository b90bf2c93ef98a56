package luks2

import (
	"crypto/rand"
	"runtime"
	"testing"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/keymem/memsearch"
)

// Formatting and verifying must not leave the volume key behind; the crypto packages of the standard library would.
func TestFormatAndVerifyKey_leaveNoKeyInMemory(t *testing.T) {
	for _, bits := range []int{128, 192, 256} {
		raw := make([]byte, bits/4)
		rand.Read(raw)
		pattern := memsearch.NewPattern(raw[:16])
		key, err := keymem.FromBytes(raw)
		if err != nil {
			t.Fatal(err)
		}
		p := testParams()
		p.KeyBits = bits
		dev := blockdev.NewMemory(testSize)
		rec, err := Format(dev, p, key)
		if err != nil {
			t.Fatal(err)
		}
		if err := mustRead(t, dev).VerifyKey(rec, key); err != nil {
			t.Fatal(err)
		}
		key.Wipe()
		runtime.KeepAlive(raw)
		found, err := memsearch.Search(0, pattern)
		if err != nil {
			t.Skip(err)
		}
		if len(found) > 0 {
			t.Errorf("%d bits: the key is still in %q", bits, found)
		}
	}
}
