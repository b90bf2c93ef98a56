package luks2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"keyward/nbdcrypt/blockdev"
)

func TestRead_recoversFromOneDamagedCopyAndRepairRewritesIt(t *testing.T) {
	t.Parallel()
	for which, base := range copyOffsets {
		for name, off := range map[string]int64{
			"magic": 0, "version": offVersion, "size": offHdrSize + 3, "sequence": offSeqID + 7, "algorithm": offCsumAlg,
			"salt": offSalt, "UUID": offUUID, "offset": offHdrOffset + 5, "checksum": offChecksum, "padding": 3000,
			"JSON": binarySize + 10, "end of the JSON area": HeaderSize - 1,
		} {
			dev, rec, key := formatted(t, testParams(), 1)
			flip(t, dev, base+off)
			h := mustRead(t, dev)
			if !h.Recovered || h.Damaged != copyNames[which] {
				t.Errorf("%s %s: Recovered %v, Damaged %q", copyNames[which], name, h.Recovered, h.Damaged)
			}
			if err := errors.Join(h.Verify(rec), h.VerifyKey(rec, key)); err != nil {
				t.Errorf("%s %s: %v", copyNames[which], name, err)
			}
			if err := Repair(dev, h); err != nil {
				t.Errorf("%s %s: %v", copyNames[which], name, err)
			}
			if again := mustRead(t, dev); again.Recovered || again.Verify(rec) != nil || h.Recovered {
				t.Errorf("%s %s: not repaired", copyNames[which], name)
			}
		}
	}
}

func TestRead_anUnreadableCopyIsADamagedCopy(t *testing.T) {
	t.Parallel()
	mem, rec, _ := formatted(t, testParams(), 1)
	dev := blockdev.NewFault(mem)
	dev.Add(blockdev.Rule{Ops: blockdev.OpRead, Off: 4096, Len: 512})
	h := mustRead(t, dev)
	if h.Damaged != "primary" || h.Verify(rec) != nil {
		t.Errorf("Damaged %q", h.Damaged)
	}
	dev.Add(blockdev.Rule{Ops: blockdev.OpRead, Off: HeaderSize, Len: 512})
	if _, err := Read(dev); !errors.Is(err, blockdev.ErrInjected) || !errors.Is(err, ErrDamaged) {
		t.Errorf("error %v", err)
	}
}

func TestRead_takesTheNewerCopy(t *testing.T) {
	t.Parallel()
	dev, _, _ := formatted(t, testParams(), 1)
	h := mustRead(t, dev)
	for which, stale := range []string{"secondary", "primary"} {
		h.binary.seqID = 10
		replaceText(t, dev, h.binary, h.text)
		h.binary.seqID = 11
		area, _ := jsonAreaOf(h.text)
		if err := writeCopy(dev, h.binary, area, which); err != nil {
			t.Fatal(err)
		}
		got := mustRead(t, dev)
		if got.SeqID() != 11 || got.Damaged != stale {
			t.Errorf("sequence %d, Damaged %q", got.SeqID(), got.Damaged)
		}
		if err := Repair(dev, got); err != nil {
			t.Fatal(err)
		}
		if got = mustRead(t, dev); got.SeqID() != 11 || got.Recovered {
			t.Error("the older copy was not brought up to date")
		}
	}
}

func TestRead_refusesTwoDifferentHeadersOfOneSequence(t *testing.T) {
	t.Parallel()
	dev, _, _ := formatted(t, testParams(), 1)
	other, _, _ := formatted(t, testParams(), 2)
	if _, err := dev.WriteAt(other.Snapshot()[HeaderSize:keyslotsOffset], HeaderSize); err != nil {
		t.Fatal(err)
	}
	var field *FieldError
	if _, err := Read(dev); !errors.As(err, &field) || field.Field != "seqid" {
		t.Errorf("error %v", err)
	}
}

func TestRead_saysWhatItFound(t *testing.T) {
	t.Parallel()
	damaged, _, _ := formatted(t, testParams(), 1)
	flip(t, damaged, 100)
	flip(t, damaged, HeaderSize+100)
	big := blockdev.NewMemory(testSize)
	hdr := make([]byte, binarySize)
	copy(hdr, magicPrimary)
	binary.BigEndian.PutUint16(hdr[offVersion:], 2)
	binary.BigEndian.PutUint64(hdr[offHdrSize:], 1<<20)
	if _, err := big.WriteAt(hdr, 0); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dev  blockdev.Device
		want error
	}{
		"blank":                    {blockdev.NewMemory(testSize), ErrNotLUKS2},
		"too small":                {blockdev.NewMemory(4096), ErrNotLUKS2},
		"both copies damaged":      {damaged, ErrDamaged},
		"header of 1 MiB":          {big, ErrForeign},
		"LUKS1":                    {blockdev.NewMemoryFrom(append([]byte("LUKS\xba\xbe\x00\x01"), make([]byte, testSize)...)), ErrForeign},
		"header size 2^63 in both": {absurdSize(t), ErrForeign},
	} {
		if _, err := Read(c.dev); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
	}
}

func absurdSize(t *testing.T) blockdev.Device {
	dev, _, _ := formatted(t, testParams(), 1)
	for _, off := range copyOffsets {
		if _, err := dev.WriteAt(bytes.Repeat([]byte{0xff}, 8), off+offHdrSize); err != nil {
			t.Fatal(err)
		}
	}
	return dev
}

// The JSON must mean the same to every parser.
func TestRead_refusesAmbiguousJSON(t *testing.T) {
	t.Parallel()
	dev, _, _ := formatted(t, testParams(), 1)
	h := mustRead(t, dev)
	good := string(h.text)
	for name, text := range map[string]string{
		"name twice":       strings.Replace(good, `"encryption":`, `"encryption":"cipher_null-ecb","encryption":`, 1),
		"name in capitals": strings.Replace(good, `"encryption":`, `"Encryption":`, 1),
		"text behind":      good + "{}",
		"not an object":    "[1]",
		"empty":            "",
		"cut off":          good[:len(good)-2],
		"deeply nested":    strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000),
		"bad UTF-8":        strings.Replace(good, "keyslots", "key\xffslots", 1),
		"NUL in the text":  strings.Replace(good, `"keyslots":{}`, "\x00\"keyslots\":{}", 1),
		"empty name":       strings.Replace(good, `{"config"`, `{"":1,"config"`, 1),
	} {
		if text == good {
			t.Fatalf("%s: the case changes nothing", name)
		}
		replaceText(t, dev, h.binary, []byte(text))
		var field *FieldError
		if _, err := Read(dev); !errors.As(err, &field) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	replaceText(t, dev, h.binary, []byte(good))
	mustRead(t, dev)
}

func TestRead_refusesImpossibleSequenceNumbers(t *testing.T) {
	t.Parallel()
	dev, _, _ := formatted(t, testParams(), 1)
	h := mustRead(t, dev)
	for _, seq := range []uint64{0, 1<<62 + 1, 1<<64 - 1} {
		b := h.binary
		b.seqID = seq
		replaceText(t, dev, b, h.text)
		var field *FieldError
		if _, err := Read(dev); !errors.As(err, &field) || field.Field != "seqid" {
			t.Errorf("%d: error %v", seq, err)
		}
	}
}

func TestRepair_refusesWhenTheHeaderChangedMeanwhile(t *testing.T) {
	t.Parallel()
	dev, _, key := formatted(t, testParams(), 1)
	flip(t, dev, 0)
	h := mustRead(t, dev)
	p := testParams()
	p.Overwrite = true
	rec, err := Format(dev, p, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := Repair(dev, h); err == nil {
		t.Error("an outdated header was written back")
	}
	if err := mustRead(t, dev).Verify(rec); err != nil {
		t.Error(err)
	}
}

func FuzzParseHeader(f *testing.F) {
	dev, _, _ := formatted(f, testParams(), 1)
	h := mustRead(f, dev)
	f.Add(h.text, true)
	f.Add(h.text, false)
	p := testParams()
	p.Cipher, p.RAID = CipherESSIV, &RAIDMember{testSet, 1, 2, 65536}
	member, _, _ := formatted(f, p, 2)
	f.Add(mustRead(f, member).text, true)
	f.Add([]byte(`{"keyslots":{},"tokens":{},"segments":{},"digests":{},"config":{}}`), true)
	f.Add([]byte(`{"tokens":{"0":{"type":"keyward"}}}`), true)
	f.Add(dev.Snapshot()[:HeaderSize], false)
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		buf := make([]byte, HeaderSize)
		copy(buf, data)
		if sealed { // so that the fuzzer gets past the checksum
			area, err := jsonAreaOf(data)
			if err != nil {
				return
			}
			buf = seal(h.binary, area, 0)
		}
		got, err := parseHeader(buf, 0)
		if err != nil {
			if got != nil && got.Record().Validate() == nil {
				t.Error("an acceptable header came with an error")
			}
			return
		}
		if err := got.Record().Validate(); err != nil {
			t.Errorf("accepted, but its record is not: %v", err)
		}
		if cipher := got.content.Segment.Encryption; cipher != CipherXTS && cipher != CipherESSIV {
			t.Errorf("accepted cipher %q", cipher)
		}
	})
}
