//go:build !purego

package xts

import (
	"encoding/binary"
	"math/bits"
)

// scheduleRoom holds the 15 round keys of AES-256, rounded up so that each schedule starts on a cache line.
const scheduleRoom = 256

// expandKey writes the encryption schedule of FIPS 197, section 5.2, for a key of 16, 24 or 32 bytes into mem, and
// touches no other memory. SubWord is the processor's, so that no table is indexed by key material.
func expandKey(mem, key []byte) {
	le := binary.LittleEndian
	copy(mem, key)
	words, rcon := len(key)/4, uint32(1)
	for i := words; i < 4*(words+7); i++ {
		t := le.Uint32(mem[4*(i-1):])
		switch {
		case i%words == 0:
			t = subWordAESNI(bits.RotateLeft32(t, -8)) ^ rcon
			rcon = rcon<<1 ^ 0x11b&-(rcon>>7)
		case words > 6 && i%words == 4:
			t = subWordAESNI(t)
		}
		le.PutUint32(mem[4*i:], t^le.Uint32(mem[4*(i-words):]))
	}
}

// invertKey turns the encryption schedule forward into that of the equivalent inverse cipher (FIPS 197, section 5.3.5).
func invertKey(mem, forward []byte, rounds int) {
	for r := 0; r <= rounds; r++ {
		to, from := mem[16*r:16*r+16], forward[16*(rounds-r):]
		if r == 0 || r == rounds {
			copy(to, from)
			continue
		}
		inverseMixColumnsAESNI(&to[0], &from[0])
	}
}
