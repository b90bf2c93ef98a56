package keystore

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"strings"

	"keyward/broker/api"
	"keyward/broker/client"
)

// MinExportPassphrase is the least length in bytes of an export's passphrase, as the API promises it.
const MinExportPassphrase = 8

// ExportInfo is what an exported file says of its device.
type ExportInfo struct {
	DeviceID string
	Name     string
	Volume   api.VolumeRecord
}

// Exporter writes exported keys under one passphrase, derived once; see client.ExportFile for the format. Wipe it after
// use. It is safe for concurrent use until then.
type Exporter struct {
	kdf client.ExportKDF
	kek Key
}

// NewExporter derives the key of an export, with a fresh salt. It takes 64 MiB and about a quarter second.
func NewExporter(passphrase string) (*Exporter, error) {
	if len(passphrase) < MinExportPassphrase || len(passphrase) > maxPassphraseBytes {
		return nil, fmt.Errorf("an export's passphrase has %d to %d bytes: choose another", MinExportPassphrase, maxPassphraseBytes)
	}
	salt := make([]byte, saltBytes)
	rand.Read(salt)
	return &Exporter{
		kdf: client.ExportKDF{Name: client.ExportKDFName, Time: argonTime, MemoryKiB: argonMemory, Threads: argonThreads,
			Salt: base64.StdEncoding.EncodeToString(salt)},
		kek: argon(passphrase, salt, argonTime, argonMemory, argonThreads),
	}, nil
}

// Wipe forgets the passphrase's key.
func (e *Exporter) Wipe() { e.kek.Wipe() }

// XML is the file of one device.
func (e *Exporter) XML(info ExportInfo, key Key) ([]byte, error) {
	n, err := client.VolumeKeyBytes(info.Volume.Cipher, info.Volume.KeyBits)
	if err != nil {
		return nil, fmt.Errorf("exporting the key of device %s: %w", info.DeviceID, err)
	}
	if key.Len() != n {
		return nil, fmt.Errorf("exporting the key of device %s: its key has %d bytes, its volume record wants %d", info.DeviceID, key.Len(), n)
	}
	volume, err := json.Marshal(info.Volume)
	if err != nil {
		return nil, err
	}
	f := client.ExportFile{
		Version: client.ExportVersion,
		Device:  client.ExportDevice{ID: printable(info.DeviceID), Name: printable(info.Name)},
		Volume:  base64.StdEncoding.EncodeToString(volume),
		KDF:     e.kdf,
		Key:     client.ExportKey{Cipher: client.ExportCipher},
	}
	aead, err := gcm(e.kek)
	if err != nil {
		return nil, err
	}
	f.Key.Text = base64.StdEncoding.EncodeToString(aead.Seal(nil, nil, key.Bytes(), f.AAD()))
	out, err := xml.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("exporting the key of device %s: %w", info.DeviceID, err)
	}
	// An export may be all that is left one day: what was written must read back as what the key is bound to.
	back, err := client.ReadExport(out)
	if err != nil || !bytes.Equal(back.AAD(), f.AAD()) || back.Key != f.Key {
		return nil, errors.Join(fmt.Errorf("exporting the key of device %s: the file does not read back as it was written: rename the device", info.DeviceID), err)
	}
	return append([]byte(xml.Header), append(out, '\n')...), nil
}

// ExportXML is the file of one device under a passphrase; for several devices use an Exporter.
func ExportXML(info ExportInfo, key Key, passphrase string) ([]byte, error) {
	e, err := NewExporter(passphrase)
	if err != nil {
		return nil, err
	}
	defer e.Wipe()
	return e.XML(info, key)
}

// printable replaces what XML cannot carry, so that the name that is bound is the name that is read.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffe || r == 0xffff {
			return '\ufffd'
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
}
