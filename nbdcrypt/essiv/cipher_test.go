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
	"sync"
	"testing"

	"keyward/nbdcrypt/internal/sector"
)

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

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

// agree checks every kernel against the oracle, from buffer to buffer (shift bytes off any alignment) and in place, and
// that nothing beyond the sectors is touched.
func agree(t testing.TB, key, plain []byte, sectorSize int, number, step uint64, shift int) {
	t.Helper()
	want := reference(t, key, plain, sectorSize, number, step)
	for _, kernel := range Kernels() {
		c, err := NewWithKernel(kernel, key)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Wipe()
		const guard = 64
		room := bytes.Repeat([]byte{0xA5}, shift+len(plain)+guard)
		buf := room[shift:]
		c.EncryptSectors(buf, plain, sectorSize, number, step)
		in := buf[:len(plain)]
		if !bytes.Equal(in, want) {
			t.Fatalf("%s: %d-bit key, %d sectors of %d, number %d+%d: ciphertext differs from crypto/cipher",
				kernel, len(key)*8, len(plain)/sectorSize, sectorSize, number, step)
		}
		out := bytes.Repeat([]byte{0x5A}, len(plain)+guard)
		c.DecryptSectors(out, in, sectorSize, number, step)
		if !bytes.Equal(out[:len(plain)], plain) {
			t.Fatalf("%s: %d-bit key, %d sectors of %d: decrypting does not give the plaintext back",
				kernel, len(key)*8, len(plain)/sectorSize, sectorSize)
		}
		c.DecryptSectors(in, in, sectorSize, number, step)
		if !bytes.Equal(in, plain) {
			t.Fatalf("%s: %d-bit key, %d sectors of %d: decrypting in place does not give the plaintext back",
				kernel, len(key)*8, len(plain)/sectorSize, sectorSize)
		}
		c.EncryptSectors(in, in, sectorSize, number, step)
		if !bytes.Equal(in, want) {
			t.Fatalf("%s: encrypting in place differs", kernel)
		}
		if !bytes.Equal(room[:shift], bytes.Repeat([]byte{0xA5}, shift)) ||
			!bytes.Equal(buf[len(plain):], bytes.Repeat([]byte{0xA5}, guard)) ||
			!bytes.Equal(out[len(plain):], bytes.Repeat([]byte{0x5A}, guard)) {
			t.Fatalf("%s: wrote outside the sectors", kernel)
		}
	}
}

func TestEncryptSectors_agreesWithCryptoCipher(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, keyLen := range []int{16, 24, 32} {
		for _, size := range []int{16, 32, 48, 64, 240, 256, 512, 528, 1024, 4096} {
			for sectors := range 36 {
				number := []uint64{0, 1<<32 - 3, 1<<63 - 2, 1<<64 - 5}[sectors%4]
				agree(t, randomBytes(r, keyLen), randomBytes(r, size*sectors), size, number, uint64(1+7*r.IntN(2)), r.IntN(17))
			}
		}
		for _, sectors := range []int{63, 64, 65} {
			agree(t, randomBytes(r, keyLen), randomBytes(r, 512*sectors), 512, 1<<32-20, 1, 1)
		}
		agree(t, randomBytes(r, keyLen), randomBytes(r, 2*sector.MaxSize), sector.MaxSize, 7, 8, 0)
	}
}

func TestEncryptSectors_runsLongerThanOneKernelCall(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	// 528 does not divide the length of a run: the split must still fall between sectors and the numbers go on.
	for _, size := range []int{512, 528, 4096, 65536} {
		agree(t, randomBytes(r, 32), randomBytes(r, size*((sector.MaxRun+sector.MaxRun/2)/size)), size, 1<<32-1, 8, 0)
	}
}

func TestWithIVKey_isSHA256(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	for n := range 56 {
		key := randomBytes(r, n)
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
	r := rand.New(rand.NewPCG(7, 8))
	key, plain := randomBytes(r, 32), randomBytes(r, 16*512)
	want := reference(t, key, plain, 512, 5, 1)
	for _, kernel := range Kernels() {
		c, err := NewWithKernel(kernel, key)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				buf := make([]byte, len(plain))
				for range 20 {
					c.EncryptSectors(buf, plain, 512, 5, 1)
					if !bytes.Equal(buf, want) {
						t.Errorf("%s: wrong under concurrency", kernel)
						return
					}
					c.DecryptSectors(buf, buf, 512, 5, 1)
					if !bytes.Equal(buf, plain) {
						t.Errorf("%s: decrypts wrongly under concurrency", kernel)
						return
					}
				}
			})
		}
		wg.Wait()
		c.Wipe()
	}
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
