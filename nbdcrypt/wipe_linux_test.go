package nbdcrypt

import (
	"bytes"
	"crypto/rand"
	"testing"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/keymem/memsearch"
	"keyward/nbdcrypt/luks2"
)

// After Suspend and after Close the volume key, whole or either half, is nowhere in the process.
func TestVolume_keyIsGoneAfterSuspendAndAfterClose(t *testing.T) {
	for _, bits := range []int{128, 192, 256} {
		raw := make([]byte, bits/4)
		rand.Read(raw)
		patterns := []memsearch.Pattern{memsearch.NewPattern(raw[:bits/8]), memsearch.NewPattern(raw[bits/8:])}
		key, err := keymem.FromBytes(raw)
		if err != nil {
			t.Fatal(err)
		}
		spare, err := key.Clone()
		if err != nil {
			t.Fatal(err)
		}
		hidden := key.Protection() == keymem.MemfdSecret
		dev := blockdev.NewMemory(luks2.DataOffset + payload)
		rec, err := luks2.Format(dev, luks2.Params{Device: "d", Account: "a", Broker: "b", KeyBits: bits}, key)
		if err != nil {
			t.Fatal(err)
		}
		v, err := Open(dev, rec, key, Options{})
		if err != nil {
			t.Fatal(err)
		}
		work := func() {
			p := bytes.Repeat([]byte{1}, 100_000)
			if _, err := v.WriteAt(p, 77); err != nil {
				t.Error(err)
			}
			if _, err := v.ReadAt(p, 77); err != nil {
				t.Error(err)
			}
		}
		expectAbsent := func(when string) {
			for i, p := range patterns {
				found, err := memsearch.Search(0, p)
				if err != nil {
					t.Skip(err)
				}
				if len(found) > 0 {
					t.Errorf("%d bits, %s: half %d of the key is in %q", bits, when, i+1, found)
				}
			}
		}
		work()
		if hidden {
			expectAbsent("in use")
		}
		if err := v.Suspend(); err != nil {
			t.Fatal(err)
		}
		if hidden {
			expectAbsent("suspended")
		}
		if err := v.Resume(spare); err != nil {
			t.Fatal(err)
		}
		work()
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		expectAbsent("closed")
	}
}
