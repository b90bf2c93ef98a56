//go:build !linux

package blockdev

import (
	"errors"
	"fmt"
	"os"
)

func openExclusive(path string, flags int, isBlock bool) (*os.File, error) {
	if isBlock {
		return nil, fmt.Errorf("%s is a block device: %w on this system; use an image file", path, errors.ErrUnsupported)
	}
	return os.OpenFile(path, flags, 0)
}

func lockFile(*os.File, bool) error { return nil }

func unlockFile(*os.File) {}

func blockGeometry(*os.File) (int64, int, error) { return 0, 0, errors.ErrUnsupported }

func openDirect(*os.File, bool, bool, int64, int) (*os.File, int, error) {
	return nil, 0, errors.ErrUnsupported
}

func misaligned([]byte, int) int { return 0 }

func syncData(f *os.File) error { return f.Sync() }

func noSpace(err error) error { return err }
