package sectortest

import (
	"math/rand/v2"
	"sync"
	"testing"

	"keyward/nbdcrypt/internal/sector"
)

// Keys of a fuzz run, each expanded once per kernel: protected memory is scarce, and getting it is slower than a case.
const fuzzKeys = 32

// fuzzRoom bounds the bytes of one case, because references are slow.
const fuzzRoom = 64 << 10

type fuzzKey struct {
	kernel string
	keyLen int
	number uint8
}

// Fuzz compares every kernel with the reference: 1 to 65 sectors of 16 to 4096 bytes, at any number or around an edge,
// in any step, at any alignment. Content and key come from seed.
func (s Subject) Fuzz(f *testing.F) {
	//   seed       key      size     sectors   edge     number     step       shift
	f.Add(uint64(1), uint8(0), uint8(31), uint8(3), uint8(0), uint64(0), uint64(1), uint8(0))
	f.Add(uint64(2), uint8(1), uint8(0), uint8(33), uint8(1), ^uint64(7), uint64(8), uint8(1))
	f.Add(uint64(3), uint8(2), uint8(255), uint8(15), uint8(2), ^uint64(3), uint64(1), uint8(15))
	f.Add(uint64(4), uint8(5), uint8(32), uint8(64), uint8(3), uint64(0), uint64(1)<<63, uint8(63))
	f.Add(uint64(5), uint8(9), uint8(31), uint8(15), uint8(0), ^uint64(15), uint64(1), uint8(8))
	var mu sync.Mutex
	ciphers := map[fuzzKey]*sector.Cipher{}
	f.Cleanup(func() {
		for _, c := range ciphers {
			c.Wipe()
		}
	})
	f.Fuzz(func(t *testing.T, seed uint64, which, blocks, sectors, edge uint8, number, step uint64, shift uint8) {
		keyLen := s.KeyLens[int(which)%len(s.KeyLens)]
		id := uint8(int(which) / len(s.KeyLens) % fuzzKeys)
		r := rand.New(rand.NewPCG(seed, 1))
		c := Case{Key: Bytes(rand.New(rand.NewPCG(uint64(keyLen), uint64(id))), keyLen),
			Size: 16 * (1 + int(blocks)), Number: edges[int(edge)%len(edges)] + number, Step: step, Shift: int(shift % 64)}
		c.Plain = Bytes(r, c.Size*min(1+int(sectors%65), max(1, fuzzRoom/c.Size)))
		want := s.Reference(t, c.Key, c.Plain, c.Size, c.Number, c.Step)
		mu.Lock()
		defer mu.Unlock()
		for _, kernel := range s.Kernels() {
			at := fuzzKey{kernel, keyLen, id}
			k := ciphers[at]
			if k == nil {
				var err error
				if k, err = s.New(kernel, c.Key); err != nil {
					t.Fatal(err)
				}
				ciphers[at] = k
			}
			compare(t, kernel, k, c, want)
		}
	})
}
