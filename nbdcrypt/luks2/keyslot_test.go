package luks2

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/xts"
)

const testPassphrase = "correct horse battery staple"

// split is the anti-forensic splitter, from the specification and not from mergeStripes.
func split(key []byte, h *afHash, r *rand.Rand) []byte {
	n := len(key)
	out := make([]byte, n*stripes)
	acc := make([]byte, n)
	for s := range stripes {
		piece := out[s*n : (s+1)*n]
		if s == stripes-1 {
			for i := range piece {
				piece[i] = acc[i] ^ key[i]
			}
			return out
		}
		for i := range piece {
			piece[i] = byte(r.Uint32())
			acc[i] ^= piece[i]
		}
		for i := 0; i < n; i += h.size {
			end := min(i+h.size, n)
			in := append(binary.BigEndian.AppendUint32(nil, uint32(i/h.size)), acc[i:end]...)
			h.sum(acc[i:end], in)
		}
	}
	return out
}

func TestMergeStripes_undoesTheSplitter(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for name, h := range afHashes {
		for _, size := range []int{32, 48, 64} {
			key := make([]byte, size)
			for i := range key {
				key[i] = byte(r.Uint32())
			}
			material := split(key, h, r)
			got := make([]byte, size)
			mergeStripes(got, material, h)
			if !bytes.Equal(got, key) {
				t.Errorf("%s, %d bytes: another key", name, size)
			}
			material[r.IntN(len(material))] ^= 1
			mergeStripes(got, material, h)
			if bytes.Equal(got, key) {
				t.Errorf("%s, %d bytes: a changed bit makes no difference", name, size)
			}
		}
	}
}

// withSlot is a volume of ours with a passphrase slot that the test makes from the specification.
func withSlot(t testing.TB) (*blockdev.Memory, *keymem.Key) {
	t.Helper()
	dev, _, key := formatted(t, testParams(), 1)
	k := kdf{kind: "pbkdf2", salt: bytes.Repeat([]byte{7}, 32), hash: "sha256", iterations: minPBKDF2}
	unlock, err := k.derive([]byte(testPassphrase), 64)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock.Wipe()
	material := split(key.Bytes(), afHashes["sha256"], rand.New(rand.NewPCG(3, 4)))
	c, err := xts.New(unlock.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Wipe()
	c.EncryptSectors(material, material, 512, 0, 1)
	if _, err := dev.WriteAt(material, keyslotsOffset); err != nil {
		t.Fatal(err)
	}
	tamper(t, dev, func(root map[string]any) {
		var slots map[string]any
		if err := json.Unmarshal([]byte(`{"0":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},
			"area":{"type":"raw","offset":"32768","size":"258048","encryption":"aes-xts-plain64","key_size":64},
			"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}}}`), &slots); err != nil {
			t.Fatal(err)
		}
		root["keyslots"] = slots
		in(root, "digests", "0")["keyslots"] = []string{"0"}
	})
	return dev, key
}

func TestOpenKeyslot_onlyThePassphraseOpens(t *testing.T) {
	t.Parallel()
	dev, key := withSlot(t)
	before := dev.Snapshot()
	got, f, err := OpenKeyslot(dev, []byte(testPassphrase))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Wipe()
	if !got.Equal(key) || f.Keyslot != "0" || f.KeyBits != 256 || f.SectorSize != 4096 || f.DataOffset != DataOffset || f.DataSize != 1<<20 {
		t.Errorf("another key, or %+v", f)
	}
	for _, wrong := range []string{"", testPassphrase + " ", strings.ToUpper(testPassphrase)} {
		if key, _, err := OpenKeyslot(dev, []byte(wrong)); !errors.Is(err, ErrPassphrase) || key != nil {
			t.Errorf("passphrase %q: %v", wrong, err)
		}
	}
	if !bytes.Equal(dev.Snapshot(), before) {
		t.Error("the disk was changed")
	}
}

// A disk can come from anybody: what its header asks for is refused before it is spent.
func TestOpenKeyslot_parametersThatExhaustTheReaderAreRefused(t *testing.T) {
	t.Parallel()
	argon := func(time, memory, cpus int) map[string]any {
		return map[string]any{"type": "argon2id", "time": time, "memory": memory, "cpus": cpus, "salt": "BwcHBwcHBwcHBwcHBwcHBw=="}
	}
	pbkdf2 := func(hash string, iterations int) map[string]any {
		return map[string]any{"type": "pbkdf2", "hash": hash, "iterations": iterations, "salt": "BwcHBwcHBwcHBwcHBwcHBw=="}
	}
	slot := func(path ...string) func(map[string]any, string, any) {
		return func(root map[string]any, name string, value any) {
			in(root, append([]string{"keyslots", "0"}, path...)...)[name] = value
		}
	}
	for _, tc := range []struct {
		name  string
		at    func(map[string]any, string, any)
		field string
		value any
		want  string
	}{
		{"a terabyte of memory", slot(), "kdf", argon(4, 1<<30, 4), "kdf.memory"},
		{"no memory", slot(), "kdf", argon(4, 0, 4), "kdf.memory"},
		{"hours of Argon2", slot(), "kdf", argon(1<<30, 1<<20, 4), "kdf.time"},
		{"no pass of Argon2", slot(), "kdf", argon(0, 1<<16, 4), "kdf.time"},
		{"more threads than cryptsetup makes", slot(), "kdf", argon(4, 1<<20, 255), "kdf.cpus"},
		{"hours of PBKDF2", slot(), "kdf", pbkdf2("sha256", 2_000_000_000), "kdf.iterations"},
		{"too little PBKDF2", slot(), "kdf", pbkdf2("sha256", 1), "kdf.iterations"},
		{"a weak hash", slot(), "kdf", pbkdf2("sha1", 100_000), "kdf.hash"},
		{"an unknown function", slot(), "kdf", map[string]any{"type": "scrypt", "salt": "BwcHBwcHBwcHBwcHBwcHBw=="}, "kdf.type"},
		{"no salt", slot("kdf"), "salt", "", "kdf.salt"},
		{"null cipher", slot("area"), "encryption", "cipher_null-ecb", "area.encryption"},
		{"an area in the payload", slot("area"), "offset", fmt.Sprint(DataOffset), "area.offset"},
		{"an area over the headers", slot("area"), "offset", "0", "area.offset"},
		{"an area before the disk", slot("area"), "offset", "-1", "area.offset"},
		{"an area that ends in the payload", slot("area"), "offset", fmt.Sprint(DataOffset - 512), "area.offset"},
		{"a short area", slot("area"), "size", "4096", "area.offset"},
		{"an area key of one byte", slot("area"), "key_size", 1, "area.key_size"},
		{"another number of stripes", slot("af"), "stripes", 1 << 30, "af.stripes"},
		{"another hash of the splitter", slot("af"), "hash", "md5", "af.hash"},
		{"another kind of slot", slot(), "type", "reencrypt", "type"},
		{"a field nobody knows", slot(), "mode", "x", "mode"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dev, _ := withSlot(t)
			h := mustRead(t, dev)
			var root map[string]any
			if err := json.Unmarshal(h.text, &root); err != nil {
				t.Fatal(err)
			}
			tc.at(root, tc.field, tc.value)
			text, err := json.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			replaceText(t, dev, h.binary, text)
			key, _, err := OpenKeyslot(dev, []byte(testPassphrase))
			if key != nil || !errors.Is(err, ErrPassphrase) {
				t.Fatalf("error %v", err)
			}
			var field *FieldError
			if !errors.As(err, &field) || field.Field != "keyslots.0."+tc.want {
				t.Errorf("error %v, want one of keyslots.0.%s", err, tc.want)
			}
		})
	}
}

func TestOpenKeyslot_notAVolume(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{512, 1 << 20, DataOffset + 1<<20} {
		if _, _, err := OpenKeyslot(blockdev.NewMemory(size), []byte("x")); !errors.Is(err, ErrNotLUKS2) {
			t.Errorf("%d zero bytes: %v", size, err)
		}
	}
	dev, _ := withSlot(t)
	flip(t, dev, 30)
	if key, _, err := OpenKeyslot(dev, []byte(testPassphrase)); err != nil {
		t.Errorf("with one copy left: %v", err)
	} else {
		key.Wipe()
	}
	flip(t, dev, HeaderSize+30)
	if _, _, err := OpenKeyslot(dev, []byte(testPassphrase)); !errors.Is(err, ErrDamaged) {
		t.Errorf("without a copy: %v", err)
	}
}

// theirs is an image that cryptsetup made, with noise as payload.
func theirs(t *testing.T, args ...string) *blockdev.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	dev, err := blockdev.CreateFile(path, testSize)
	if err != nil {
		t.Fatal(err)
	}
	dev.Close()
	passphrase := filepath.Join(filepath.Dir(path), "passphrase")
	if err := os.WriteFile(passphrase, []byte(testPassphrase), 0o600); err != nil {
		t.Fatal(err)
	}
	mustCryptsetup(t, "", append(append([]string{"luksFormat", "--batch-mode", "--type", "luks2", "--key-file", passphrase}, args...), path)...)
	if dev, err = blockdev.OpenFile(path, blockdev.FileOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dev.Close() })
	noise := make([]byte, 1<<20)
	r := rand.New(rand.NewPCG(5, 6))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	if _, err := dev.WriteAt(noise, DataOffset); err != nil {
		t.Fatal(err)
	}
	return dev
}

func TestOpenKeyslot_volumesOfCryptsetup(t *testing.T) {
	t.Parallel()
	newImage(t, testParams()) // skips where there is no cryptsetup
	for _, kdf := range [][]string{
		{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"},
		{"--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32768", "--pbkdf-parallel", "2"},
		{"--pbkdf", "argon2i", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32768", "--pbkdf-parallel", "1"},
	} {
		for _, bits := range []string{"256", "512"} {
			for _, sector := range []string{"512", "4096"} {
				t.Run(strings.Join(kdf, " ")+" "+bits+" "+sector, func(t *testing.T) {
					t.Parallel()
					dev := theirs(t, append([]string{"--key-size", bits, "--sector-size", sector}, kdf...)...)
					key, f, err := OpenKeyslot(dev, []byte(testPassphrase))
					if err != nil {
						t.Fatal(err)
					}
					defer key.Wipe()
					if fmt.Sprint(f.KeyBits*2) != bits || fmt.Sprint(f.SectorSize) != sector {
						t.Errorf("opened %+v", f)
					}
					dump := mustCryptsetup(t, testPassphrase, "luksDump", "--dump-volume-key", "--batch-mode", "--key-file", "-", dev.Path())
					_, hex, _ := strings.Cut(dump, "MK dump:")
					want := strings.Join(strings.Fields(hex), "")
					if got := fmt.Sprintf("%x", key.Bytes()); !strings.HasPrefix(want, got) || len(want) != len(got) {
						t.Errorf("the key is not the one that cryptsetup shows (%d hex digits there, %d here)", len(want), len(got))
					}
				})
			}
		}
	}
}

func TestOpenKeyslot_slotsAddedLater(t *testing.T) {
	t.Parallel()
	newImage(t, testParams()) // skips where there is no cryptsetup
	dev := theirs(t, fastSlot...)
	old := filepath.Join(filepath.Dir(dev.Path()), "passphrase")
	added := filepath.Join(filepath.Dir(dev.Path()), "added")
	if err := os.WriteFile(added, []byte("another way in"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustCryptsetup(t, "", append(append([]string{"luksAddKey", "--hash", "sha512", "--key-slot", "5", "--key-file", old}, fastSlot...), dev.Path(), added)...)
	key, f, err := OpenKeyslot(dev, []byte("another way in"))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	first, g, err := OpenKeyslot(dev, []byte(testPassphrase))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Wipe()
	if !first.Equal(key) || f.Keyslot != "5" || g.Keyslot != "0" {
		t.Errorf("slots %s and %s hold different keys", f.Keyslot, g.Keyslot)
	}
	mustCryptsetup(t, "", "luksKillSlot", "--batch-mode", "--key-file", added, dev.Path(), "0")
	if _, _, err := OpenKeyslot(dev, []byte(testPassphrase)); !errors.Is(err, ErrPassphrase) {
		t.Errorf("a slot that was taken away: %v", err)
	}
}
