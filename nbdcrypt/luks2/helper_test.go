package luks2

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
)

const testSize = DataOffset + 1<<20

func testParams() Params {
	return Params{
		Device: "018f9c5e-7a40-7c1c-9d55-3f0a6d1f0a01", Account: "018f9c5e-7a40-7c1c-9d55-3f0a6d1f0a02",
		Broker: "https://broker.example:8443", KeyBits: 256, SectorSize: 4096,
	}
}

// testKey is a volume key for XTS that depends on seed.
func testKey(t testing.TB, bits int, seed uint64) *keymem.Key {
	t.Helper()
	return keyOf(t, bits/4, seed)
}

// keyOf is a volume key of n bytes that depends on seed.
func keyOf(t testing.TB, n int, seed uint64) *keymem.Key {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	raw := make([]byte, n)
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	key, err := keymem.FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return key
}

// formatted is a memory device with a fresh volume.
func formatted(t testing.TB, p Params, seed uint64) (*blockdev.Memory, Record, *keymem.Key) {
	t.Helper()
	dev, key := blockdev.NewMemory(testSize), keyOf(t, keyLen(p.Cipher, p.KeyBits), seed)
	rec, err := Format(dev, p, key)
	if err != nil {
		t.Fatal(err)
	}
	return dev, rec, key
}

func mustRead(t testing.TB, dev blockdev.Device) *Header {
	t.Helper()
	h, err := Read(dev)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// tamper changes the JSON of both copies as somebody without the key could: with correct checksums.
func tamper(t testing.TB, dev blockdev.Device, change func(root map[string]any)) {
	t.Helper()
	h := mustRead(t, dev)
	var root map[string]any
	if err := json.Unmarshal(h.text, &root); err != nil {
		t.Fatal(err)
	}
	change(root)
	text, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	replaceText(t, dev, h.binary, text)
}

func replaceText(t testing.TB, dev blockdev.Device, b binaryHeader, text []byte) {
	t.Helper()
	area, err := jsonAreaOf(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range copyOffsets {
		if err := writeCopy(dev, b, area, i); err != nil {
			t.Fatal(err)
		}
	}
}

// in walks down a JSON tree by names.
func in(root map[string]any, path ...string) map[string]any {
	for _, name := range path {
		root = root[name].(map[string]any)
	}
	return root
}

func flip(t testing.TB, dev blockdev.Device, off int64) {
	t.Helper()
	b := make([]byte, 1)
	if _, err := dev.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := dev.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}
