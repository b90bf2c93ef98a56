package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

const (
	goldenFile       = "testdata/exported-key-v1.xml"
	goldenPassphrase = "correct horse battery"
)

func golden(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// An export may be opened years later: the file in testdata was written by version 1 and must open for ever.
func TestOpenExported_fileOfVersion1(t *testing.T) {
	t.Parallel()
	e, err := OpenExported(bytes.NewReader(golden(t)), goldenPassphrase)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 64)
	for i := range want {
		want[i] = byte(i)
	}
	if e.DeviceID != "vol1-e64a8f86" || e.Name != `Data <1> & "two"` || !bytes.Equal(e.Key, want) {
		t.Errorf("got %+v, key %x", e, e.Key)
	}
	if e.Volume.UUID != "6f9d3e8c-8f5b-4e6e-9a57-2b8f3c0d1e2f" || e.Volume.KeyBits != 256 || e.Volume.Cipher != "aes-xts-plain64" ||
		e.Volume.DataOffset != 16<<20 || len(e.Volume.Digest) != 32 || e.Volume.Device != "vol1-e64a8f86" {
		t.Errorf("volume record %+v", e.Volume)
	}
}

func TestOpenExported_wrongPassphraseOrChangedFile(t *testing.T) {
	t.Parallel()
	if _, err := OpenExported(bytes.NewReader(golden(t)), "correct horse batterz"); !errors.Is(err, ErrExported) {
		t.Errorf("another passphrase: %v", err)
	}
	for name, c := range map[string][2]string{
		"another device":      {`id="vol1-e64a8f86"`, `id="vol2-e64a8f86"`},
		"another name":        {`name="Data`, `name="Date`},
		"another salt":        {`salt="`, `salt="A`},
		"another time":        {`time="3"`, `time="2"`},
		"another memory":      {`memory-kib="65536"`, `memory-kib="65537"`},
		"another threads":     {`threads="4"`, `threads="3"`},
		"another volume":      {`<volume>eyJ1`, `<volume>eyJV`},
		"the key's last byte": {`</key>`, `</key> <!-- -->`},
	} {
		text := string(golden(t))
		bad := strings.Replace(text, c[0], c[1], 1)
		if bad == text {
			t.Fatalf("%s: %q is not in the file", name, c[0])
		}
		switch name {
		case "another salt": // keep the length
			i := strings.Index(bad, `salt="A`) + len(`salt="A`)
			bad = bad[:i] + bad[i+1:]
		case "the key's last byte":
			i := strings.Index(text, `</key>`) - 6
			other := byte('A')
			if text[i] == 'A' {
				other = 'B'
			}
			bad = text[:i] + string(other) + text[i+1:]
		}
		if _, err := OpenExported(strings.NewReader(bad), goldenPassphrase); !errors.Is(err, ErrExported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A file from elsewhere must not take the machine's memory or time: it is refused before a key is derived.
func TestOpenExported_refusesWhatIsNoExport(t *testing.T) {
	t.Parallel()
	text := string(golden(t))
	for name, c := range map[string]struct{ old, new, says string }{
		"memory bomb":      {`memory-kib="65536"`, `memory-kib="4294967295"`, "out of range"},
		"a bit too much":   {`memory-kib="65536"`, `memory-kib="262145"`, "out of range"},
		"number too large": {`memory-kib="65536"`, `memory-kib="4294967296"`, "not an exported key"},
		"too little":       {`memory-kib="65536"`, `memory-kib="8"`, "out of range"},
		"time bomb":        {`time="3"`, `time="4294967295"`, "out of range"},
		"no time":          {`time="3"`, `time="0"`, "out of range"},
		"many threads":     {`threads="4"`, `threads="255"`, "out of range"},
		"no threads":       {`threads="4"`, `threads="0"`, "out of range"},
		"another KDF":      {`"argon2id"`, `"pbkdf2"`, "argon2id"},
		"another cipher":   {`"aes-256-gcm"`, `"null"`, "aes-256-gcm"},
		"newer version":    {`version="1">`, `version="2">`, "version is 2"},
		"no device":        {`id="vol1-e64a8f86"`, `id=""`, "no device"},
		"short salt":       {`salt="`, `salt="AAAA" old="`, "salt"},
		"other root":       {`keyward-device-key`, `device-key`, "not an exported key"},
		"two documents":    {`</keyward-device-key>`, `</keyward-device-key><keyward-device-key/>`, "follows"},
		"entity":           {`<volume>`, `<volume>&xxe;`, "not an exported key"},
		"volume no JSON":   {`<volume>eyJ1`, `<volume>AAAA`, "volume record"},
	} {
		bad := strings.ReplaceAll(text, c.old, c.new)
		if bad == text {
			t.Fatalf("%s: %q is not in the file", name, c.old)
		}
		if _, err := ReadExport([]byte(bad)); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := OpenExported(strings.NewReader(bad), goldenPassphrase); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	if _, err := OpenExported(io.LimitReader(zeroes{}, 1<<40), goldenPassphrase); err == nil {
		t.Error("an endless file was read")
	}
	if _, err := OpenExported(strings.NewReader(text), ""); err == nil {
		t.Error("opened without a passphrase")
	}
}

func TestExported_isNeverPrinted(t *testing.T) {
	t.Parallel()
	e := Exported{DeviceID: "dev", Name: "data", Key: []byte("secret volume key")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if text := fmt.Sprintf(verb, e); strings.Contains(text, "secret") || strings.Contains(text, "115 101 99") || !strings.Contains(text, "dev") {
			t.Errorf("%s: %s", verb, text)
		}
	}
	if b, err := json.Marshal(e); err == nil {
		t.Errorf("JSON: %s", b)
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func FuzzReadExport(f *testing.F) {
	f.Add(golden(f))
	f.Add(bytes.Replace(golden(f), []byte("65536"), []byte("4294967295"), 1))
	f.Add([]byte(`<keyward-device-key version="1"><device id="a"/></keyward-device-key>`))
	f.Add([]byte(`<!DOCTYPE x [<!ENTITY a "b">]><keyward-device-key version="1"/>`))
	kek := make([]byte, exportKEKBytes)
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parseExport(data)
		if err != nil {
			return
		}
		k := p.KDF
		if k.MemoryKiB > maxKDFMemory || k.Time > maxKDFTime || k.Time == 0 || k.Threads == 0 || k.Threads > maxKDFThreads ||
			len(p.salt) < minKDFSalt || len(p.salt) > maxKDFSalt || p.Device.ID == "" {
			t.Fatalf("accepted %+v", p.ExportFile)
		}
		if e, err := p.open(kek); err == nil {
			t.Fatalf("opened %v with a key of zeroes", e)
		}
	})
}
