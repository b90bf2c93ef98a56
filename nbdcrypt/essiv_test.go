package nbdcrypt

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// essivKey is a volume key of AES-CBC-ESSIV: the first half of what XTS would get.
func essivKey(t testing.TB, bits int, seed uint64) *keymem.Key {
	t.Helper()
	key, err := keymem.FromBytes(rawKey(bits, seed)[:bits/8])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return key
}

// freshESSIV is a formatted memory device with an opened volume of AES-CBC-ESSIV.
func freshESSIV(t testing.TB, bits, sector int) (*blockdev.Memory, luks2.Record, *Volume) {
	t.Helper()
	dev := blockdev.NewMemory(luks2.DataOffset + payload)
	p := luks2.Params{Device: "dev", Account: "acc", Broker: "broker", Cipher: luks2.CipherESSIV, KeyBits: bits, SectorSize: sector}
	rec, err := luks2.Format(dev, p, essivKey(t, bits, 1))
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(dev, rec, essivKey(t, bits, 1), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return dev, rec, v
}

// essivIV is the IV of the sector at byte off: dm-crypt counts units of 512 bytes whatever the sector size.
func essivIV(t testing.TB, key []byte, off int) []byte {
	t.Helper()
	salt := sha256.Sum256(key)
	block, err := aes.NewCipher(salt[:])
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 16)
	binary.LittleEndian.PutUint64(iv, uint64(off/512))
	block.Encrypt(iv, iv)
	return iv
}

func TestVolume_essivDiskHoldsWhatTheOracleSays(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{128, 192, 256} {
		for _, sector := range []int{512, 4096} {
			dev, _, v := freshESSIV(t, bits, sector)
			plain := make([]byte, payload)
			r := rand.New(rand.NewPCG(1, 1))
			for i := range plain {
				plain[i] = byte(r.Uint32())
			}
			if n, err := v.WriteAt(plain, 0); n != payload || err != nil {
				t.Fatalf("wrote %d: %v", n, err)
			}
			key := rawKey(bits, 1)[:bits/8]
			block, err := aes.NewCipher(key)
			if err != nil {
				t.Fatal(err)
			}
			disk := dev.Snapshot()[luks2.DataOffset:]
			for off := 0; off < payload; off += sector {
				cipher.NewCBCDecrypter(block, essivIV(t, key, off)).CryptBlocks(disk[off:off+sector], disk[off:off+sector])
			}
			if !bytes.Equal(disk, plain) {
				t.Errorf("AES-%d, %d-byte sectors: the oracle decrypts something else", bits, sector)
			}
			back := make([]byte, 10_000)
			if _, err := v.ReadAt(back, 77); err != nil || !bytes.Equal(back, plain[77:10_077]) {
				t.Errorf("AES-%d, %d-byte sectors: reads differently: %v", bits, sector, err)
			}
		}
	}
}

// decryptCBC is what a reader of the documentation would write: AES-CBC by OpenSSL, no code of ours.
const decryptCBC = `
import sys, hashlib
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
key, number, sector = bytes.fromhex(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
e = Cipher(algorithms.AES(hashlib.sha256(key).digest()), modes.ECB()).encryptor()
iv = e.update(number.to_bytes(16, "little")) + e.finalize()
d = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
sys.stdout.buffer.write(d.update(sector) + d.finalize())
`

func TestVolume_opensslDecryptsESSIV(t *testing.T) {
	t.Parallel()
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import cryptography").Run(); err != nil {
		t.Skip("no python3 with OpenSSL's ciphers: apt-get install python3-cryptography")
	}
	for _, bits := range []int{128, 192, 256} {
		for _, sector := range []int{512, 4096} {
			dev, _, v := freshESSIV(t, bits, sector)
			plain := bytes.Repeat([]byte(goldenText), sector)[:3*sector]
			const first = 5
			if _, err := v.WriteAt(plain, int64(first*sector)); err != nil {
				t.Fatal(err)
			}
			disk := dev.Snapshot()[luks2.DataOffset:]
			for n := first; n < first+3; n++ {
				out, err := exec.Command(python, "-c", decryptCBC, hexOf(rawKey(bits, 1)[:bits/8]), fmt.Sprint(n*sector/512),
					hexOf(disk[n*sector:(n+1)*sector])).Output()
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out, plain[(n-first)*sector:(n-first+1)*sector]) {
					t.Errorf("AES-%d, %d-byte sector %d: OpenSSL decrypts it to something else", bits, sector, n)
				}
			}
		}
	}
}

// The cipher comes from the record: a disk that claims another one is refused, and so is a record that names another
// than the disk, whatever the key.
func TestOpen_cipherNeverComesFromTheDisk(t *testing.T) {
	t.Parallel()
	dev, rec, _ := freshESSIV(t, 256, 4096)
	for _, cipher := range []string{luks2.CipherXTS, "cipher_null-ecb", "aes-cbc-plain64", ""} {
		changed := rec
		changed.Cipher = cipher
		for _, key := range []*keymem.Key{essivKey(t, 256, 1), newKey(t, 256, 1)} {
			v, err := Open(dev, changed, key, Options{})
			if err == nil {
				v.Close()
				t.Errorf("opened as %q", cipher)
			} else if !strings.Contains(err.Error(), "cipher") {
				t.Errorf("as %q: %v", cipher, err)
			}
		}
	}
	if _, err := Open(dev, rec, newKey(t, 256, 1), Options{}); !errors.Is(err, luks2.ErrWrongKey) {
		t.Errorf("with a key of the length of XTS: %v", err)
	}
}

func TestVolume_essivSuspendAndResume(t *testing.T) {
	t.Parallel()
	_, _, v := freshESSIV(t, 192, 512)
	if _, err := v.WriteAt([]byte("before"), 1000); err != nil {
		t.Fatal(err)
	}
	if v.Kernel() == "" || v.Protection() == "" {
		t.Error("an open volume names neither kernel nor protection")
	}
	if err := v.Suspend(); err != nil {
		t.Fatal(err)
	}
	if err := v.Resume(essivKey(t, 192, 2)); !errors.Is(err, luks2.ErrWrongKey) {
		t.Errorf("resumed with another key: %v", err)
	}
	if err := v.Resume(essivKey(t, 192, 1)); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, 6)
	if _, err := v.ReadAt(back, 1000); err != nil || string(back) != "before" {
		t.Errorf("read %q: %v", back, err)
	}
}
