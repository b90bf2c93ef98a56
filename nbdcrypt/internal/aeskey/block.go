// Package aeskey expands AES keys (FIPS 197) into memory that the caller chose, and leaves no copy anywhere else.
package aeskey

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"reflect"
	"unsafe"
)

// BlockRoom is the room in bytes for one schedule of the standard library (488 bytes in Go 1.26), aligned to 64.
const BlockRoom = 512

// BlockIn makes an AES block cipher whose state lies in mem, of at least BlockRoom bytes. The standard library offers
// no way to place or to wipe a schedule, and its first round keys are the raw key: so the state is moved out of the
// heap object, which is zeroed. That is sound only while the state is plain numbers, which is checked each time.
func BlockIn(mem, key []byte) (cipher.Block, error) {
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
