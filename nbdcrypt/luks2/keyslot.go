package luks2

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
)

// ErrPassphrase means that a passphrase opens no slot of the volume.
var ErrPassphrase = errors.New("no passphrase slot of this volume opens with it")

// Foreign describes a volume that cryptsetup made, or one of ours, as its header claims it. The volume key proves the
// header's digest and nothing else; what an adopted volume is opened by is the Record that Adopt returns.
type Foreign struct {
	UUID, Label string
	// Cipher is CipherXTS or CipherESSIV; KeyBits, SectorSize, DataOffset and DataSize are as in Record.
	Cipher               string
	KeyBits, SectorSize  int
	DataOffset, DataSize int64
	// Keyslot is the slot that the passphrase opened.
	Keyslot string
}

// OpenKeyslot finds the volume key of a LUKS2 volume by a passphrase, as `cryptsetup luksDump --dump-volume-key` does: the
// slots are tried in the order of their priority and number. The caller owns the key and wipes both it and the
// passphrase. Nothing is written.
//
// The header comes from a disk that anybody may have written, so its parameters are bounded (see kdf) before they cost
// memory or time. Slots that cannot be tried are named in the error when no other opens.
func OpenKeyslot(dev blockdev.Device, passphrase []byte) (*keymem.Key, Foreign, error) {
	v, err := readForeign(dev)
	if err != nil {
		return nil, Foreign{}, fmt.Errorf("open a passphrase slot: %w", err)
	}
	var skipped []error
	for _, s := range v.slots {
		if s.err != nil {
			skipped = append(skipped, s.err)
			continue
		}
		key, err := v.open(dev, s, passphrase)
		if err != nil {
			return nil, Foreign{}, fmt.Errorf("open passphrase slot %s: %w", s.name, err)
		}
		if key != nil {
			f := v.Foreign
			f.Keyslot = s.name
			return key, f, nil
		}
	}
	err = fmt.Errorf("open a passphrase slot: %w (%d tried)", ErrPassphrase, len(v.slots)-len(skipped))
	return nil, Foreign{}, errors.Join(append([]error{err}, skipped...)...)
}

// open returns nil without an error where the passphrase is not the slot's.
func (v *foreignVolume) open(dev blockdev.Device, s slot, passphrase []byte) (*keymem.Key, error) {
	material := make([]byte, areaSize(s.keySize))
	defer clear(material)
	if _, err := dev.ReadAt(material, s.offset); err != nil {
		return nil, fmt.Errorf("read its area: %w", err)
	}
	unlock, err := s.kdf.derive(passphrase, s.areaKeySize)
	if err != nil {
		return nil, err
	}
	defer unlock.Wipe()
	if err := decryptArea(material, s.areaCipher, unlock); err != nil {
		return nil, err
	}
	key, err := keymem.New(s.keySize)
	if err != nil {
		return nil, err
	}
	mergeStripes(key.Bytes(), material, s.afHash)
	digest, err := keyDigest(key.Bytes(), v.digest.Salt, v.digest.Iterations)
	if err == nil && subtle.ConstantTimeCompare(digest, v.digest.Digest) == 1 {
		return key, nil
	}
	key.Wipe()
	return nil, err
}

// slot is one passphrase slot, checked.
type slot struct {
	name                 string
	priority             int
	keySize, areaKeySize int // bytes
	areaCipher           string
	offset               int64
	afHash               *afHash
	kdf                  kdf
	// err says why the slot cannot be tried; nothing else is then set but the name.
	err error
}

// slotsOf reads the slots that the digest names. A slot that is unusual is no error of the header: others may open.
func slotsOf(keyslots node, inDigest []string, keySize int, end int64) []slot {
	var out []slot
	for _, name := range sortedNames(keyslots.fields) {
		if !slices.Contains(inDigest, name) {
			continue // of another segment, or unbound
		}
		var err error
		s := readSlot(node{keyslots.path, keyslots.fields, &err}.object(name), keySize, end)
		if s.name = name; err != nil {
			s = slot{name: name, err: err}
		}
		if s.priority > 0 || s.err != nil { // 0 is "only when asked for by number"
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b slot) int { return b.priority - a.priority })
	return out
}

func readSlot(n node, keySize int, end int64) slot {
	n.only("type", "key_size", "af", "area", "kdf", "priority")
	n.want("type", "luks2")
	s := slot{priority: 1, keySize: n.integer("key_size")}
	if s.keySize != keySize {
		n.fail("key_size", "%d; the volume key has %d bytes", s.keySize, keySize)
	}
	if _, ok := n.fields["priority"]; ok {
		if s.priority = n.integer("priority"); s.priority > 2 {
			n.fail("priority", "%d; must be 0, 1 or 2", s.priority)
		}
	}
	af := n.object("af")
	af.only("type", "stripes", "hash")
	af.want("type", "luks1")
	if got := af.integer("stripes"); got != stripes {
		af.fail("stripes", "%d; must be %d", got, stripes)
	}
	s.afHash = afHashes[af.text("hash")]
	if s.afHash == nil {
		af.fail("hash", "%.32q; sha256 and sha512 are accepted", af.fields["hash"])
	}
	area := n.object("area")
	area.only("type", "offset", "size", "encryption", "key_size")
	area.want("type", "raw")
	s.areaCipher = area.cipher("encryption")
	s.areaKeySize = area.integer("key_size")
	if keyBits(s.areaCipher, s.areaKeySize) == 0 {
		area.fail("key_size", "%d bytes are none of %s with 128, 192 or 256 bits", s.areaKeySize, s.areaCipher)
	}
	s.offset = area.size("offset")
	size := area.size("size")
	if s.offset < keyslotsOffset || s.offset%512 != 0 || size < int64(areaSize(keySize)) || size > end-s.offset {
		area.fail("offset", "%d bytes at %d do not hold the slot, or lie outside the header", size, s.offset)
	}
	s.kdf = readKDF(n.object("kdf"))
	return s
}
