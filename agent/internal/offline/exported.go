package offline

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"keyward/broker/client"
	"keyward/nbdcrypt/keymem"
)

// What files of an export may be, in bytes and in number.
const (
	maxExportFile    = 64 << 10
	maxExportEntries = 4096
)

// Exported is an exported key that has not been opened.
type Exported struct {
	// From is the file, and the entry in it where the file is an archive.
	From string
	Volume
	data []byte
}

// ReadExported reads exported keys from XML files, and from the ZIP archives of an export.
func ReadExported(paths []string) ([]Exported, error) {
	var out []Exported
	for _, path := range paths {
		found, err := readExported(path)
		if err != nil {
			return nil, fmt.Errorf("read exported keys from %s: %w", path, err)
		}
		out = append(out, found...)
	}
	// The same key may lie beside the archive that it was unpacked from.
	return slices.CompactFunc(slices.SortedFunc(slices.Values(out), func(a, b Exported) int { return bytes.Compare(a.data, b.data) }),
		func(a, b Exported) bool { return bytes.Equal(a.data, b.data) }), nil
}

func readExported(path string) ([]Exported, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	magic := make([]byte, 4)
	if _, err := f.ReadAt(magic, 0); err != nil && err != io.EOF {
		return nil, err
	}
	if string(magic) == "PK\x03\x04" {
		return fromArchive(f, info.Size(), path)
	}
	e, err := fromXML(f, path)
	return []Exported{e}, err
}

func fromArchive(r io.ReaderAt, size int64, path string) ([]Exported, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("it is not the archive of a key export: %w", err)
	}
	if len(z.File) > maxExportEntries {
		return nil, fmt.Errorf("it has %d entries, at most %d are expected", len(z.File), maxExportEntries)
	}
	var out []Exported
	for _, entry := range z.File {
		if !strings.HasSuffix(entry.Name, ".xml") {
			continue
		}
		f, err := entry.Open()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name, err)
		}
		e, err := fromXML(f, filepath.Base(path)+":"+entry.Name)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", entry.Name, err)
		}
		out = append(out, e)
	}
	if len(out) == 0 {
		return nil, errors.New("it holds no exported key")
	}
	return out, nil
}

func fromXML(r io.Reader, from string) (Exported, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxExportFile+1))
	if err != nil {
		return Exported{}, err
	}
	f, record, err := client.ReadExportRecord(data)
	if err != nil {
		return Exported{}, err
	}
	return Exported{From: from, Volume: Volume{DeviceID: f.Device.ID, Name: f.Device.Name, Record: record}, data: data}, nil
}

// Open decrypts the key with the passphrase of the export. The error wraps client.ErrExported when it is another one.
func (e Exported) Open(passphrase string) (Key, error) {
	opened, err := client.OpenExported(bytes.NewReader(e.data), passphrase)
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", e.From, err)
	}
	secret, err := keymem.FromBytes(opened.Key)
	if err != nil {
		return Key{}, err
	}
	return Key{DeviceID: opened.DeviceID, Name: opened.Name, Volume: opened.Volume, Secret: secret}, nil
}
