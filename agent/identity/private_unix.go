//go:build unix

package identity

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

func private(path string, folder bool) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("open the machine's identity: %w", err)
	}
	return privateInfo(path, info, folder)
}

// privateInfo refuses a key file that others can read, and a folder in which others can replace it.
func privateInfo(path string, info fs.FileInfo, folder bool) error {
	mask := fs.FileMode(0o077)
	if folder {
		mask = 0o022
	}
	if mode := info.Mode().Perm(); mode&mask != 0 {
		return fmt.Errorf("%s has mode %04o: others could use or replace this machine's identity; run: chmod go-rwx %s", path, mode, path)
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d and not to user %d that runs the agent; run: chown %d %s",
			path, owner.Uid, os.Geteuid(), os.Geteuid(), path)
	}
	return nil
}
