package xts

import (
	"bytes"
	"crypto/aes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	oracle "golang.org/x/crypto/xts"

	"keyward/nbdcrypt/internal/sector"
)

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// reference encrypts with golang.org/x/crypto/xts, sector by sector.
func reference(t testing.TB, key, plain []byte, sectorSize int, tweak, step uint64) []byte {
	t.Helper()
	c, err := oracle.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, len(plain))
	for at := 0; at < len(plain); at += sectorSize {
		c.Encrypt(out[at:at+sectorSize], plain[at:at+sectorSize], tweak)
		tweak += step
	}
	return out
}

// agree checks every kernel against the oracle, from buffer to buffer and in place, and that nothing beyond the sectors
// is touched.
func agree(t testing.TB, key, plain []byte, sectorSize int, tweak, step uint64) {
	t.Helper()
	want := reference(t, key, plain, sectorSize, tweak, step)
	for _, kernel := range Kernels() {
		c, err := NewWithKernel(kernel, key)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Wipe()
		const guard = 64
		buf := bytes.Repeat([]byte{0xA5}, len(plain)+guard)
		c.EncryptSectors(buf, plain, sectorSize, tweak, step)
		if !bytes.Equal(buf[:len(plain)], want) {
			t.Fatalf("%s: %d-bit key, %d sectors of %d, tweak %d+%d: ciphertext differs from x/crypto/xts",
				kernel, len(key)*4, len(plain)/sectorSize, sectorSize, tweak, step)
		}
		if !bytes.Equal(buf[len(plain):], bytes.Repeat([]byte{0xA5}, guard)) {
			t.Fatalf("%s: wrote behind the last sector", kernel)
		}
		in := buf[:len(plain)]
		c.DecryptSectors(in, in, sectorSize, tweak, step)
		if !bytes.Equal(in, plain) {
			t.Fatalf("%s: decrypting in place does not give the plaintext back", kernel)
		}
		c.EncryptSectors(in, in, sectorSize, tweak, step)
		if !bytes.Equal(in, want) {
			t.Fatalf("%s: encrypting in place differs", kernel)
		}
	}
}

func TestEncryptSectors_agreesWithXCrypto(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, keyLen := range []int{32, 48, 64} {
		for _, size := range []int{16, 32, 48, 240, 512, 528, 1024, 4096, 65536} {
			for _, sectors := range []int{0, 1, 2, 3, 4, 7, 8, 15, 16, 17, 33} {
				if size*sectors > 600<<10 {
					continue
				}
				for _, tweak := range []uint64{0, 1, 1<<32 - 3, 1<<63 - 2, 1<<64 - 5} {
					if size >= 4096 && tweak > 1 && sectors > 3 {
						continue // the slow oracle; tweaks are covered by small sectors
					}
					agree(t, randomBytes(r, keyLen), randomBytes(r, size*sectors), size, tweak, uint64(1+7*r.IntN(2)))
				}
			}
		}
	}
}

func TestEncryptSectors_runsLongerThanOneKernelCall(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	// 528 does not divide the length of a run: the split must still fall between sectors and the tweak go on.
	for _, size := range []int{512, 528, 4096, 65536} {
		agree(t, randomBytes(r, 64), randomBytes(r, size*((sector.MaxRun+sector.MaxRun/2)/size)), size, 1<<32-1, 8)
	}
}

func TestEncryptSectors_unalignedBuffers(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(5, 6))
	key, plain := randomBytes(r, 64), randomBytes(r, 3*512)
	want := reference(t, key, plain, 512, 9, 1)
	for _, kernel := range Kernels() {
		c, err := NewWithKernel(kernel, key)
		if err != nil {
			t.Fatal(err)
		}
		for shift := range 17 {
			buf := make([]byte, shift+len(plain))
			copy(buf[shift:], plain)
			c.EncryptSectors(buf[shift:], buf[shift:], 512, 9, 1)
			if !bytes.Equal(buf[shift:], want) {
				t.Errorf("%s: wrong at alignment %d", kernel, shift)
			}
		}
		c.Wipe()
	}
}

func FuzzEncryptSectors(f *testing.F) {
	f.Add(uint64(1), uint8(0), uint8(31), uint8(3), uint64(0), uint64(1))
	f.Add(uint64(2), uint8(1), uint8(0), uint8(33), uint64(1<<32-3), uint64(8))
	f.Add(uint64(3), uint8(2), uint8(255), uint8(17), uint64(1<<63-1), uint64(1))
	f.Fuzz(func(t *testing.T, seed uint64, bits, blocks, sectors uint8, tweak, step uint64) {
		r := rand.New(rand.NewPCG(seed, seed))
		key := randomBytes(r, []int{32, 48, 64}[bits%3])
		size := (int(blocks) + 1) * 16
		agree(t, key, randomBytes(r, size*int(sectors%40)), size, tweak, step)
	})
}

func TestNew_refusesBadKeys(t *testing.T) {
	same := append(bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{7}, 32)...)
	for name, key := range map[string][]byte{
		"nil": nil, "16 bytes": make([]byte, 16), "33 bytes": make([]byte, 33), "128 bytes": make([]byte, 128), "equal halves": same,
	} {
		if c, err := New(key); err == nil {
			c.Wipe()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestNewWithKernel_unknownNameListsTheKnown(t *testing.T) {
	if _, err := NewWithKernel("rot13", sector.SelfTestKey(64)); err == nil {
		t.Error("accepted")
	}
}

func TestEncryptSectors_panicsOnMisuseAndTouchesNothing(t *testing.T) {
	c, err := New(sector.SelfTestKey(64))
	if err != nil {
		t.Fatal(err)
	}
	wiped, err := New(sector.SelfTestKey(64))
	if err != nil {
		t.Fatal(err)
	}
	wiped.Wipe()
	wiped.Wipe()
	buf := make([]byte, 2048)
	for name, call := range map[string]func(){
		"wiped":                  func() { wiped.EncryptSectors(buf, buf, 512, 0, 1) },
		"wiped, decrypt":         func() { wiped.DecryptSectors(buf, buf, 512, 0, 1) },
		"sector size 0":          func() { c.EncryptSectors(buf, buf, 0, 0, 1) },
		"negative sector size":   func() { c.EncryptSectors(buf, buf, -16, 0, 1) },
		"sector size 520":        func() { c.EncryptSectors(buf[:520], buf[:520], 520, 0, 1) },
		"sector size 64 KiB+16":  func() { c.EncryptSectors(make([]byte, 65552), make([]byte, 65552), 65552, 0, 1) },
		"half a sector":          func() { c.EncryptSectors(buf, buf[:768], 512, 0, 1) },
		"short output":           func() { c.EncryptSectors(buf[:512], buf[512:2048], 512, 0, 1) },
		"overlap by one sector":  func() { c.EncryptSectors(buf[512:], buf[:1024], 512, 0, 1) },
		"overlap by one byte":    func() { c.EncryptSectors(buf[511:1023], buf[:512], 512, 0, 1) },
		"overlap from the front": func() { c.DecryptSectors(buf[:1024], buf[16:1040], 512, 0, 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			call()
		}()
	}
	if !bytes.Equal(buf, make([]byte, 2048)) {
		t.Error("a refused call wrote")
	}
	c.Wipe()
}

func TestCipher_concurrentUse(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	key, plain := randomBytes(r, 64), randomBytes(r, 16*512)
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
}

// brokenKernel flips one bit of the last block, as a faulty batch path would.
type brokenKernel struct{ generic }
type brokenSchedule struct{ sector.Schedule }

func (brokenKernel) Expand(mem, key []byte) (sector.Schedule, error) {
	s, err := generic{}.Expand(mem, key)
	return brokenSchedule{s}, err
}

func (s brokenSchedule) Encrypt(dst, src []byte, sectorSize int, tweak, step uint64) {
	s.Schedule.Encrypt(dst, src, sectorSize, tweak, step)
	dst[len(dst)-1] ^= 1
}

func TestSelfTest_noticesABrokenKernel(t *testing.T) {
	if err := sector.SelfTest(brokenKernel{}, knownAnswers); err == nil {
		t.Error("a kernel that flips a bit passed")
	}
	if err := SelfTest(); err != nil {
		t.Error(err)
	}
}

func BenchmarkEncryptSectors(b *testing.B) {
	for _, kernel := range Kernels() {
		for _, bits := range []int{128, 256} {
			for _, size := range []int{512, 4096} {
				b.Run(fmt.Sprintf("%s/AES-%d/%d", kernel, bits, size), func(b *testing.B) {
					c, err := NewWithKernel(kernel, sector.SelfTestKey(bits/4))
					if err != nil {
						b.Fatal(err)
					}
					defer c.Wipe()
					buf := make([]byte, 64<<10)
					b.SetBytes(int64(len(buf)))
					b.ReportAllocs()
					for b.Loop() {
						c.EncryptSectors(buf, buf, size, 0, uint64(size/512))
					}
				})
			}
		}
	}
}
