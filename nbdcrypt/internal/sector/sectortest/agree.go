// Package sectortest drives every kernel of a sector cipher beside an oracle: a reference of other authors, and OpenSSL.
package sectortest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"keyward/nbdcrypt/internal/sector"
)

// Subject is a cipher under test.
type Subject struct {
	// Kernels lists the names that New takes.
	Kernels func() []string
	New     func(kernel string, key []byte) (*sector.Cipher, error)
	// KeyLens are the lengths of its keys in bytes.
	KeyLens []int
	// Reference encrypts sector by sector with code that is not ours.
	Reference func(t testing.TB, key, plain []byte, size int, number, step uint64) []byte
}

// Case is one call of a cipher.
type Case struct {
	Key, Plain   []byte
	Size         int // bytes of a sector
	Number, Step uint64
	// Shift is how many bytes off any alignment the buffers lie.
	Shift int
}

func (c Case) String() string {
	return fmt.Sprintf("key of %d bytes, %d sectors of %d, number %d in steps of %d, %d bytes off",
		len(c.Key), len(c.Plain)/c.Size, c.Size, c.Number, c.Step, c.Shift)
}

// Bytes are n pseudorandom bytes.
func Bytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	i := 0
	for ; i+8 <= n; i += 8 {
		v := r.Uint64()
		for k := range 8 {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	for ; i < n; i++ {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Agree checks every kernel against the reference, from buffer to buffer and in place, and that nothing beyond the
// sectors is touched.
func (s Subject) Agree(t testing.TB, c Case) {
	t.Helper()
	want := s.Reference(t, c.Key, c.Plain, c.Size, c.Number, c.Step)
	s.each(t, c.Key, func(kernel string, k *sector.Cipher) {
		compare(t, kernel, k, c, want)
	})
}

// each runs do for every kernel with the key expanded.
func (s Subject) each(t testing.TB, key []byte, do func(kernel string, k *sector.Cipher)) {
	t.Helper()
	for _, kernel := range s.Kernels() {
		k, err := s.New(kernel, key)
		if err != nil {
			t.Fatal(err)
		}
		do(kernel, k)
		k.Wipe()
	}
}

const guard = 64

// room is a buffer for n bytes that lie shift bytes off any alignment, and guards on both sides.
func room(shift, n int, fill byte) (all, inner []byte) {
	all = bytes.Repeat([]byte{fill}, guard+shift+n+guard)
	return all, all[guard+shift : guard+shift+n]
}

// untouched reports whether the guards still hold fill.
func untouched(all []byte, shift int, fill byte) bool {
	for _, part := range [][]byte{all[:guard+shift], all[len(all)-guard:]} {
		for _, b := range part {
			if b != fill {
				return false
			}
		}
	}
	return true
}

func compare(t testing.TB, kernel string, k *sector.Cipher, c Case, want []byte) {
	t.Helper()
	allA, a := room(c.Shift, len(c.Plain), 0xA5)
	allB, b := room((c.Shift+5)%64, len(c.Plain), 0x5A)
	k.EncryptSectors(a, c.Plain, c.Size, c.Number, c.Step)
	if !bytes.Equal(a, want) {
		t.Fatalf("%s: %s: ciphertext differs from the reference", kernel, c)
	}
	k.DecryptSectors(b, a, c.Size, c.Number, c.Step)
	if !bytes.Equal(b, c.Plain) {
		t.Fatalf("%s: %s: decrypting does not give the plaintext back", kernel, c)
	}
	k.DecryptSectors(a, a, c.Size, c.Number, c.Step)
	if !bytes.Equal(a, c.Plain) {
		t.Fatalf("%s: %s: decrypting in place differs", kernel, c)
	}
	k.EncryptSectors(b, b, c.Size, c.Number, c.Step)
	if !bytes.Equal(b, want) {
		t.Fatalf("%s: %s: encrypting in place differs", kernel, c)
	}
	if !untouched(allA, c.Shift, 0xA5) || !untouched(allB, (c.Shift+5)%64, 0x5A) {
		t.Fatalf("%s: %s: wrote outside the sectors", kernel, c)
	}
}

// edges are numbers around which arithmetic of too few bits would go wrong.
var edges = []uint64{0, 1 << 32, 1 << 63, 1<<63 + 1<<32}

// Table compares 1 to 65 sectors of many sizes, at every edge, at every alignment; less of them in short mode, for
// emulated processors.
func (s Subject) Table(t *testing.T) {
	t.Helper()
	for _, keyLen := range s.KeyLens {
		for _, size := range []int{16, 48, 240, 512, 528, 1024, 2064, 4096} {
			s.rows(t, keyLen, size)
		}
	}
}

// rows are the cases of one key and one sector size.
func (s Subject) rows(t *testing.T, keyLen, size int) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(keyLen), uint64(size)))
	key := Bytes(r, keyLen)
	var cases []Case
	var wants [][]byte
	for sectors := 1; sectors <= 65; sectors++ {
		if sectors > 18 && sectors < 63 && (size > 2048 || testing.Short()) {
			continue // a slow reference; kernels work in batches of at most 16
		}
		step := []uint64{1, 8}[sectors%2]
		// The edge lies in the midst of the run. Under 0 it is the wrap at 2^64.
		number := edges[sectors%len(edges)] - uint64(sectors/2)*step
		c := Case{key, Bytes(r, size*sectors), size, number, step, sectors % 33}
		cases = append(cases, c)
		wants = append(wants, s.Reference(t, key, c.Plain, size, number, step))
	}
	s.each(t, key, func(kernel string, k *sector.Cipher) {
		for i, c := range cases {
			compare(t, kernel, k, c, wants[i])
		}
	})
}

// LongRuns compares runs that are split over several calls of a kernel. 528 does not divide the length of a run: the
// split must still fall between sectors and the numbers go on.
func (s Subject) LongRuns(t *testing.T) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	for _, size := range []int{512, 528, 4096, 65536} {
		key := Bytes(r, s.KeyLens[len(s.KeyLens)-1])
		s.Agree(t, Case{key, Bytes(r, size*((sector.MaxRun+sector.MaxRun/2)/size)), size, 1<<32 - 1, 8, 0})
	}
}

// Concurrent uses one cipher from many goroutines.
func (s Subject) Concurrent(t *testing.T) {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 8))
	key, plain := Bytes(r, s.KeyLens[0]), Bytes(r, 17*512)
	want := s.Reference(t, key, plain, 512, 5, 1)
	s.each(t, key, func(kernel string, c *sector.Cipher) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				buf := bytes.Clone(plain)
				for range 20 {
					c.EncryptSectors(buf, buf, 512, 5, 1)
					if !bytes.Equal(buf, want) {
						t.Errorf("%s: wrong under concurrency", kernel)
						return
					}
					c.DecryptSectors(buf, buf, 512, 5, 1)
				}
				if !bytes.Equal(buf, plain) {
					t.Errorf("%s: decrypts wrongly under concurrency", kernel)
				}
			})
		}
		wg.Wait()
	})
}
