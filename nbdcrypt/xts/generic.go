package xts

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"reflect"
	"sync"
	"unsafe"
)

// generic is the kernel for every processor: the standard library's AES (constant time where the processor has AES
// instructions), one block at a time.
type generic struct{}

// blockRoom is the room for one schedule of the standard library (488 bytes in Go 1.26), aligned to 64.
const blockRoom = 512

func (generic) name() string      { return "generic" }
func (generic) available() bool   { return true }
func (generic) scheduleSize() int { return 2 * blockRoom }

func (generic) expand(mem, dataKey, tweakKey []byte) (schedule, error) {
	data, err := blockIn(mem[:blockRoom], dataKey)
	if err != nil {
		return nil, err
	}
	tweak, err := blockIn(mem[blockRoom:2*blockRoom], tweakKey)
	if err != nil {
		return nil, err
	}
	return &genericSchedule{data, tweak}, nil
}

// blockIn makes an AES block cipher whose state lies in mem. The standard library offers no way to place or to wipe a
// schedule, and its first round keys are the raw key: so the state is moved out of the heap object, which is zeroed.
// That is sound only while the state is plain numbers, which is checked each time.
func blockIn(mem, key []byte) (cipher.Block, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	state := reflect.ValueOf(block)
	if state.Kind() != reflect.Pointer || !plain(state.Type().Elem()) || state.Type().Elem().Size() > uintptr(len(mem)) {
		return nil, fmt.Errorf("crypto/aes of this Go release keeps its keys as %T, which cannot be moved to protected memory; "+
			"build with the Go release that go.mod names and without GOEXPERIMENT=boringcrypto", block)
	}
	kind := state.Type().Elem()
	onHeap := unsafe.Slice((*byte)(state.UnsafePointer()), kind.Size())
	copy(mem, onHeap)
	clear(onHeap)
	return reflect.NewAt(kind, unsafe.Pointer(&mem[0])).Interface().(cipher.Block), nil
}

// plain reports whether values of t are numbers and nothing that points anywhere.
func plain(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			if !plain(t.Field(i).Type) {
				return false
			}
		}
		return true
	case reflect.Array:
		return plain(t.Elem())
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return false
}

type genericSchedule struct {
	data, tweak cipher.Block
}

// tweaks are pooled because a buffer passed through cipher.Block escapes to the heap.
var tweaks = sync.Pool{New: func() any { return new([BlockSize]byte) }}

func (s *genericSchedule) encrypt(dst, src []byte, sectorSize int, tweak, step uint64) {
	s.sectors(dst, src, sectorSize, tweak, step, s.data.Encrypt)
}

func (s *genericSchedule) decrypt(dst, src []byte, sectorSize int, tweak, step uint64) {
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
