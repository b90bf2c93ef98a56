//go:build (amd64 || arm64) && !purego

package aeskey

//go:generate sh -c "cd ../_asm && go run ./aeskey -out ../aeskey/aeskey_amd64.s -stubs ../aeskey/stubs_amd64.go -pkg aeskey"

import (
	"encoding/binary"
	"math/bits"
)

// Room holds the 15 round keys of AES-256, rounded up so that each schedule starts on a cache line.
const Room = 256

// Rounds is the number of AES rounds for a key of 16, 24 or 32 bytes.
func Rounds(keyLen int) int { return keyLen/4 + 6 }

// Expand writes the encryption schedule of FIPS 197, section 5.2, for a key of 16, 24 or 32 bytes into mem, of Room
// bytes, and touches no other memory. SubWord is the processor's, so that no table is indexed by key material. The
// processor has AES instructions: the caller has asked.
func Expand(mem, key []byte) {
	le := binary.LittleEndian
	copy(mem, key)
	words, rcon := len(key)/4, uint32(1)
	for i := words; i < 4*(words+7); i++ {
		t := le.Uint32(mem[4*(i-1):])
		switch {
		case i%words == 0:
			t = subWord(bits.RotateLeft32(t, -8)) ^ rcon
			rcon = rcon<<1 ^ 0x11b&-(rcon>>7)
		case words > 6 && i%words == 4:
			t = subWord(t)
		}
		le.PutUint32(mem[4*i:], t^le.Uint32(mem[4*(i-words):]))
	}
}

// Invert turns the encryption schedule forward into that of the equivalent inverse cipher (FIPS 197, section 5.3.5).
func Invert(mem, forward []byte, rounds int) {
	for r := 0; r <= rounds; r++ {
		to, from := mem[16*r:16*r+16], forward[16*(rounds-r):]
		if r == 0 || r == rounds {
			copy(to, from)
			continue
		}
		inverseMixColumns(&to[0], &from[0])
	}
}
