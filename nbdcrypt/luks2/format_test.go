package luks2

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"keyward/nbdcrypt/blockdev"
)

func TestFormat_whatIsWrittenReadsBackAndVerifies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cipher       string
		bits, keyLen int
	}{
		{"aes-xts-plain64", 128, 32}, {"aes-xts-plain64", 192, 48}, {"aes-xts-plain64", 256, 64},
		{"aes-cbc-essiv:sha256", 128, 16}, {"aes-cbc-essiv:sha256", 192, 24}, {"aes-cbc-essiv:sha256", 256, 32},
	} {
		bits := c.bits
		for _, sector := range []int{512, 4096} {
			p := testParams()
			p.Cipher, p.KeyBits, p.SectorSize, p.Epoch = c.cipher, bits, sector, 7
			dev, rec, key := formatted(t, p, uint64(bits+sector))
			h := mustRead(t, dev)
			if h.Recovered || h.Damaged != "" || h.Keyslots != 0 || h.SeqID() != 1 {
				t.Errorf("%d/%d: fresh header reads as %+v", bits, sector, h)
			}
			if !reflect.DeepEqual(h.Record(), rec) {
				t.Errorf("%d/%d: record differs: %+v, %+v", bits, sector, h.Record(), rec)
			}
			if err := h.Verify(rec); err != nil {
				t.Error(err)
			}
			if err := h.VerifyKey(rec, key); err != nil {
				t.Error(err)
			}
			want := Record{
				UUID: rec.UUID, Cipher: c.cipher, KeyBits: bits, SectorSize: sector, DataOffset: 16 << 20, DataSize: 1 << 20,
				DigestSalt: rec.DigestSalt, Digest: rec.Digest, DigestIterations: 1000, Epoch: 7, HeaderHash: rec.HeaderHash,
				Broker: p.Broker, Account: p.Account, Device: p.Device,
			}
			if !reflect.DeepEqual(rec, want) {
				t.Errorf("record is %+v", rec)
			}
			if rec.KeyLen() != c.keyLen || key.Len() != c.keyLen {
				t.Errorf("%s, AES-%d: the key has %d bytes, the record says %d", c.cipher, bits, key.Len(), rec.KeyLen())
			}
		}
	}
}

// The default is what volumes got before there was a choice.
func TestFormat_xtsUnlessAsked(t *testing.T) {
	t.Parallel()
	p := testParams()
	if _, rec, _ := formatted(t, p, 1); p.Cipher != "" || rec.Cipher != CipherXTS {
		t.Errorf("cipher %s", rec.Cipher)
	}
}

func TestRecord_survivesJSON(t *testing.T) {
	t.Parallel()
	dev, rec, _ := formatted(t, testParams(), 1)
	text, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	var back Record
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if err := mustRead(t, dev).Verify(back); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"uuid", "cipher", "key_bits", "sector_size", "data_offset", "data_size", "digest_salt", "digest",
		"digest_iterations", "epoch", "header_hash", "broker", "account", "device"} {
		if !strings.Contains(string(text), `"`+name+`":`) {
			t.Errorf("no %s in %s", name, text)
		}
	}
}

func TestFormat_refusesAndLeavesTheDiskAlone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		field  string
		change func(*Params)
		size   int64
		bits   int
	}{
		"key size 64":                       {field: "key_bits", change: func(p *Params) { p.KeyBits = 64 }},
		"key size 0":                        {field: "key_bits", change: func(p *Params) { p.KeyBits = 0 }},
		"sector size 1024":                  {field: "sector_size", change: func(p *Params) { p.SectorSize = 1024 }},
		"negative sector size":              {field: "sector_size", change: func(p *Params) { p.SectorSize = -512 }},
		"no device":                         {field: "device", change: func(p *Params) { p.Device = "" }},
		"no account":                        {field: "account", change: func(p *Params) { p.Account = "" }},
		"no broker":                         {field: "broker", change: func(p *Params) { p.Broker = "" }},
		"quote in the device":               {field: "device", change: func(p *Params) { p.Device = `a"b` }},
		"NUL in the account":                {field: "account", change: func(p *Params) { p.Account = "a\x00b" }},
		"long broker":                       {field: "broker", change: func(p *Params) { p.Broker = strings.Repeat("x", 256) }},
		"absurd epoch":                      {field: "epoch", change: func(p *Params) { p.Epoch = 1 << 63 }},
		"key of another size":               {field: "key", bits: 128},
		"key of the other cipher":           {field: "key", change: func(p *Params) { p.Cipher = CipherESSIV }},
		"null cipher":                       {field: "cipher", change: func(p *Params) { p.Cipher = "cipher_null-ecb" }},
		"CBC with another IV":               {field: "cipher", change: func(p *Params) { p.Cipher = "aes-cbc-plain64" }},
		"no room for data":                  {field: "data_size", size: DataOffset},
		"empty device":                      {field: "data_size", size: -1},
		"4096-byte sectors that do not fit": {field: "sector_size", size: DataOffset + 4096 + 512},
		"size not in sectors":               {field: "data_size", size: DataOffset + 700, change: func(p *Params) { p.SectorSize = 512 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, size, bits := testParams(), int64(testSize), 256
			if c.change != nil {
				c.change(&p)
			}
			if c.size != 0 {
				size = max(c.size, 0)
			}
			if c.bits != 0 {
				bits = c.bits
			}
			dev := blockdev.NewMemory(size)
			_, err := Format(dev, p, testKey(t, bits, 1))
			var field *FieldError
			if !errors.As(err, &field) || field.Field != c.field {
				t.Errorf("error %v, want one of field %s", err, c.field)
			}
			if !bytes.Equal(dev.Snapshot(), make([]byte, size)) {
				t.Error("the refused device was written")
			}
		})
	}
}

func TestFormat_neverOverwritesDataWithoutTheWord(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]struct {
		off  int64
		data string
	}{
		"MBR":                   {510, "\x55\xaa"},
		"ext superblock":        {1080, "\x53\xef"},
		"btrfs superblock":      {64<<10 + 64, "_BHRfS_M"},
		"LUKS1":                 {0, "LUKS\xba\xbe\x00\x01"},
		"secondary LUKS2":       {16 << 10, "SKUL\xba\xbe"},
		"secondary at 32 KiB":   {32 << 10, "SKUL\xba\xbe"},
		"LVM label":             {512, "LABELONE"},
		"last byte of the area": {DataOffset - 1, "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dev := blockdev.NewMemory(testSize)
			if _, err := dev.WriteAt([]byte(put.data), put.off); err != nil {
				t.Fatal(err)
			}
			before := dev.Snapshot()
			p, key := testParams(), testKey(t, 256, 1)
			if _, err := Format(dev, p, key); !errors.Is(err, ErrHoldsData) {
				t.Errorf("error %v, want ErrHoldsData", err)
			}
			if !bytes.Equal(dev.Snapshot(), before) {
				t.Error("the refused device was written")
			}
			p.Overwrite = true
			if _, err := Format(dev, p, key); err != nil {
				t.Errorf("with Overwrite: %v", err)
			}
			if mustRead(t, dev); put.off >= keyslotsOffset && dev.Snapshot()[put.off] != 0 {
				t.Error("an old byte in the header area survived")
			}
		})
	}
}

func TestFormat_anOlderHeaderNeverComesBack(t *testing.T) {
	t.Parallel()
	dev, old, key := formatted(t, testParams(), 1)
	h := mustRead(t, dev)
	h.binary.seqID = 41
	replaceText(t, dev, h.binary, h.text)
	p := testParams()
	p.Overwrite, p.Epoch = true, 2
	rec, err := Format(dev, p, key)
	if err != nil {
		t.Fatal(err)
	}
	h = mustRead(t, dev)
	if h.SeqID() != 42 || h.Verify(rec) != nil || h.Verify(old) == nil {
		t.Errorf("sequence %d, header of %s", h.SeqID(), h.Record().UUID)
	}
}

func TestFormat_reportsDiskErrors(t *testing.T) {
	t.Parallel()
	for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite, blockdev.OpSync, blockdev.OpWriteZeroes} {
		dev := blockdev.NewFault(blockdev.NewMemory(testSize))
		dev.Add(blockdev.Rule{Ops: op})
		if _, err := Format(dev, testParams(), testKey(t, 256, 1)); !errors.Is(err, blockdev.ErrInjected) {
			t.Errorf("%s fails: error %v", op, err)
		}
	}
	lies := blockdev.NewFault(blockdev.NewMemory(testSize))
	lies.Add(blockdev.Rule{Ops: blockdev.OpWrite, Silent: true, Skip: 1, Count: 1})
	if _, err := Format(lies, testParams(), testKey(t, 256, 1)); err == nil {
		t.Error("a lost write of the secondary header went unnoticed")
	}
}

func TestWipeHeader_leavesNothingOfIt(t *testing.T) {
	t.Parallel()
	dev, _, _ := formatted(t, testParams(), 1)
	if _, err := dev.WriteAt([]byte("passphrase slot"), 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.WriteAt([]byte("payload"), DataOffset); err != nil {
		t.Fatal(err)
	}
	if err := WipeHeader(dev); err != nil {
		t.Fatal(err)
	}
	image := dev.Snapshot()
	if !bytes.Equal(image[:DataOffset], make([]byte, DataOffset)) {
		t.Error("something is left in the header area")
	}
	if string(image[DataOffset:DataOffset+7]) != "payload" {
		t.Error("the payload was touched")
	}
	if _, err := Read(dev); !errors.Is(err, ErrNotLUKS2) {
		t.Errorf("error %v, want ErrNotLUKS2", err)
	}
	fault := blockdev.NewFault(dev)
	fault.Add(blockdev.Rule{Ops: blockdev.OpSync})
	if err := WipeHeader(fault); !errors.Is(err, blockdev.ErrInjected) {
		t.Errorf("a wipe that was not flushed returned %v", err)
	}
	if err := WipeHeader(blockdev.NewMemory(100)); err != nil {
		t.Errorf("small device: %v", err)
	}
}
