package luks2

import (
	"bytes"
	"fmt"

	"keyward/nbdcrypt/blockdev"
)

// foreignVolume is a LUKS2 header as cryptsetup writes it, checked as far as opening its slots and adopting it need. Its
// tokens are not looked at.
type foreignVolume struct {
	Foreign
	digest   digestContent
	slots    []slot
	binary   binaryHeader
	fields   map[string]any
	segment  segmentContent
	jsonSize string
	// whole reports that both copies are there and say the same.
	whole bool
}

// readForeign reads the newer copy of the header of any LUKS2 volume of the usual layout: headers of 16 KiB, one segment
// without integrity, aes-xts-plain64 or aes-cbc-essiv:sha256.
func readForeign(dev blockdev.Device) (*foreignVolume, error) {
	if dev.Size() < keyslotsOffset {
		return nil, fmt.Errorf("device of %d bytes: %w", dev.Size(), ErrNotLUKS2)
	}
	var found *foreignVolume
	var text []byte
	var problems [2]error
	copies := 0
	for i := range copyOffsets {
		buf := make([]byte, HeaderSize)
		if _, err := dev.ReadAt(buf, copyOffsets[i]); err != nil {
			problems[i] = fmt.Errorf("read: %w", err)
			continue
		}
		b, t, err := openBinary(buf, i)
		if err != nil {
			problems[i] = err
			continue
		}
		copies++
		same := found != nil && found.binary.seqID == b.seqID && bytes.Equal(text, t)
		if found == nil || b.seqID > found.binary.seqID {
			found, text = &foreignVolume{binary: b}, bytes.Clone(t)
		}
		found.whole = copies == 2 && same
	}
	if found == nil {
		if isMagic(problems[0]) && isMagic(problems[1]) {
			return nil, ErrNotLUKS2
		}
		return nil, fmt.Errorf("%w: primary: %w; secondary: %w", ErrDamaged, problems[0], problems[1])
	}
	var err error
	if found.fields, err = parseJSON(text); err != nil {
		return nil, badField("json", "%v", err)
	}
	return found, found.parse(dev.Size())
}

func (v *foreignVolume) parse(size int64) error {
	var err error
	root := node{"", v.fields, &err}
	root.only("keyslots", "tokens", "segments", "digests", "config")

	segments := root.object("segments")
	segments.only("0")
	s := segments.object("0")
	s.only("type", "offset", "size", "iv_tweak", "encryption", "sector_size")
	s.want("type", "crypt")
	cipher := s.cipher("encryption")
	s.want("size", "dynamic")
	s.want("iv_tweak", "0")
	v.segment = segmentContent{"crypt", s.text("offset"), "dynamic", "0", cipher, s.integer("sector_size")}
	v.UUID, v.Label, v.Cipher, v.SectorSize, v.DataOffset = v.binary.uuid, v.binary.label, cipher, v.segment.SectorSize, s.size("offset")
	if v.SectorSize != 512 && v.SectorSize != 4096 {
		s.fail("sector_size", "%d; 512 and 4096 are accepted", v.SectorSize)
	} else if v.DataSize = (size - v.DataOffset) / int64(v.SectorSize) * int64(v.SectorSize); v.DataOffset < keyslotsOffset || v.DataSize <= 0 {
		s.fail("offset", "%d; the device has %d bytes", v.DataOffset, size)
	}

	digests := root.object("digests")
	digests.only("0")
	d := digests.object("0")
	d.only("type", "keyslots", "segments", "hash", "iterations", "salt", "digest")
	d.want("type", "pbkdf2")
	d.want("hash", "sha256")
	if list := d.strings("segments"); len(list) != 1 || list[0] != "0" {
		d.fail("segments", "must be segment 0 alone")
	}
	v.digest = digestContent{"pbkdf2", []string{"0"}, "sha256", d.integer("iterations"), d.bytes("salt", digestLen), d.bytes("digest", digestLen)}
	if n := v.digest.Iterations; n < digestIterations || n > maxDigestIterations {
		d.fail("iterations", "%d; must be %d to %d", n, digestIterations, maxDigestIterations)
	}

	config := root.object("config")
	config.only("json_size", "keyslots_size", "flags", "requirements")
	if n := config.size("json_size"); n != jsonSize {
		config.fail("json_size", "%d; must be %d", n, jsonSize)
	}
	v.jsonSize = config.text("json_size")
	if _, ok := config.fields["requirements"]; ok {
		config.fail("requirements", "this program meets none")
	}
	keyslots := root.object("keyslots")
	inDigest := d.strings("keyslots")
	if err != nil {
		return err
	}
	// The slots of a volume all hold the same key, so its length is that of the first.
	keySize := 0
	for _, name := range sortedNames(keyslots.fields) {
		if slot := keyslots.object(name); keySize == 0 {
			keySize = slot.integer("key_size")
		}
	}
	if err != nil {
		return err
	}
	if keySize != 0 && keyBits(cipher, keySize) == 0 {
		return badField("keyslots", "a key of %d bytes is none of %s with 128, 192 or 256 bits", keySize, cipher)
	}
	v.KeyBits = keyBits(cipher, keySize)
	v.slots = slotsOf(keyslots, inDigest, keySize, v.DataOffset)
	return nil
}
