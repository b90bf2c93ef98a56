package aeskey

import (
	"bytes"
	"crypto/aes"
	"testing"
)

func TestBlockIn_isAESInTheMemoryGiven(t *testing.T) {
	for _, n := range []int{16, 24, 32} {
		mem, key := make([]byte, BlockRoom), bytes.Repeat([]byte{0x3c, byte(n)}, n/2)
		block, err := BlockIn(mem, key)
		if err != nil {
			t.Fatal(err)
		}
		want, err := aes.NewCipher(key)
		if err != nil {
			t.Fatal(err)
		}
		plain, a, b := []byte("sixteen bytes ok"), make([]byte, 16), make([]byte, 16)
		block.Encrypt(a, plain)
		want.Encrypt(b, plain)
		if !bytes.Equal(a, b) {
			t.Errorf("AES-%d: %x, want %x", 8*n, a, b)
		}
		clear(mem)
		block.Encrypt(a, plain)
		if bytes.Equal(a, b) {
			t.Errorf("AES-%d works on after its memory was cleared: a key is elsewhere", 8*n)
		}
	}
	if _, err := BlockIn(make([]byte, BlockRoom), make([]byte, 17)); err == nil {
		t.Error("a key of 17 bytes was accepted")
	}
	if _, err := BlockIn(make([]byte, 64), make([]byte, 16)); err == nil {
		t.Error("too little memory was accepted")
	}
}
