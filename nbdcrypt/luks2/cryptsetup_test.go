package luks2

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keyward/nbdcrypt/blockdev"
)

// image is a formatted image file and its volume key in a file, for foreign tools. Only tests write keys to files.
type image struct {
	path, keyFile string
	rec           Record
}

func newImage(t *testing.T, p Params) image {
	t.Helper()
	if _, err := exec.LookPath("cryptsetup"); err != nil {
		t.Skip("cryptsetup is not installed: apt-get install cryptsetup-bin")
	}
	folder := t.TempDir()
	i := image{path: filepath.Join(folder, "disk"), keyFile: filepath.Join(folder, "key")}
	dev, err := blockdev.CreateFile(i.path, testSize)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	key := keyOf(t, keyLen(p.Cipher, p.KeyBits), 1)
	if i.rec, err = Format(dev, p, key); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(i.keyFile, key.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

func (i image) read(t *testing.T) *Header {
	t.Helper()
	dev, err := blockdev.OpenFile(i.path, blockdev.FileOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	return mustRead(t, dev)
}

func cryptsetup(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command("cryptsetup", append([]string{"--batch-mode", "--disable-locks"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustCryptsetup(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := cryptsetup(t, stdin, args...)
	if err != nil {
		t.Fatalf("cryptsetup %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (i image) testKey(t *testing.T, keyFile string) error {
	t.Helper()
	_, err := cryptsetup(t, "", "open", "--test-passphrase", "--volume-key-file", keyFile,
		"--key-size", fmt.Sprint(8*i.rec.KeyLen()), i.path)
	return err
}

func TestCryptsetup_acceptsTheVolumeAndOnlyItsKey(t *testing.T) {
	t.Parallel()
	for _, cipher := range []string{CipherXTS, CipherESSIV} {
		for _, bits := range []int{128, 192, 256} {
			for _, sector := range []int{512, 4096} {
				p := testParams()
				p.Cipher, p.KeyBits, p.SectorSize = cipher, bits, sector
				acceptedByCryptsetup(t, p)
			}
		}
	}
	// A member of a stripe is a volume like any other.
	p := testParams()
	p.RAID = &RAIDMember{testSet, 1, 2, 65536}
	acceptedByCryptsetup(t, p)
}

func acceptedByCryptsetup(t *testing.T, p Params) {
	t.Helper()
	i := newImage(t, p)
	mustCryptsetup(t, "", "isLuks", "--type", "luks2", i.path)
	dump := mustCryptsetup(t, "", "luksDump", i.path)
	for _, want := range []string{
		i.rec.UUID, i.rec.Cipher, "offset: 16777216 [bytes]", "length: (whole device)", "keyward",
		fmt.Sprintf("sector: %d [bytes]", p.SectorSize), "Hash:       sha256",
	} {
		if !strings.Contains(dump, want) {
			t.Errorf("luksDump does not say %q:\n%s", want, dump)
		}
	}
	if got := strings.TrimSpace(mustCryptsetup(t, "", "luksUUID", i.path)); got != i.rec.UUID {
		t.Errorf("luksUUID says %s", got)
	}
	if token := mustCryptsetup(t, "", "token", "export", "--token-id", "0", i.path); !strings.Contains(token, p.Broker) &&
		!strings.Contains(strings.ReplaceAll(token, `\/`, "/"), p.Broker) {
		t.Errorf("token export: %s", token)
	}
	if err := i.testKey(t, i.keyFile); err != nil {
		t.Errorf("%s, AES-%d, %d-byte sectors: the right key is refused: %v", i.rec.Cipher, p.KeyBits, p.SectorSize, err)
	}
	wrong, err := os.ReadFile(i.keyFile)
	if err != nil {
		t.Fatal(err)
	}
	wrong[0] ^= 1
	wrongFile := filepath.Join(filepath.Dir(i.path), "wrong")
	if err := os.WriteFile(wrongFile, wrong, 0o600); err != nil {
		t.Fatal(err)
	}
	if i.testKey(t, wrongFile) == nil {
		t.Errorf("%s, AES-%d: a key with one bit changed is accepted", i.rec.Cipher, p.KeyBits)
	}
}

// The way out: an owner with the exported key adds a passphrase, and needs neither broker nor agent from then on. The
// agent goes on opening the volume all the same.
func TestCryptsetup_ownerCanAddAPassphrase(t *testing.T) {
	t.Parallel()
	i := newImage(t, testParams())
	passphrase := filepath.Join(filepath.Dir(i.path), "passphrase")
	if err := os.WriteFile(passphrase, []byte("a way out"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustCryptsetup(t, "", "luksAddKey", "--volume-key-file", i.keyFile, "--key-size", "512",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", i.path, passphrase)
	mustCryptsetup(t, "", "open", "--test-passphrase", "--key-file", passphrase, i.path)
	if _, err := cryptsetup(t, "no way out", "open", "--test-passphrase", "--key-file", "-", i.path); err == nil {
		t.Error("a wrong passphrase is accepted")
	}
	h := i.read(t)
	if h.Keyslots != 1 || h.SeqID() < 2 {
		t.Errorf("%d slots, sequence %d", h.Keyslots, h.SeqID())
	}
	if err := errors.Join(h.Verify(i.rec), h.VerifyKey(i.rec, testKey(t, 256, 1))); err != nil {
		t.Errorf("after cryptsetup rewrote the header: %v", err)
	}
	// Damage to cryptsetup's own copy is repaired with the slot in it.
	dev, err := blockdev.OpenFile(i.path, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	flip(t, dev, binarySize+20)
	if err := Repair(dev, mustRead(t, dev)); err != nil {
		t.Fatal(err)
	}
	mustCryptsetup(t, "", "open", "--test-passphrase", "--key-file", passphrase, i.path)
}

func TestCryptsetup_recoversTheHeaderWeWrote(t *testing.T) {
	t.Parallel()
	i := newImage(t, testParams())
	dev, err := blockdev.OpenFile(i.path, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	flip(t, dev, 30)
	dev.Close()
	dump := mustCryptsetup(t, "", "luksDump", i.path) // uses the secondary header
	if !strings.Contains(dump, i.rec.UUID) {
		t.Errorf("luksDump: %s", dump)
	}
	if h := i.read(t); h.Verify(i.rec) != nil {
		t.Error("the header no longer verifies")
	}
}

// Our repair of a primary header is one that cryptsetup takes for its own.
func TestCryptsetup_acceptsARepairedHeader(t *testing.T) {
	t.Parallel()
	for which := range copyOffsets {
		i := newImage(t, testParams())
		dev, err := blockdev.OpenFile(i.path, blockdev.FileOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dev.WriteAt(bytes.Repeat([]byte{0xEE}, HeaderSize), copyOffsets[which]); err != nil {
			t.Fatal(err)
		}
		if err := Repair(dev, mustRead(t, dev)); err != nil {
			t.Fatal(err)
		}
		// Only the repaired copy is left for cryptsetup to read.
		if _, err := dev.WriteAt(make([]byte, HeaderSize), copyOffsets[1-which]); err != nil {
			t.Fatal(err)
		}
		dev.Close()
		if err := i.testKey(t, i.keyFile); err != nil {
			t.Errorf("%s copy: %v", copyNames[which], err)
		}
	}
}

func TestRead_cryptsetupsOwnVolumeIsForeign(t *testing.T) {
	t.Parallel()
	i := newImage(t, testParams())
	mustCryptsetup(t, "secret", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", i.path)
	dev, err := blockdev.OpenFile(i.path, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if _, err := Read(dev); !errors.Is(err, ErrForeign) {
		t.Errorf("error %v, want ErrForeign", err)
	}
	if _, err := Format(dev, testParams(), testKey(t, 256, 1)); !errors.Is(err, ErrHoldsData) || !strings.Contains(err.Error(), "LUKS") {
		t.Errorf("error %v, want ErrHoldsData naming LUKS", err)
	}
}

func TestWipeHeader_cryptsetupFindsNothing(t *testing.T) {
	t.Parallel()
	i := newImage(t, testParams())
	dev, err := blockdev.OpenFile(i.path, blockdev.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := WipeHeader(dev); err != nil {
		t.Fatal(err)
	}
	dev.Close()
	if _, err := cryptsetup(t, "", "isLuks", i.path); err == nil {
		t.Error("cryptsetup still sees a LUKS volume")
	}
	if _, err := cryptsetup(t, "", "repair", i.path); err == nil {
		t.Error("cryptsetup repaired the header from what was left")
	}
}
