package nbdcrypt

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// A released format is never regenerated: volumes in the field have it. The flag writes only files that do not exist.
var writeGolden = flag.Bool("write-golden", false, "make the golden image of a new format version")

// goldenPlain is what the golden volume holds: text from the first byte on, and across a sector boundary.
const (
	goldenSize  = 64 << 10
	goldenText  = "Keyward volume format, version 1. "
	goldenAt    = 2*4096 - 10
	goldenKeyIs = "bytes 00 to 3f" // for readers of the documentation
)

func goldenKey(t testing.TB) *keymem.Key {
	t.Helper()
	raw := make([]byte, 64)
	for i := range raw {
		raw[i] = byte(i)
	}
	key, err := keymem.FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return key
}

func goldenPath(name string) string { return filepath.Join("testdata", name) }

// golden is the image of format version 1 and its record.
func golden(t testing.TB) ([]byte, luks2.Record) {
	t.Helper()
	f, err := os.Open(goldenPath("volume-v1.img.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	image, err := io.ReadAll(io.LimitReader(unzip, luks2.DataOffset+goldenSize+1))
	if err != nil || len(image) != luks2.DataOffset+goldenSize {
		t.Fatalf("image of %d bytes: %v", len(image), err)
	}
	text, err := os.ReadFile(goldenPath("volume-v1.record.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rec luks2.Record
	if err := json.Unmarshal(text, &rec); err != nil {
		t.Fatal(err)
	}
	return image, rec
}

func TestGolden_version1OpensForEver(t *testing.T) {
	if *writeGolden {
		makeGolden(t)
	}
	image, rec := golden(t)
	v, err := Open(blockdev.NewMemoryFrom(image), rec, goldenKey(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	got := make([]byte, len(goldenText))
	for _, off := range []int64{0, goldenAt} {
		if _, err := v.ReadAt(got, off); err != nil || string(got) != goldenText {
			t.Errorf("at %d stands %q (%v)", off, got, err)
		}
	}
	if _, err := v.WriteAt(got, goldenSize-int64(len(got))); err != nil {
		t.Error(err)
	}
}

func makeGolden(t *testing.T) {
	t.Helper()
	dev := blockdev.NewMemory(luks2.DataOffset + goldenSize)
	rec, err := luks2.Format(dev, luks2.Params{Device: "example-device", Account: "example-account", Broker: "https://broker.example", KeyBits: 256}, goldenKey(t))
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(dev, rec, goldenKey(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, goldenAt} {
		if err := v.WriteZeroes(off/4096*4096, 2*4096, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, off := range []int64{0, goldenAt} {
		if _, err := v.WriteAt([]byte(goldenText), off); err != nil {
			t.Fatal(err)
		}
	}
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	if _, err := zip.Write(dev.Snapshot()); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"volume-v1.img.gz": zipped.Bytes(), "volume-v1.record.json": append(text, '\n')} {
		f, err := os.OpenFile(goldenPath(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// decryptSector is what a reader of the documentation would write: AES-XTS by OpenSSL, no code of ours.
const decryptSector = `
import sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
key, tweak, sector = (bytes.fromhex(a) for a in sys.argv[1:])
d = Cipher(algorithms.AES(key), modes.XTS(tweak)).decryptor()
sys.stdout.buffer.write(d.update(sector) + d.finalize())
`

func TestVolume_opensslDecryptsWhatWeWrote(t *testing.T) {
	t.Parallel()
	const python = "/usr/bin/python3"
	if err := exec.Command(python, "-c", "import cryptography").Run(); err != nil {
		t.Skip("no python3 with OpenSSL's ciphers: apt-get install python3-cryptography")
	}
	for _, bits := range []int{128, 256} { // OpenSSL has no XTS with 192 bits
		for _, sector := range []int{512, 4096} {
			dev, rec := fresh(t, bits, sector)
			v := open(t, dev, rec, Options{})
			plain := bytes.Repeat([]byte(goldenText), 3*sector)[:3*sector]
			const first = 5
			if _, err := v.WriteAt(plain, int64(first*sector)); err != nil {
				t.Fatal(err)
			}
			disk := dev.Snapshot()[luks2.DataOffset:]
			for n := first; n < first+3; n++ {
				var tweak [16]byte
				tweak[0] = byte(n * sector / 512)
				out, err := exec.Command(python, "-c", decryptSector, hexOf(rawKey(bits, 1)), hexOf(tweak[:]), hexOf(disk[n*sector:(n+1)*sector])).Output()
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(out, plain[(n-first)*sector:(n-first+1)*sector]) {
					t.Errorf("%d bits, %d-byte sector %d: OpenSSL decrypts it to something else", bits, sector, n)
				}
			}
		}
	}
}

func hexOf(b []byte) string {
	var s strings.Builder
	for _, c := range b {
		s.WriteString(strconv.FormatUint(uint64(c)|0x100, 16)[1:])
	}
	return s.String()
}

// The documentation's byte table and dump are the golden image's own bytes.
func TestGolden_documentationShowsItsBytes(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "docs", "volume-format.md"))
	if err != nil {
		t.Fatal(err)
	}
	image, rec := golden(t)
	// A table row: | offset | size | field | meaning | `hex` or `hex ...` |
	row := regexp.MustCompile("(?m)^\\| (\\d+) \\| (\\d+) \\| .* \\| `([0-9a-f ]+?)( \\.\\.\\.)?` \\|$")
	// A dump line: offset in hex, two spaces, bytes
	dump := regexp.MustCompile(`(?m)^([0-9a-f]{8})  ((?:[0-9a-f]{2} ?)+)`)
	rows, lines := row.FindAllStringSubmatch(string(doc), -1), dump.FindAllStringSubmatch(string(doc), -1)
	if len(rows) < 14 || len(lines) < 8 {
		t.Fatalf("found %d rows and %d dump lines: is the documentation still in this form?", len(rows), len(lines))
	}
	next := 0
	for _, r := range rows {
		off, _ := strconv.Atoi(r[1])
		size, _ := strconv.Atoi(r[2])
		want := strings.ReplaceAll(r[3], " ", "")
		if off != next {
			t.Errorf("row %q: the field before it ends at %d", r[0], next)
		}
		next = off + size
		if complete := len(want) == 2*size; complete == (r[4] != "") {
			t.Errorf("row %q: %d bytes are shown of %d", r[0], len(want)/2, size)
		}
		if got := hexOf(image[off : off+len(want)/2]); got != want {
			t.Errorf("row %q: the image has %s", r[0], got)
		}
	}
	if next != 4096 {
		t.Errorf("the table ends at %d", next)
	}
	for _, l := range lines {
		off, _ := strconv.ParseInt(l[1], 16, 64)
		want := strings.ReplaceAll(l[2], " ", "")
		if got := hexOf(image[off : off+int64(len(want)/2)]); got != want {
			t.Errorf("dump line %q: the image has %s", l[0], got)
		}
	}
	canonical := regexp.MustCompile(`(?m)^\{"uuid":.*$`).Find(doc)
	if sum := sha256.Sum256(canonical); !bytes.Equal(sum[:], rec.HeaderHash) {
		t.Errorf("the canonical content shown has hash %x", sum)
	}
	for name, text := range map[string]string{
		"key":         goldenKeyIs,
		"JSON":        string(bytes.TrimRight(image[4096:luks2.HeaderSize], "\x00")),
		"header hash": hexOf(rec.HeaderHash),
		"digest":      hexOf(rec.Digest),
		"plaintext":   strings.TrimSpace(goldenText),
	} {
		if !strings.Contains(string(doc), text) {
			t.Errorf("the documentation does not show the %s: %s", name, text)
		}
	}
}
