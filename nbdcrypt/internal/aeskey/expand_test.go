//go:build (amd64 || arm64) && !purego

package aeskey

import (
	"encoding/hex"
	"testing"

	"golang.org/x/sys/cpu"
)

// FIPS 197, appendix A: the last round key of each example.
func TestExpand_examplesOfTheStandard(t *testing.T) {
	if !cpu.X86.HasAES && !cpu.ARM64.HasAES {
		t.Skip("this processor has no AES instructions")
	}
	for _, c := range []struct{ key, last string }{
		{"2b7e151628aed2a6abf7158809cf4f3c", "d014f9a8c9ee2589e13f0cc8b6630ca6"},
		{"8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b", "e98ba06f448c773c8ecc720401002202"},
		{"603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", "fe4890d1e6188d0b046df344706c631e"},
	} {
		key, err := hex.DecodeString(c.key)
		if err != nil {
			t.Fatal(err)
		}
		mem := make([]byte, Room)
		Expand(mem, key)
		rounds := Rounds(len(key))
		if got := hex.EncodeToString(mem[16*rounds : 16*rounds+16]); got != c.last {
			t.Errorf("AES-%d: last round key %s, want %s", 8*len(key), got, c.last)
		}
		if hex.EncodeToString(mem[:len(key)]) != c.key {
			t.Errorf("AES-%d: the schedule does not begin with the key", 8*len(key))
		}
	}
}
