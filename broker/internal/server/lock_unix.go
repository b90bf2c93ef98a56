//go:build unix

package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// dataLock keeps a second broker away from an embedded database. The kernel drops it with the process.
type dataLock struct{ f *os.File }

func lockData(c Config) (*dataLock, error) {
	if !strings.HasPrefix(c.DSN, "sqlite:") {
		return nil, nil
	}
	f, err := os.OpenFile(filepath.Join(c.Data, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another broker runs on %s: stop it first, or give each its own folder and one PostgreSQL", c.Data)
	}
	return &dataLock{f}, nil
}

func (l *dataLock) release() error { return l.f.Close() }
