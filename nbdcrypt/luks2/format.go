package luks2

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/google/uuid"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
)

// Params say what Format makes.
type Params struct {
	// Device, Account and Broker go into the token: 1 to 255 printable ASCII characters, no quotes.
	Device, Account, Broker string
	// Cipher is CipherXTS or CipherESSIV; empty means CipherXTS.
	Cipher string
	// KeyBits is the AES key size, 128, 192 or 256; the volume key is KeyBits/4 bytes long for XTS, KeyBits/8 for ESSIV.
	KeyBits int
	// SectorSize is 512 or 4096; 0 means 4096.
	SectorSize int
	// Epoch is the number of this header among those of the device; 0 means 1. Re-encrypting a device raises it, so
	// that its older headers are refused.
	Epoch uint64
	// RAID is the volume's place in a stripe; nil for a volume that stands alone.
	RAID *RAIDMember
	// Overwrite is the explicit word that what the device holds may be destroyed.
	Overwrite bool
}

// Format writes a new volume header to dev and returns what the broker must keep before anything else is written: a
// volume whose record is lost cannot be opened. The payload is not touched; key is only read.
//
// Unless p.Overwrite, a device that holds anything in the first 16 MiB is refused with ErrHoldsData. (Signatures further
// out are for the caller to look for.)
//
// The primary copy is written and flushed first, then the secondary, then the rest of the header area is cleared: at
// every moment one complete header, the old or the new, is valid. (cryptsetup writes in the same order.)
func Format(dev blockdev.Device, p Params, key *keymem.Key) (Record, error) {
	rec, err := plan(dev, p, key)
	if err != nil {
		return Record{}, fmt.Errorf("format volume: %w", err)
	}
	if !p.Overwrite {
		if err := checkBlank(dev); err != nil {
			return Record{}, fmt.Errorf("format volume: %w", err)
		}
	}
	h, err := compose(rec, key)
	if err != nil {
		return Record{}, fmt.Errorf("format volume: %w", err)
	}
	h.binary.seqID = newestSeqID(dev) + 1
	area, err := jsonAreaOf(h.text)
	if err != nil {
		return Record{}, fmt.Errorf("format volume: %w", err)
	}
	for i := range copyOffsets {
		if err := writeCopy(dev, h.binary, area, i); err != nil {
			return Record{}, fmt.Errorf("format volume: %w", err)
		}
	}
	// Older headers and slots, which cryptsetup would look for at other offsets, must not come back.
	if err := clearArea(dev, keyslotsOffset, DataOffset); err != nil {
		return Record{}, fmt.Errorf("format volume: clear the header area: %w", err)
	}
	written, err := Read(dev)
	if err == nil && written.Recovered {
		err = fmt.Errorf("the %s copy does not read back", written.Damaged)
	}
	if err == nil {
		err = errors.Join(written.Verify(h.Record()), written.VerifyKey(h.Record(), key))
	}
	if err != nil {
		return Record{}, fmt.Errorf("format volume: the header reads back wrong, replace the disk: %w", err)
	}
	return h.Record(), nil
}

// plan checks everything that can be checked before the device is written, and fills in what does not need the key.
func plan(dev blockdev.Device, p Params, key *keymem.Key) (Record, error) {
	if p.SectorSize == 0 {
		p.SectorSize = 4096
	}
	if p.Epoch == 0 {
		p.Epoch = 1
	}
	if p.Cipher == "" {
		p.Cipher = CipherXTS
	}
	rec := Record{
		UUID: uuid.NewString(), Cipher: p.Cipher, KeyBits: p.KeyBits, SectorSize: p.SectorSize,
		DataOffset: DataOffset, DataSize: dev.Size() - DataOffset,
		DigestSalt: make([]byte, digestLen), Digest: make([]byte, digestLen), DigestIterations: digestIterations,
		Epoch: p.Epoch, HeaderHash: make([]byte, digestLen),
		Broker: p.Broker, Account: p.Account, Device: p.Device,
	}
	if p.RAID != nil {
		place := *p.RAID // the record outlives the caller's
		rec.RAID = &place
	}
	rand.Read(rec.DigestSalt)
	if rec.DataSize <= 0 {
		return rec, badField("data_size", "the device has %d bytes; a volume needs more than the %d of its header", dev.Size(), DataOffset)
	}
	if p.SectorSize == 4096 && rec.DataSize%4096 != 0 {
		return rec, badField("sector_size", "the device's %d bytes are not whole sectors of 4096; use sectors of 512", dev.Size())
	}
	if err := rec.Validate(); err != nil {
		return rec, err
	}
	if key.Len() != rec.KeyLen() {
		return rec, badField("key", "%d bytes; %s with AES-%d needs %d", key.Len(), rec.Cipher, rec.KeyBits, rec.KeyLen())
	}
	return rec, nil
}

// compose makes the header of a record: digest, token with its HMAC, and the JSON text.
func compose(rec Record, key *keymem.Key) (*Header, error) {
	digest, err := keyDigest(key.Bytes(), rec.DigestSalt, rec.DigestIterations)
	if err != nil {
		return nil, err
	}
	c := content{
		UUID:    rec.UUID,
		Segment: segmentContent{"crypt", strconv.FormatInt(rec.DataOffset, 10), "dynamic", "0", rec.Cipher, rec.SectorSize},
		Digest:  digestContent{"pbkdf2", []string{"0"}, "sha256", rec.DigestIterations, rec.DigestSalt, digest},
		Token: tokenContent{
			Type: TokenType, Version: formatVersion, Broker: rec.Broker, Account: rec.Account, Device: rec.Device,
			Epoch: strconv.FormatUint(rec.Epoch, 10), KeyBits: rec.KeyBits, DataSize: strconv.FormatInt(rec.DataSize, 10),
			raidContent: rec.RAID.content(),
		},
		JSONSize: strconv.Itoa(jsonSize),
	}
	if c.Token.HMAC, err = tokenMAC(key.Bytes(), rec.UUID, c.canonical(false)); err != nil {
		return nil, err
	}
	h := &Header{content: c, binary: binaryHeader{label: rec.Device[:min(len(rec.Device), 47)], uuid: rec.UUID, subsystem: TokenType}}
	h.text, err = c.luksJSON()
	return h, err
}

// luksJSON is the metadata text that goes to the disk: the content in the objects that LUKS2 prescribes.
func (c content) luksJSON() ([]byte, error) {
	b64 := base64.StdEncoding.EncodeToString
	type object = map[string]any
	token := object{
		"type": c.Token.Type, "keyslots": []string{}, "version": c.Token.Version, "broker": c.Token.Broker,
		"account": c.Token.Account, "device": c.Token.Device, "epoch": c.Token.Epoch, "key_bits": c.Token.KeyBits,
		"data_size": c.Token.DataSize, "hmac": b64(c.Token.HMAC),
	}
	if r := c.Token.raidContent; r != nil {
		token["raid_set"], token["raid_index"], token["raid_count"], token["raid_chunk"] = r.Set, r.Index, r.Count, r.Chunk
	}
	return json.Marshal(object{
		"keyslots": object{},
		"tokens":   object{"0": token},
		"segments": object{"0": c.Segment},
		"digests": object{"0": object{
			"type": c.Digest.Type, "keyslots": []string{}, "segments": c.Digest.Segments, "hash": c.Digest.Hash,
			"iterations": c.Digest.Iterations, "salt": b64(c.Digest.Salt), "digest": b64(c.Digest.Digest),
		}},
		"config": object{"json_size": c.JSONSize, "keyslots_size": strconv.Itoa(keyslotsSize)},
	})
}

// writeCopy writes one copy in one request and flushes it.
func writeCopy(dev blockdev.Device, b binaryHeader, jsonArea []byte, which int) error {
	if _, err := dev.WriteAt(seal(b, jsonArea, which), copyOffsets[which]); err != nil {
		return fmt.Errorf("write the %s header: %w", copyNames[which], err)
	}
	if err := dev.Sync(); err != nil {
		return fmt.Errorf("flush the %s header: %w", copyNames[which], err)
	}
	return nil
}

// newestSeqID is the highest sequence number that an older header on the device claims with a valid checksum, so that
// what is left of it never wins over the new one.
func newestSeqID(dev blockdev.Device) (newest uint64) {
	buf := make([]byte, HeaderSize)
	for i, off := range copyOffsets {
		if _, err := dev.ReadAt(buf, off); err != nil {
			continue
		}
		sum := checksum(buf)
		if bytes.Equal(buf[:6], magicOf(i)) && bytes.Equal(sum[:], buf[offChecksum:offChecksum+len(sum)]) {
			if seq := binary.BigEndian.Uint64(buf[offSeqID:]); seq < 1<<61 {
				newest = max(newest, seq)
			}
		}
	}
	return newest
}
