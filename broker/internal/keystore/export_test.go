package keystore

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/broker/client"
)

var writeGolden = flag.Bool("write-golden", false, "write a new exported key for the client's tests, after a new format version")

func exportInfo() ExportInfo {
	return ExportInfo{DeviceID: "vol1-e64a8f86", Name: `Data <1> & "two"`, Volume: api.VolumeRecord{
		UUID: "6f9d3e8c-8f5b-4e6e-9a57-2b8f3c0d1e2f", Cipher: "aes-xts-plain64", KeyBits: 256, SectorSize: 4096, DataOffset: 16 << 20,
		DataSize: 512 << 20, DigestSalt: bytes.Repeat([]byte{1}, 32), Digest: bytes.Repeat([]byte{2}, 32), DigestIterations: 1000, Epoch: 1,
		HeaderHash: bytes.Repeat([]byte{3}, 32), Broker: "https://broker.example", Account: "acc", Device: "vol1-e64a8f86"}}
}

func sequence(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

func TestExport_opensWithoutABroker(t *testing.T) {
	t.Parallel()
	const passphrase = "correct horse battery"
	e, err := NewExporter(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	for _, bits := range []int{128, 192, 256} {
		info := exportInfo()
		info.Volume.KeyBits = bits
		want := sequence(bits / 4)
		data, err := e.XML(info, KeyOf(bytes.Clone(want)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.OpenExported(bytes.NewReader(data), passphrase)
		if err != nil || !bytes.Equal(got.Key, want) || got.DeviceID != info.DeviceID || got.Name != info.Name ||
			!bytes.Equal(got.Volume.Digest, info.Volume.Digest) || got.Volume.DataSize != info.Volume.DataSize {
			t.Errorf("%d bits: %v, %v", bits, got, err)
		}
		if bytes.Contains(data, []byte(passphrase)) {
			t.Error("the passphrase is in the file")
		}
	}
	if *writeGolden {
		data, err := e.XML(exportInfo(), KeyOf(sequence(64)))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("..", "..", "client", "testdata", "exported-key-v1.xml")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	e.Wipe()
}

func TestExport_twiceTheSameKeyGivesTwoFiles(t *testing.T) {
	t.Parallel()
	a, err := ExportXML(exportInfo(), KeyOf(sequence(64)), "a passphrase")
	if err != nil {
		t.Fatal(err)
	}
	b, err := ExportXML(exportInfo(), KeyOf(sequence(64)), "a passphrase")
	if err != nil {
		t.Fatal(err)
	}
	fa, errA := client.ReadExport(a)
	fb, errB := client.ReadExport(b)
	if errA != nil || errB != nil || fa.KDF.Salt == fb.KDF.Salt || fa.Key.Text == fb.Key.Text {
		t.Errorf("salt and key are the same: %v %v", errA, errB)
	}
}

func TestExport_namesThatXMLCannotCarryStillOpen(t *testing.T) {
	t.Parallel()
	info := exportInfo()
	info.Name = "tab\tline\nreturn\r nul\x00 bad\xff end]]> é漢 \u2028\ufffe"
	data, err := ExportXML(info, KeyOf(sequence(64)), "a passphrase")
	if err != nil {
		t.Fatal(err)
	}
	got, err := client.OpenExported(bytes.NewReader(data), "a passphrase")
	if err != nil || !strings.Contains(got.Name, "é漢") {
		t.Errorf("%q, %v", got.Name, err)
	}
}

func TestExport_refusesWhatCouldNotBeOpenedAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change     func(*ExportInfo)
		key        int
		passphrase string
	}{
		"short passphrase":  {func(*ExportInfo) {}, 64, "1234567"},
		"long passphrase":   {func(*ExportInfo) {}, 64, strings.Repeat("x", maxPassphraseBytes+1)},
		"key of other size": {func(*ExportInfo) {}, 32, "a passphrase"},
		"no volume record":  {func(i *ExportInfo) { i.Volume = api.VolumeRecord{} }, 64, "a passphrase"},
		"no device":         {func(i *ExportInfo) { i.DeviceID = "" }, 64, "a passphrase"},
		"endless name":      {func(i *ExportInfo) { i.Name = strings.Repeat("x", 2000) }, 64, "a passphrase"},
	} {
		info := exportInfo()
		c.change(&info)
		if data, err := ExportXML(info, KeyOf(sequence(c.key)), c.passphrase); err == nil {
			t.Errorf("%s: exported %s", name, data)
		}
	}
	data, err := ExportXML(exportInfo(), KeyOf(sequence(64)), "a passphrase")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.OpenExported(bytes.NewReader(data), "another passphrase"); !errors.Is(err, client.ErrExported) {
		t.Errorf("got %v", err)
	}
}
