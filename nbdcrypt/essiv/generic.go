package essiv

import (
	"crypto/cipher"
	"crypto/subtle"
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
	data, err := aeskey.BlockIn(mem[:aeskey.BlockRoom], key)
	if err != nil {
		return nil, err
	}
	s := &genericSchedule{data: data}
	err = withIVKey(key, func(ivKey []byte) error {
		s.iv, err = aeskey.BlockIn(mem[aeskey.BlockRoom:2*aeskey.BlockRoom], ivKey)
		return err
	})
	return s, err
}

type genericSchedule struct {
	data, iv cipher.Block
}

// chain is what a sector needs beside its data. It is pooled because a buffer passed through cipher.Block escapes.
type chain struct {
	before, saved [sector.BlockSize]byte
}

var chains = sync.Pool{New: func() any { return new(chain) }}

// start puts the IV of a sector into c.before.
func (s *genericSchedule) start(c *chain, number uint64) {
	c.before = [sector.BlockSize]byte{}
	binary.LittleEndian.PutUint64(c.before[:], number)
	s.iv.Encrypt(c.before[:], c.before[:])
}

func (s *genericSchedule) Encrypt(dst, src []byte, sectorSize int, number, step uint64) {
	c := chains.Get().(*chain)
	defer chains.Put(c)
	for at := 0; at < len(src); at += sectorSize {
		s.start(c, number)
		before := c.before[:]
		for i := at; i < at+sectorSize; i += sector.BlockSize {
			d := dst[i : i+sector.BlockSize : i+sector.BlockSize]
			subtle.XORBytes(d, src[i:i+sector.BlockSize], before)
			s.data.Encrypt(d, d)
			before = d
		}
		number += step
	}
}

func (s *genericSchedule) Decrypt(dst, src []byte, sectorSize int, number, step uint64) {
	c := chains.Get().(*chain)
	defer chains.Put(c)
	for at := 0; at < len(src); at += sectorSize {
		s.start(c, number)
		for i := at; i < at+sectorSize; i += sector.BlockSize {
			d := dst[i : i+sector.BlockSize : i+sector.BlockSize]
			copy(c.saved[:], src[i:]) // in place, decrypting overwrites what the next block is chained to
			s.data.Decrypt(d, c.saved[:])
			subtle.XORBytes(d, d, c.before[:])
			c.before = c.saved
		}
		number += step
	}
}
