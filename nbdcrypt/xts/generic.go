package xts

import (
	"crypto/cipher"
	"encoding/binary"
	"sync"

	"keyward/nbdcrypt/internal/aeskey"
	"keyward/nbdcrypt/internal/sector"
)

// generic is the kernel for every processor: the standard library's AES (constant time where the processor has AES
// instructions), one block at a time.
type generic struct{}

func (generic) Name() string      { return "generic" }
func (generic) Available() bool   { return true }
func (generic) ScheduleSize() int { return 2 * aeskey.BlockRoom }

func (generic) Expand(mem, key []byte) (sector.Schedule, error) {
	half := len(key) / 2
	data, err := aeskey.BlockIn(mem[:aeskey.BlockRoom], key[:half])
	if err != nil {
		return nil, err
	}
	tweak, err := aeskey.BlockIn(mem[aeskey.BlockRoom:2*aeskey.BlockRoom], key[half:])
	if err != nil {
		return nil, err
	}
	return &genericSchedule{data, tweak}, nil
}

type genericSchedule struct {
	data, tweak cipher.Block
}

// tweaks are pooled because a buffer passed through cipher.Block escapes to the heap.
var tweaks = sync.Pool{New: func() any { return new([BlockSize]byte) }}

func (s *genericSchedule) Encrypt(dst, src []byte, sectorSize int, tweak, step uint64) {
	s.sectors(dst, src, sectorSize, tweak, step, s.data.Encrypt)
}

func (s *genericSchedule) Decrypt(dst, src []byte, sectorSize int, tweak, step uint64) {
	s.sectors(dst, src, sectorSize, tweak, step, s.data.Decrypt)
}

func (s *genericSchedule) sectors(dst, src []byte, sectorSize int, tweak, step uint64, aes func(dst, src []byte)) {
	t := tweaks.Get().(*[BlockSize]byte)
	defer tweaks.Put(t)
	le := binary.LittleEndian
	for at := 0; at < len(src); at += sectorSize {
		le.PutUint64(t[:8], tweak)
		le.PutUint64(t[8:], 0)
		s.tweak.Encrypt(t[:], t[:])
		lo, hi := le.Uint64(t[:8]), le.Uint64(t[8:])
		for i := at; i < at+sectorSize; i += BlockSize {
			d, p := dst[i:i+BlockSize:i+BlockSize], src[i:i+BlockSize:i+BlockSize]
			le.PutUint64(d[:8], le.Uint64(p[:8])^lo)
			le.PutUint64(d[8:], le.Uint64(p[8:])^hi)
			aes(d, d)
			le.PutUint64(d[:8], le.Uint64(d[:8])^lo)
			le.PutUint64(d[8:], le.Uint64(d[8:])^hi)
			// Multiply by x in GF(2^128) modulo x^128 + x^7 + x^2 + x + 1 (IEEE 1619, 5.2), in constant time.
			lo, hi = lo<<1^(0x87&-(hi>>63)), hi<<1|lo>>63
		}
		tweak += step
	}
}
