package lab

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// MakeDisk creates a raw disk of size bytes, all zeroes and sparse.
func MakeDisk(path string, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	defer file.Close()
	return file.Truncate(size)
}

// DiskHolds reports whether needle stands anywhere on the raw disk.
func DiskHolds(path string, needle []byte) (bool, error) {
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	window := make([]byte, 4<<20)
	kept := 0
	for {
		n, err := io.ReadFull(file, window[kept:])
		if bytes.Contains(window[:kept+n], needle) {
			return true, nil
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("search %s: %w", path, err)
		}
		// The end stays, in case the needle lies across the edge.
		kept = copy(window, window[len(window)-len(needle)+1:])
	}
}
