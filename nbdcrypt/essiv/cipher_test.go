package essiv

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"keyward/nbdcrypt/internal/sector"
	"keyward/nbdcrypt/internal/sector/sectortest"
)

// subject is every kernel of this processor beside crypto/cipher.
var subject = sectortest.Subject{Kernels: Kernels, New: NewWithKernel, KeyLens: []int{16, 24, 32}, Reference: reference}

// reference encrypts with crypto/cipher's CBC, sector by sector, the IV made as the paper says.
func reference(t testing.TB, key, plain []byte, sectorSize int, number, step uint64) []byte {
	t.Helper()
	salt := sha256.Sum256(key)
	ivs, err := aes.NewCipher(salt[:])
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, len(plain))
	for at := 0; at < len(plain); at += sectorSize {
		var iv [16]byte
		binary.LittleEndian.PutUint64(iv[:], number)
		ivs.Encrypt(iv[:], iv[:])
		cipher.NewCBCEncrypter(block, iv[:]).CryptBlocks(out[at:at+sectorSize], plain[at:at+sectorSize])
		number += step
	}
	return out
}

func TestEncryptSectors_agreesWithCryptoCipher(t *testing.T) {
	t.Parallel()
	subject.Table(t)
	r := rand.New(rand.NewPCG(1, 2))
	subject.Agree(t, sectortest.Case{Key: sectortest.Bytes(r, 32), Plain: sectortest.Bytes(r, 2*sector.MaxSize), Size: sector.MaxSize, Number: 7, Step: 128})
	subject.Agree(t, sectortest.Case{Key: sectortest.Bytes(r, 32), Size: 512})
}

func TestEncryptSectors_agreesWithOpenSSL(t *testing.T) {
	t.Parallel()
	subject.OpenSSL(t, "essiv", 16, 24, 32)
}

func TestEncryptSectors_runsLongerThanOneKernelCall(t *testing.T) {
	t.Parallel()
	subject.LongRuns(t)
}

func FuzzEncryptSectors(f *testing.F) { subject.Fuzz(f) }

func TestWithIVKey_isSHA256(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	for n := range 56 {
		key := sectortest.Bytes(r, n)
		want := sha256.Sum256(key)
		if err := withIVKey(key, func(got []byte) error {
			if !bytes.Equal(got, want[:]) {
				t.Errorf("of %d bytes: %x", n, got)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if err := withIVKey(make([]byte, 56), func([]byte) error { return nil }); err == nil {
		t.Error("hashed more than one block")
	}
}

func TestNew_refusesBadKeys(t *testing.T) {
	for _, n := range []int{0, 1, 15, 17, 33, 48, 64} {
		if c, err := New(make([]byte, n)); err == nil {
			c.Wipe()
			t.Errorf("key of %d bytes accepted", n)
		}
	}
	if _, err := NewWithKernel("rot13", make([]byte, 16)); err == nil {
		t.Error("unknown kernel accepted")
	}
}

func TestCipher_wipedOneEncryptsNothing(t *testing.T) {
	for _, kernel := range Kernels() {
		c, err := NewWithKernel(kernel, sector.SelfTestKey(32))
		if err != nil {
			t.Fatal(err)
		}
		c.Wipe()
		buf := make([]byte, 512)
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", kernel)
				}
			}()
			c.EncryptSectors(buf, buf, 512, 0, 1)
		}()
		if !bytes.Equal(buf, make([]byte, 512)) {
			t.Errorf("%s: wrote with a wiped key", kernel)
		}
	}
}

func TestCipher_concurrentUse(t *testing.T) {
	t.Parallel()
	subject.Concurrent(t)
}

func TestSelfTest_everyKernelPassesAndDigestsAreTheOraclesOwn(t *testing.T) {
	t.Parallel()
	for _, k := range registry.Usable() {
		if err := sector.SelfTest(k, knownAnswers); err != nil {
			t.Error(err)
		}
	}
	for _, ka := range knownAnswers {
		sum := sha256.Sum256(reference(t, sector.SelfTestKey(ka.KeyLen), sector.SelfTestInput(), sector.SelfTestSize, sector.SelfTestTweak, 8))
		if got := hex.EncodeToString(sum[:]); got != ka.Digest {
			t.Errorf("%s: the oracle says %s", ka.Label, got)
		}
	}
	if err := SelfTest(); err != nil {
		t.Error(err)
	}
}

func BenchmarkSectors(b *testing.B) {
	for _, kernel := range Kernels() {
		for _, bits := range []int{128, 256} {
			for _, size := range []int{512, 4096} {
				c, err := NewWithKernel(kernel, sector.SelfTestKey(bits/8))
				if err != nil {
					b.Fatal(err)
				}
				for op, run := range map[string]func(dst, src []byte, size int, number, step uint64){
					"encrypt": c.EncryptSectors, "decrypt": c.DecryptSectors} {
					b.Run(fmt.Sprintf("%s/AES-%d/%s/%d", kernel, bits, op, size), func(b *testing.B) {
						buf := make([]byte, 64<<10)
						b.SetBytes(int64(len(buf)))
						b.ReportAllocs()
						for b.Loop() {
							run(buf, buf, size, 0, uint64(size/512))
						}
					})
				}
				c.Wipe()
			}
		}
	}
}
