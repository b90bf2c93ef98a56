package luks2

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
)

// TokenType is the type of our token in the LUKS2 JSON.
const TokenType = "keyward"

// formatVersion is the version of the volume format, in the token.
const formatVersion = 1

// Header is a parsed header that passed every check which needs neither record nor key. Nothing in it is to be believed
// before Verify and VerifyKey.
type Header struct {
	content content
	binary  binaryHeader
	text    []byte // the JSON text as it stands on the disk

	// Keyslots is the number of passphrase slots that somebody added with cryptsetup; Format makes none.
	Keyslots int
	// Recovered reports that one copy was damaged or older and the other was used. Repair rewrites it.
	Recovered bool
	// Damaged is "primary" or "secondary" if Recovered, else empty.
	Damaged string
}

// content is what both copies share and what the hash and the HMAC cover. Its JSON encoding, with the fields in this
// order and without white space, is the canonical content. Passphrase slots, label and sequence number are not part of
// it: an owner may change them with cryptsetup.
type content struct {
	UUID     string         `json:"uuid"`
	Segment  segmentContent `json:"segment"`
	Digest   digestContent  `json:"digest"`
	Token    tokenContent   `json:"token"`
	JSONSize string         `json:"json_size"`
}

type segmentContent struct {
	Type       string `json:"type"`
	Offset     string `json:"offset"`
	Size       string `json:"size"`
	IVTweak    string `json:"iv_tweak"`
	Encryption string `json:"encryption"`
	SectorSize int    `json:"sector_size"`
}

type digestContent struct {
	Type       string   `json:"type"`
	Segments   []string `json:"segments"`
	Hash       string   `json:"hash"`
	Iterations int      `json:"iterations"`
	Salt       []byte   `json:"salt"`
	Digest     []byte   `json:"digest"`
}

type tokenContent struct {
	Type     string `json:"type"`
	Version  int    `json:"version"`
	Broker   string `json:"broker"`
	Account  string `json:"account"`
	Device   string `json:"device"`
	Epoch    string `json:"epoch"`
	KeyBits  int    `json:"key_bits"`
	DataSize string `json:"data_size"`
	// Nil, and then none of its fields is there, for a volume that stands alone.
	*raidContent
	HMAC []byte `json:"hmac,omitempty"`
}

// canonical is the text that is hashed, or, without the HMAC, the text that the HMAC covers.
func (c content) canonical(withHMAC bool) []byte {
	if !withHMAC {
		c.Token.HMAC = nil
	}
	text, err := json.Marshal(c)
	if err != nil {
		// Strings, numbers and byte slices always marshal.
		panic(err)
	}
	return text
}

// Hash is SHA-256 over the canonical content: the same for both copies, and after a repair.
func (h *Header) Hash() []byte {
	sum := sha256.Sum256(h.content.canonical(true))
	return sum[:]
}

// Record is the header's content in the form of a broker's record. It is a claim of the disk: useful for showing and
// for finding the broker to ask, never for opening the volume.
func (h *Header) Record() Record {
	c := h.content
	return Record{
		UUID: c.UUID, Cipher: c.Segment.Encryption, KeyBits: c.Token.KeyBits, SectorSize: c.Segment.SectorSize,
		DataOffset: int64(number(c.Segment.Offset)), DataSize: int64(number(c.Token.DataSize)),
		DigestSalt: bytes.Clone(c.Digest.Salt), Digest: bytes.Clone(c.Digest.Digest), DigestIterations: c.Digest.Iterations,
		Epoch: number(c.Token.Epoch), HeaderHash: h.Hash(),
		Broker: c.Token.Broker, Account: c.Token.Account, Device: c.Token.Device, RAID: c.Token.raidContent.member(),
	}
}

// SeqID counts the writes of the header; the copy with the higher one is newer.
func (h *Header) SeqID() uint64 { return h.binary.seqID }

// number reads a decimal that was checked when it was parsed.
func number(text string) uint64 {
	v, _ := strconv.ParseUint(text, 10, 64)
	return v
}

// parseHeader checks one copy of HeaderSize bytes.
func parseHeader(buf []byte, which int) (*Header, error) {
	b, text, err := openBinary(buf, which)
	if err != nil {
		return nil, err
	}
	fields, err := parseJSON(text)
	if err != nil {
		return nil, badField("json", "%v", err)
	}
	h := &Header{binary: b, text: bytes.Clone(text)}
	h.content.UUID = b.uuid
	root := node{"", fields, &err}
	if err := h.parseToken(root.object("tokens")); err != nil {
		return nil, err
	}
	root.only("keyslots", "tokens", "segments", "digests", "config")
	h.parseSegment(root.object("segments"))
	slots := h.parseDigest(root.object("digests"))
	h.parseConfig(root.object("config"))
	h.parseKeyslots(root.object("keyslots"), slots)
	if err != nil {
		return nil, err
	}
	return h, h.Record().Validate()
}

// parseToken comes first: it says whether the volume is ours at all.
func (h *Header) parseToken(tokens node) error {
	var ours string
	for _, name := range sortedNames(tokens.fields) {
		if token := tokens.object(name); token.fields["type"] == TokenType && ours == "" {
			ours = name
		} else {
			return fmt.Errorf("%w: %w", ErrForeign, badField(token.at("type"), "%.64q; a volume has one token, of type %q",
				fmt.Sprint(token.fields["type"]), TokenType))
		}
	}
	if *tokens.err == nil && ours == "" {
		return fmt.Errorf("%w: %w", ErrForeign, badField("tokens", "none of type %q", TokenType))
	}
	t := tokens.object(ours)
	t.only(append([]string{"type", "keyslots", "version", "broker", "account", "device", "epoch", "key_bits", "data_size", "hmac"},
		raidFields...)...)
	t.strings("keyslots")
	h.content.Token = tokenContent{
		Type: TokenType, Version: t.integer("version"), Broker: t.text("broker"), Account: t.text("account"), Device: t.text("device"),
		Epoch: t.text("epoch"), KeyBits: t.integer("key_bits"), DataSize: t.text("data_size"), HMAC: t.bytes("hmac", digestLen),
		raidContent: parseRAID(t),
	}
	if v := h.content.Token.Version; v != formatVersion {
		t.fail("version", "%d; this program reads version %d, use a newer one", v, formatVersion)
	}
	t.size("epoch")
	t.size("data_size")
	return *tokens.err
}

func (h *Header) parseSegment(segments node) {
	segments.only("0")
	s := segments.object("0")
	s.only("type", "offset", "size", "iv_tweak", "encryption", "sector_size")
	s.want("type", "crypt")
	cipher := s.cipher("encryption")
	s.want("size", "dynamic")
	s.want("iv_tweak", "0")
	s.size("offset")
	h.content.Segment = segmentContent{"crypt", s.text("offset"), "dynamic", "0", cipher, s.integer("sector_size")}
}

func (h *Header) parseDigest(digests node) (keyslots []string) {
	digests.only("0")
	d := digests.object("0")
	d.only("type", "keyslots", "segments", "hash", "iterations", "salt", "digest")
	d.want("type", "pbkdf2")
	d.want("hash", "sha256")
	if list := d.strings("segments"); len(list) != 1 || list[0] != "0" {
		d.fail("segments", "must be segment 0 alone")
	}
	h.content.Digest = digestContent{"pbkdf2", []string{"0"}, "sha256", d.integer("iterations"), d.bytes("salt", digestLen), d.bytes("digest", digestLen)}
	return d.strings("keyslots")
}

func (h *Header) parseConfig(config node) {
	config.only("json_size", "keyslots_size", "flags", "requirements")
	if n := config.size("json_size"); n != jsonSize {
		config.fail("json_size", "%d; must be %d", n, jsonSize)
	}
	h.content.JSONSize = config.text("json_size")
	slots := config.size("keyslots_size")
	if slots%4096 != 0 || slots > int64(number(h.content.Segment.Offset))-keyslotsOffset {
		config.fail("keyslots_size", "%d; the area overlaps the payload at %s", slots, h.content.Segment.Offset)
	}
	if _, ok := config.fields["requirements"]; ok {
		config.fail("requirements", "this program meets none")
	}
}

// parseKeyslots checks slots that cryptsetup added: of the ordinary type, each in its own area between headers and payload.
func (h *Header) parseKeyslots(keyslots node, inDigest []string) {
	type area struct{ from, to int64 }
	var areas []area
	for _, name := range sortedNames(keyslots.fields) {
		slot := keyslots.object(name)
		slot.want("type", "luks2")
		if n, want := slot.integer("key_size"), keyLen(h.content.Segment.Encryption, h.content.Token.KeyBits); n != want {
			slot.fail("key_size", "%d; the volume key has %d bytes", n, want)
		}
		a := slot.object("area")
		from, size := a.size("offset"), a.size("size")
		if from < keyslotsOffset || size <= 0 || size > int64(number(h.content.Segment.Offset))-from {
			a.fail("offset", "%d bytes at %d lie outside the keyslot area", size, from)
		}
		areas = append(areas, area{from, from + size})
	}
	sort.Slice(areas, func(i, j int) bool { return areas[i].from < areas[j].from })
	for i := 1; i < len(areas); i++ {
		if areas[i].from < areas[i-1].to {
			keyslots.fail("area", "two areas overlap at %d", areas[i].from)
		}
	}
	for _, name := range inDigest {
		if _, ok := keyslots.fields[name]; !ok {
			keyslots.fail(fmt.Sprintf("%.64s", name), "the digest names a slot that does not exist")
		}
	}
	h.Keyslots = len(keyslots.fields)
}

func sortedNames(fields map[string]any) []string {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
