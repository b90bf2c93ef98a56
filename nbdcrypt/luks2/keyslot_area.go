package luks2

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"

	"keyward/nbdcrypt/essiv"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/xts"
)

// stripes is how many pieces the anti-forensic splitter makes of a key. LUKS knows no other number.
const stripes = 4000

// areaSize is how many bytes of its area a slot for a key takes: the stripes, in whole sectors.
func areaSize(keySize int) int { return (keySize*stripes + 511) / 512 * 512 }

// decryptArea decrypts a slot's area in place: sectors of 512 bytes, counted from the start of the area.
func decryptArea(material []byte, cipher string, unlock *keymem.Key) error {
	expand := xts.New
	if cipher == CipherESSIV {
		expand = essiv.New
	}
	c, err := expand(unlock.Bytes())
	if err != nil {
		return err
	}
	defer c.Wipe()
	c.DecryptSectors(material, material, 512, 0, 1)
	return nil
}

// afHash is a hash by which the splitter diffuses.
type afHash struct {
	size int // bytes
	// sum writes the hash of in to out, as much as fits.
	sum func(out, in []byte)
}

var afHashes = map[string]*afHash{
	"sha256": {sha256.Size, func(out, in []byte) {
		sum := sha256.Sum256(in)
		copy(out, sum[:])
		clear(sum[:])
	}},
	"sha512": {sha512.Size, func(out, in []byte) {
		sum := sha512.Sum512(in)
		copy(out, sum[:])
		clear(sum[:])
	}},
}

// mergeStripes undoes the anti-forensic splitter (LUKS1 On-Disk Format Specification, 2.4, TKS1): all stripes but the last
// are folded into a running value that is diffused after each, and the last is added. key is filled; stripes of its
// length lie behind each other in material.
func mergeStripes(key, material []byte, h *afHash) {
	n := len(key)
	clear(key)
	for s := range stripes {
		piece := material[s*n : (s+1)*n]
		for i := range key {
			key[i] ^= piece[i]
		}
		if s < stripes-1 {
			h.diffuse(key)
		}
	}
}

// diffuse replaces every block of d, as long as the hash, by the hash of its number and itself. The last may be shorter.
func (h *afHash) diffuse(d []byte) {
	var in [4 + sha512.Size]byte
	for i := 0; i*h.size < len(d); i++ {
		part := d[i*h.size : min((i+1)*h.size, len(d))]
		binary.BigEndian.PutUint32(in[:], uint32(i))
		h.sum(part, in[:4+copy(in[4:], part)])
	}
	clear(in[:])
}
