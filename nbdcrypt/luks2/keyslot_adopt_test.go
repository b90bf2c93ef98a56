package luks2

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/nbdcrypt/blockdev"
)

var fastSlot = []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}

func TestAdopt_aVolumeOfCryptsetupBecomesOursAndStaysTheirs(t *testing.T) {
	t.Parallel()
	newImage(t, testParams()) // skips where there is no cryptsetup
	dev := theirs(t, fastSlot...)
	payload := make([]byte, 1<<20)
	if _, err := dev.ReadAt(payload, DataOffset); err != nil {
		t.Fatal(err)
	}
	key, _, err := OpenKeyslot(dev, []byte(testPassphrase))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	p := testParams()
	p.KeyBits, p.SectorSize = 0, 0
	rec, err := Adopt(dev, p, key)
	if err != nil {
		t.Fatal(err)
	}
	h := mustRead(t, dev)
	if err := errors.Join(h.Verify(rec), h.VerifyKey(rec, key)); err != nil {
		t.Error(err)
	}
	if rec.Device != p.Device || rec.Epoch != 1 || rec.DataSize != 1<<20 || h.Keyslots != 1 || h.Recovered {
		t.Errorf("adopted as %+v with %d slots", rec, h.Keyslots)
	}
	after := make([]byte, 1<<20)
	if _, err := dev.ReadAt(after, DataOffset); err != nil || !bytes.Equal(after, payload) {
		t.Errorf("the payload was changed (%v)", err)
	}
	passphrase := filepath.Join(filepath.Dir(dev.Path()), "passphrase")
	mustCryptsetup(t, "", "open", "--test-passphrase", "--key-file", passphrase, dev.Path())
	if dump := mustCryptsetup(t, "", "luksDump", dev.Path()); !strings.Contains(dump, "keyward") {
		t.Errorf("no token of ours: %s", dump)
	}

	// Once more would make the first record worthless, so it needs a word.
	if _, err := Adopt(dev, p, key); !errors.Is(err, ErrHoldsData) {
		t.Errorf("adopting twice: %v, want ErrHoldsData", err)
	}
	p.Overwrite, p.Epoch = true, 2
	again, err := Adopt(dev, p, key)
	if err != nil {
		t.Fatal(err)
	}
	if h := mustRead(t, dev); h.Verify(again) != nil || h.Verify(rec) == nil {
		t.Error("the second adoption did not replace the first")
	}
}

func TestAdopt_refusals(t *testing.T) {
	t.Parallel()
	foreign := func(t *testing.T, change func(root map[string]any)) *blockdev.Memory {
		dev, _ := withSlot(t)
		tamper(t, dev, func(root map[string]any) {
			root["tokens"] = map[string]any{}
			if change != nil {
				change(root)
			}
		})
		return dev
	}
	token := func(kind string) func(map[string]any) {
		return func(root map[string]any) {
			root["tokens"] = map[string]any{"3": map[string]any{"type": kind, "keyslots": []string{}}}
		}
	}
	for _, tc := range []struct {
		name   string
		change func(map[string]any)
		params func(*Params)
		bits   int
		seed   uint64
		want   string
	}{
		{"another key", nil, nil, 256, 2, "does not belong"},
		{"a key of another length", nil, nil, 128, 1, "has 32 bytes, which is no key of this volume's"},
		{"a TPM's token", token("systemd-tpm2"), nil, 256, 1, "cryptsetup token remove --token-id 3"},
		{"a token of ours", token(TokenType), nil, 256, 1, "Overwrite"},
		{"other key bits", nil, func(p *Params) { p.KeyBits = 128 }, 256, 1, "key_bits"},
		{"another sector size", nil, func(p *Params) { p.SectorSize = 512 }, 256, 1, "sector_size"},
		{"no device", nil, func(p *Params) { p.Device = "" }, 256, 1, "device"},
		{"another hash of the digest", func(r map[string]any) { in(r, "digests", "0")["hash"] = "sha512" }, nil, 256, 1, "digests.0.hash"},
		{"integrity", func(r map[string]any) { in(r, "segments", "0")["integrity"] = map[string]any{} }, nil, 256, 1, "integrity"},
		{"two segments", func(r map[string]any) { in(r, "segments")["1"] = map[string]any{} }, nil, 256, 1, "segments.1"},
		{"null cipher", func(r map[string]any) { in(r, "segments", "0")["encryption"] = "cipher_null-ecb" }, nil, 256, 1, "encryption"},
		{"re-encryption under way", func(r map[string]any) { in(r, "config")["requirements"] = map[string]any{} }, nil, 256, 1, "requirements"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dev := foreign(t, tc.change)
			before := dev.Snapshot()
			p := testParams()
			p.KeyBits = 0
			if tc.params != nil {
				tc.params(&p)
			}
			_, err := Adopt(dev, p, testKey(t, tc.bits, tc.seed))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
			if !bytes.Equal(dev.Snapshot(), before) {
				t.Error("a refusal changed the disk")
			}
		})
	}
}

func TestAdopt_copiesThatDifferAreRepairedFirst(t *testing.T) {
	t.Parallel()
	dev, key := withSlot(t)
	flip(t, dev, HeaderSize+30)
	p := testParams()
	p.Overwrite = true
	if _, err := Adopt(dev, p, key); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "cryptsetup repair") {
		t.Errorf("error %v, want ErrDamaged", err)
	}
}

// FuzzOpenKeyslot gives a header whose checksums are right to the parser: no text may make it crash, or spend more than
// the bounds allow.
func FuzzOpenKeyslot(f *testing.F) {
	dev, _ := withSlot(f)
	h := mustRead(f, dev)
	f.Add(h.text)
	for _, name := range []string{"cryptsetup-pbkdf2.json", "cryptsetup-argon2id.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", "keyslot", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		area, err := jsonAreaOf(text)
		if err != nil {
			return
		}
		image := blockdev.NewMemory(keyslotsOffset + 1<<20)
		for i := range copyOffsets {
			if err := writeCopy(image, h.binary, area, i); err != nil {
				t.Fatal(err)
			}
		}
		v, err := readForeign(image)
		if err != nil {
			return
		}
		if !v.whole || v.DataSize <= 0 || v.DataOffset+v.DataSize > image.Size() {
			t.Fatalf("accepted %+v", v.Foreign)
		}
		for _, s := range v.slots {
			if s.err != nil {
				continue
			}
			if k := s.kdf; k.memory > maxArgonMemory || k.time*k.memory > maxArgonWork || k.iterations > maxPBKDF2 || len(k.salt) > maxSlotSalt {
				t.Fatalf("accepted %+v", k)
			}
			if s.keySize > 64 || s.offset < keyslotsOffset || s.offset+int64(s.keySize*stripes) > v.DataOffset {
				t.Fatalf("accepted %+v", s)
			}
		}
		var root map[string]any
		if json.Unmarshal(text, &root) != nil {
			t.Fatal("accepted what is no JSON")
		}
	})
}
