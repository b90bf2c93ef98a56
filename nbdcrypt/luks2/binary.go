package luks2

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

// The binary header (LUKS2 On-Disk Format Specification, section 2.1), big-endian. The rest of its 4096 bytes is zero.
const (
	offMagic     = 0   // 6 bytes
	offVersion   = 6   // uint16
	offHdrSize   = 8   // uint64
	offSeqID     = 16  // uint64
	offLabel     = 24  // 48 bytes
	offCsumAlg   = 72  // 32 bytes
	offSalt      = 104 // 64 bytes, new for each copy written
	offUUID      = 168 // 40 bytes
	offSubsystem = 208 // 48 bytes
	offHdrOffset = 256 // uint64
	offChecksum  = 448 // 64 bytes, SHA-256 uses the first 32
	endChecksum  = 512
)

var (
	magicPrimary   = []byte("LUKS\xba\xbe")
	magicSecondary = []byte("SKUL\xba\xbe")
)

// copyOffsets are the places of the two copies.
var copyOffsets = [2]int64{0, HeaderSize}

// copyNames name them in messages and in Header.Damaged.
var copyNames = [2]string{"primary", "secondary"}

func magicOf(which int) []byte {
	if which == 0 {
		return magicPrimary
	}
	return magicSecondary
}

// binaryHeader is what the binary part says, checked.
type binaryHeader struct {
	seqID                  uint64
	label, uuid, subsystem string
}

// seal makes the copy for one of the two places out of the content of a header: magic, place, fresh salt, checksum.
func seal(b binaryHeader, jsonArea []byte, which int) []byte {
	buf := make([]byte, HeaderSize)
	copy(buf[offMagic:], magicOf(which))
	binary.BigEndian.PutUint16(buf[offVersion:], 2)
	binary.BigEndian.PutUint64(buf[offHdrSize:], HeaderSize)
	binary.BigEndian.PutUint64(buf[offSeqID:], b.seqID)
	copy(buf[offLabel:offLabel+47], b.label)
	copy(buf[offCsumAlg:], "sha256")
	rand.Read(buf[offSalt : offSalt+64])
	copy(buf[offUUID:offUUID+39], b.uuid)
	copy(buf[offSubsystem:offSubsystem+47], b.subsystem)
	binary.BigEndian.PutUint64(buf[offHdrOffset:], uint64(copyOffsets[which]))
	copy(buf[binarySize:], jsonArea)
	sum := checksum(buf)
	copy(buf[offChecksum:], sum[:])
	return buf
}

// checksum is SHA-256 over one whole copy with the checksum field as zeroes.
func checksum(buf []byte) [sha256.Size]byte {
	h := sha256.New()
	h.Write(buf[:offChecksum])
	h.Write(make([]byte, endChecksum-offChecksum))
	h.Write(buf[endChecksum:])
	return [sha256.Size]byte(h.Sum(nil))
}

// damage is an error of a copy whose checksum does not hold (or cannot be computed): rot or a torn write, so that the
// other copy may be used instead. Any error after the checksum is a refusal.
type damage struct{ err error }

func (d damage) Error() string { return d.err.Error() }
func (d damage) Unwrap() error { return d.err }

// openBinary checks one copy of HeaderSize bytes and splits it. The JSON text ends at its first NUL.
func openBinary(buf []byte, which int) (b binaryHeader, text []byte, err error) {
	if !bytes.Equal(buf[:6], magicOf(which)) {
		return b, nil, damage{badField("magic", "%x", buf[:6])}
	}
	if v := binary.BigEndian.Uint16(buf[offVersion:]); v != 2 {
		return b, nil, damage{badField("version", "%d; must be 2", v)}
	}
	if n := binary.BigEndian.Uint64(buf[offHdrSize:]); n != HeaderSize {
		return b, nil, damage{badField("hdr_size", "%d; a Keyward volume has %d", n, HeaderSize)}
	}
	if alg := cString(buf[offCsumAlg : offCsumAlg+32]); alg != "sha256" {
		return b, nil, damage{badField("csum_alg", "%.32q; a Keyward volume has sha256", alg)}
	}
	sum := checksum(buf)
	if subtle.ConstantTimeCompare(sum[:], buf[offChecksum:offChecksum+sha256.Size]) != 1 {
		return b, nil, damage{badField("csum", "the checksum does not match the content")}
	}
	if off := binary.BigEndian.Uint64(buf[offHdrOffset:]); off != uint64(copyOffsets[which]) {
		return b, nil, badField("hdr_offset", "%d; the %s header is at %d", off, copyNames[which], copyOffsets[which])
	}
	b = binaryHeader{
		seqID:     binary.BigEndian.Uint64(buf[offSeqID:]),
		label:     cString(buf[offLabel : offLabel+48]),
		uuid:      cString(buf[offUUID : offUUID+40]),
		subsystem: cString(buf[offSubsystem : offSubsystem+48]),
	}
	if b.seqID == 0 || b.seqID > 1<<62 {
		return b, nil, badField("seqid", "%d cannot have been counted up to", b.seqID)
	}
	area := buf[binarySize:]
	end := bytes.IndexByte(area, 0)
	if end < 0 {
		return b, nil, badField("json", "the JSON area has no end")
	}
	// As cryptsetup does: bytes hidden behind the text are refused.
	if i := bytes.IndexFunc(area[end:], func(r rune) bool { return r != 0 }); i >= 0 {
		return b, nil, badField("json", "byte %d behind the text is not zero", end+i)
	}
	return b, area[:end], nil
}

// cString is the text before the first NUL of a fixed field.
func cString(field []byte) string {
	if i := bytes.IndexByte(field, 0); i >= 0 {
		field = field[:i]
	}
	return string(field)
}

// jsonAreaOf pads a JSON text with zeroes to its area, at least one.
func jsonAreaOf(text []byte) ([]byte, error) {
	if len(text) >= jsonSize {
		return nil, fmt.Errorf("the header's JSON of %d bytes does not fit its area of %d; use shorter identifiers", len(text), jsonSize)
	}
	return append(text[:len(text):len(text)], make([]byte, jsonSize-len(text))...), nil
}
