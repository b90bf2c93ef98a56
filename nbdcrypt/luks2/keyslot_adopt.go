package luks2

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
)

// Adopt makes a volume that cryptsetup made one of ours: it adds our token to the header and returns the record by which
// the volume is opened from then on. Payload and passphrase slots stay as they are, so that the owner's passphrases go on
// working until `cryptsetup erase` takes them away. key is the volume key, for example from OpenKeyslot; it is only read.
//
// p.Cipher may be empty, p.KeyBits and p.SectorSize 0; otherwise they must be the volume's. A volume that has our token already, of
// whatever broker, is refused unless p.Overwrite, because its former record no longer opens it. A token of another program
// (a TPM's, clevis) is refused: remove it first.
//
// As with Format, one complete header, the old or the new, is valid at every moment.
func Adopt(dev blockdev.Device, p Params, key *keymem.Key) (Record, error) {
	rec, err := adopt(dev, p, key)
	if err != nil {
		return Record{}, fmt.Errorf("adopt a volume: %w", err)
	}
	return rec, nil
}

func adopt(dev blockdev.Device, p Params, key *keymem.Key) (Record, error) {
	v, err := readForeign(dev)
	if err != nil {
		return Record{}, err
	}
	if err := v.adoptable(p, key); err != nil {
		return Record{}, err
	}
	c, err := v.contentFor(p, key)
	if err != nil {
		return Record{}, err
	}
	ours, err := c.luksJSON()
	if err != nil {
		return Record{}, err
	}
	own, err := parseJSON(ours)
	if err != nil {
		return Record{}, err
	}
	v.fields["tokens"] = own["tokens"]
	text, err := json.Marshal(v.fields)
	if err != nil {
		return Record{}, err
	}
	area, err := jsonAreaOf(text)
	if err != nil {
		return Record{}, err
	}
	v.binary.seqID++
	// What is about to be written must be what we read back, before a byte of it reaches the disk.
	planned, err := parseHeader(seal(v.binary, area, 0), 0)
	if err != nil {
		return Record{}, err
	}
	rec := planned.Record()
	if err := errors.Join(planned.Verify(rec), planned.VerifyKey(rec, key)); err != nil {
		return Record{}, err
	}
	for i := range copyOffsets {
		if err := writeCopy(dev, v.binary, area, i); err != nil {
			return Record{}, err
		}
	}
	written, err := Read(dev)
	if err == nil && written.Recovered {
		err = fmt.Errorf("the %s copy does not read back", written.Damaged)
	}
	if err == nil {
		err = written.Verify(rec)
	}
	if err != nil {
		return Record{}, fmt.Errorf("the header reads back wrong, replace the disk: %w", err)
	}
	return rec, nil
}

// adoptable checks what can be checked without the key, and the key's length.
func (v *foreignVolume) adoptable(p Params, key *keymem.Key) error {
	if !v.whole {
		return fmt.Errorf("%w: its two copies differ; run first: cryptsetup repair", ErrDamaged)
	}
	if tokens, ok := v.fields["tokens"].(map[string]any); ok {
		for _, id := range sortedNames(tokens) {
			token, _ := tokens[id].(map[string]any)
			switch kind := fmt.Sprint(token["type"]); {
			case kind != TokenType:
				return badField("tokens."+fmt.Sprintf("%.16s", id), "%.64q is another program's; run first: cryptsetup token remove --token-id %.16s", kind, id)
			case !p.Overwrite:
				return fmt.Errorf("%w: it is a Keyward volume already, and its former record would no longer open it; "+
					"to do so all the same, say so (Overwrite)", ErrHoldsData)
			}
		}
	}
	bits := keyBits(v.Cipher, key.Len())
	if bits == 0 || v.KeyBits != 0 && bits != v.KeyBits {
		return fmt.Errorf("%w: it has %d bytes, which is no key of this volume's %s", ErrWrongKey, key.Len(), v.Cipher)
	}
	if p.Cipher != "" && p.Cipher != v.Cipher {
		return badField("cipher", "%.64q; the volume has %s", p.Cipher, v.Cipher)
	}
	if p.KeyBits != 0 && p.KeyBits != bits {
		return badField("key_bits", "%d; the volume has %d", p.KeyBits, bits)
	}
	if p.SectorSize != 0 && p.SectorSize != v.SectorSize {
		return badField("sector_size", "%d; the volume has %d", p.SectorSize, v.SectorSize)
	}
	return nil
}

// contentFor is the content of the adopted header, with its HMAC.
func (v *foreignVolume) contentFor(p Params, key *keymem.Key) (content, error) {
	epoch := p.Epoch
	if epoch == 0 {
		epoch = 1
	}
	c := content{UUID: v.UUID, Segment: v.segment, Digest: v.digest, JSONSize: v.jsonSize, Token: tokenContent{
		Type: TokenType, Version: formatVersion, Broker: p.Broker, Account: p.Account, Device: p.Device,
		Epoch: strconv.FormatUint(epoch, 10), KeyBits: keyBits(v.Cipher, key.Len()), DataSize: strconv.FormatInt(v.DataSize, 10),
	}}
	mac, err := tokenMAC(key.Bytes(), c.UUID, c.canonical(false))
	c.Token.HMAC = mac
	return c, err
}
