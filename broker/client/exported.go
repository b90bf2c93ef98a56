package client

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/argon2"

	"keyward/broker/api"
)

// ErrExported says that an exported key does not open: another passphrase, or a changed file. Which of the two cannot
// be told apart.
var ErrExported = errors.New("wrong passphrase, or the file was changed")

// ExportFile is an exported device key as it stands in its XML file, which opens without a broker:
//
//	<keyward-device-key version="1">
//	  <device id="..." name="..."></device>
//	  <volume>base64 of the volume record as JSON</volume>
//	  <kdf name="argon2id" time="3" memory-kib="65536" threads="4" salt="base64"></kdf>
//	  <key cipher="aes-256-gcm">base64 of nonce (12 bytes), ciphertext, tag (16 bytes)</key>
//	</keyward-device-key>
//
// The key is encrypted under Argon2id(passphrase, salt); the associated data is AAD. All of the file but the key is
// readable by anyone, and none of it can be changed without the passphrase.
type ExportFile struct {
	XMLName xml.Name     `xml:"keyward-device-key"`
	Version int          `xml:"version,attr"`
	Device  ExportDevice `xml:"device"`
	Volume  string       `xml:"volume"`
	KDF     ExportKDF    `xml:"kdf"`
	Key     ExportKey    `xml:"key"`
}

// ExportDevice names the device of an exported key.
type ExportDevice struct {
	ID   string `xml:"id,attr"`
	Name string `xml:"name,attr"`
}

// ExportKDF are the parameters of Argon2id (RFC 9106); Salt is base64.
type ExportKDF struct {
	Name      string `xml:"name,attr"`
	Time      uint32 `xml:"time,attr"`
	MemoryKiB uint32 `xml:"memory-kib,attr"`
	Threads   uint8  `xml:"threads,attr"`
	Salt      string `xml:"salt,attr"`
}

// ExportKey is the encrypted key; Text is base64.
type ExportKey struct {
	Cipher string `xml:"cipher,attr"`
	Text   string `xml:",chardata"`
}

// The constants of version 1. The limits keep a prepared file from taking the machine's memory or hours of its time.
const (
	ExportVersion = 1
	ExportKDFName = "argon2id"
	ExportCipher  = "aes-256-gcm"

	maxExportFile   = 64 << 10
	maxKDFTime      = 10
	minKDFMemory    = 8 << 10   // KiB
	maxKDFMemory    = 256 << 10 // KiB
	maxKDFThreads   = 16
	minKDFSalt      = 16
	maxKDFSalt      = 64
	exportNonce     = 12
	exportKEKBytes  = 32
	maxPassphrase   = 1024
	maxExportedName = 1024
)

// AAD is what an exported key is bound to: a domain, the version, device ID, name, volume record, and the derivation, each
// preceded by its length as four bytes, big-endian.
func (f ExportFile) AAD() []byte {
	var out []byte
	for _, s := range []string{"keyward exported key", fmt.Sprint(f.Version), f.Device.ID, f.Device.Name, f.Volume,
		f.KDF.Name, fmt.Sprint(f.KDF.Time), fmt.Sprint(f.KDF.MemoryKiB), fmt.Sprint(f.KDF.Threads), f.KDF.Salt, f.Key.Cipher} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(s)))
		out = append(out, s...)
	}
	return out
}

// Exported is an opened export.
type Exported struct {
	DeviceID string
	Name     string
	Volume   api.VolumeRecord
	// Key is the volume key; the caller wipes it.
	Key []byte
}

// String leaves the key out.
func (e Exported) String() string {
	return fmt.Sprintf("exported key of device %s (%s)", e.DeviceID, e.Name)
}

// Format leaves the key out, whatever the verb.
func (e Exported) Format(f fmt.State, _ rune) { io.WriteString(f, e.String()) }

// MarshalJSON refuses.
func (Exported) MarshalJSON() ([]byte, error) {
	return nil, errors.New("an exported key is never encoded as JSON")
}

// OpenExported reads an exported key file, at most 64 KiB, and decrypts it. It takes up to 256 MiB of memory if the file
// says so, 64 MiB as the broker writes it. The error wraps ErrExported when the passphrase is wrong or the file changed.
func OpenExported(r io.Reader, passphrase string) (Exported, error) {
	if passphrase == "" || len(passphrase) > maxPassphrase {
		return Exported{}, fmt.Errorf("opening exported key: the passphrase has %d bytes: give the one that was chosen at the export", len(passphrase))
	}
	data, err := io.ReadAll(io.LimitReader(r, maxExportFile+1))
	if err != nil {
		return Exported{}, fmt.Errorf("opening exported key: %w", err)
	}
	f, err := parseExport(data)
	if err != nil {
		return Exported{}, fmt.Errorf("opening exported key: %w: take the file as the broker exported it", err)
	}
	kek := argon2.IDKey([]byte(passphrase), f.salt, f.KDF.Time, f.KDF.MemoryKiB, f.KDF.Threads, exportKEKBytes)
	defer clear(kek)
	e, err := f.open(kek)
	if err != nil {
		return Exported{}, fmt.Errorf("opening exported key of device %q: %w", f.Device.ID, err)
	}
	return e, nil
}

// ReadExport reads an export file without opening it, and refuses what OpenExported would refuse before it derives a key.
func ReadExport(data []byte) (ExportFile, error) {
	f, err := parseExport(data)
	return f.ExportFile, err
}

// ReadExportRecord is ReadExport, with the record of the volume. Both are what the file says, and proved only by opening it.
func ReadExportRecord(data []byte) (ExportFile, api.VolumeRecord, error) {
	f, err := parseExport(data)
	return f.ExportFile, f.volume, err
}

// parsedExport is an export file with every length and parameter checked.
type parsedExport struct {
	ExportFile
	volume       api.VolumeRecord
	salt, sealed []byte
}

func parseExport(data []byte) (parsedExport, error) {
	if len(data) > maxExportFile {
		return parsedExport{}, fmt.Errorf("the file is longer than %d bytes", maxExportFile)
	}
	var f parsedExport
	d := xml.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&f.ExportFile); err != nil {
		return parsedExport{}, fmt.Errorf("it is not an exported key: %w", err)
	}
	if err := onlySpace(d); err != nil {
		return parsedExport{}, err
	}
	k := f.KDF
	switch {
	case f.Version != ExportVersion:
		return parsedExport{}, fmt.Errorf("its version is %d, this program reads %d", f.Version, ExportVersion)
	case f.Device.ID == "" || len(f.Device.ID) > maxExportedName || len(f.Device.Name) > maxExportedName:
		return parsedExport{}, errors.New("it names no device, or one too long")
	case k.Name != ExportKDFName || f.Key.Cipher != ExportCipher:
		return parsedExport{}, fmt.Errorf("%q with %q is not %s with %s", k.Name, f.Key.Cipher, ExportKDFName, ExportCipher)
	case k.Time < 1 || k.Time > maxKDFTime || k.MemoryKiB < minKDFMemory || k.MemoryKiB > maxKDFMemory || k.Threads < 1 || k.Threads > maxKDFThreads:
		return parsedExport{}, fmt.Errorf("its Argon2id parameters (time %d, memory %d KiB, threads %d) are out of range", k.Time, k.MemoryKiB, k.Threads)
	}
	var err error
	if f.salt, err = decodeField("salt", k.Salt, minKDFSalt, maxKDFSalt); err != nil {
		return parsedExport{}, err
	}
	if f.sealed, err = decodeField("key", f.Key.Text, exportNonce+minVolumeKey+tagBytes, exportNonce+maxVolumeKey+tagBytes); err != nil {
		return parsedExport{}, err
	}
	record, err := decodeField("volume", f.Volume, 2, maxExportFile)
	if err != nil {
		return parsedExport{}, err
	}
	if err := json.Unmarshal(record, &f.volume); err != nil {
		return parsedExport{}, fmt.Errorf("its volume record cannot be read: %w", err)
	}
	return f, nil
}

// onlySpace refuses anything but white space after the document.
func onlySpace(d *xml.Decoder) error {
	for {
		token, err := d.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("what follows the key cannot be read: %w", err)
		}
		if text, ok := token.(xml.CharData); !ok || len(bytes.TrimSpace(text)) > 0 {
			return errors.New("something follows the key")
		}
	}
}

func decodeField(name, text string, least, most int) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("its %s is not base64: %w", name, err)
	}
	if len(b) < least || len(b) > most {
		return nil, fmt.Errorf("its %s has %d bytes, %d to %d are expected", name, len(b), least, most)
	}
	return b, nil
}

func (f parsedExport) open(kek []byte) (Exported, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return Exported{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return Exported{}, err
	}
	key, err := aead.Open(nil, nil, f.sealed, f.AAD())
	if err != nil {
		return Exported{}, ErrExported
	}
	if n, err := VolumeKeyBytes(f.volume.Cipher, f.volume.KeyBits); err != nil || len(key) != n {
		clear(key)
		return Exported{}, fmt.Errorf("a key of %d bytes does not fit its volume of %d bits: export it again", len(key), f.volume.KeyBits)
	}
	return Exported{DeviceID: f.Device.ID, Name: f.Device.Name, Volume: f.volume, Key: key}, nil
}
