package xts

import (
	"bytes"
	"crypto/aes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	oracle "golang.org/x/crypto/xts"

	"keyward/nbdcrypt/internal/sector"
	"keyward/nbdcrypt/internal/sector/sectortest"
)

// subject is every kernel of this processor beside golang.org/x/crypto/xts.
var subject = sectortest.Subject{Kernels: Kernels, New: NewWithKernel, KeyLens: []int{32, 48, 64}, Reference: reference}

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

func TestEncryptSectors_agreesWithXCrypto(t *testing.T) {
	t.Parallel()
	subject.Table(t)
	r := rand.New(rand.NewPCG(1, 2))
	subject.Agree(t, sectortest.Case{Key: sectortest.Bytes(r, 64), Plain: sectortest.Bytes(r, 2*MaxSectorSize), Size: MaxSectorSize, Number: 7, Step: 128})
	subject.Agree(t, sectortest.Case{Key: sectortest.Bytes(r, 64), Size: 512})
}

func TestEncryptSectors_agreesWithOpenSSL(t *testing.T) {
	t.Parallel()
	subject.OpenSSL(t, "xts", 32, 64) // OpenSSL has no XTS with 192 bits
}

func TestEncryptSectors_runsLongerThanOneKernelCall(t *testing.T) {
	t.Parallel()
	subject.LongRuns(t)
}

func FuzzEncryptSectors(f *testing.F) { subject.Fuzz(f) }

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
