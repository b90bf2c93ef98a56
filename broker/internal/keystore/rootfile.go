package keystore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// CreateRootFile makes a new root key and writes its 32 bytes to path, readable by this user only. An existing file is
// never touched. When it returns, the key is on disk: whatever is wrapped by it can be opened again.
func CreateRootFile(path string) (Root, error) {
	key := randomKey(kekBytes)
	if err := createSecretFile(path, key.Bytes()); err != nil {
		return nil, fmt.Errorf("creating root key file: %w", err)
	}
	return newMemoryRoot(key, ProviderFile)
}

// RestoreRootFile writes a root key that a backup held to path. An existing file is never touched.
func RestoreRootFile(path string, key Key) (Root, error) {
	root, err := newMemoryRoot(key, ProviderFile)
	if err != nil {
		return nil, fmt.Errorf("restoring the root key: %w", err)
	}
	if err := createSecretFile(path, key.Bytes()); err != nil {
		return nil, fmt.Errorf("restoring the root key: %w", err)
	}
	return root, nil
}

// OpenRootFile reads a root key file. It refuses one that others may read: whoever reads it can open every key.
func OpenRootFile(path string) (Root, error) { return openKeyFile(path, ProviderFile, 0o077) }

// OpenRootCredential reads a root key that systemd handed over in a file of the broker's credentials folder
// (systemd.exec(5), LoadCredentialEncrypted=). Its group may read it: systemd lets the unit's user in by an access control
// list, whose mask stands where the group's bits are.
func OpenRootCredential(path string) (Root, error) {
	return openKeyFile(path, ProviderCredential, 0o037)
}

func openKeyFile(path string, from Provider, closed fs.FileMode) (Root, error) {
	b, err := readClosedFile(path, kekBytes, closed)
	if err != nil {
		return nil, fmt.Errorf("opening root key file: %w", err)
	}
	if len(b) != kekBytes {
		return nil, fmt.Errorf("opening root key file %s: it has %d bytes, a root key has %d: restore it from its backup", path, len(b), kekBytes)
	}
	root, err := newMemoryRoot(KeyOf(b), from)
	if err != nil {
		return nil, fmt.Errorf("opening root key file %s: %w", path, err)
	}
	return root, nil
}

// createSecretFile writes a file that must not exist, and has it and its folder's entry on disk before it returns.
func createSecretFile(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists and is left as it is: whatever its key wrapped opens with no other; name another file, or use this one: %w", path, fs.ErrExist)
	}
	if err != nil {
		return fmt.Errorf("%w: name a file in an existing folder that this user may write to", err)
	}
	defer func() {
		if err != nil {
			os.Remove(path) // nothing can depend on a key that was never returned
		}
	}()
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w: free space or name another disk", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("syncing the folder of %s: %w", path, err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("syncing the folder of %s: %w", path, err)
	}
	return nil
}

// ReadSecretFile reads at most limit bytes, plus one that shows an over-long file, of a file that only this user, or
// root, can read. The checks are on the open file, so it cannot be exchanged between check and use.
func ReadSecretFile(path string, limit int) ([]byte, error) {
	return readClosedFile(path, limit, 0o077)
}

// readClosedFile reads a file that has none of the mode bits in closed.
func readClosedFile(path string, limit int, closed fs.FileMode) ([]byte, error) {
	// Not blocking, because opening a FIFO would wait for its writer for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: name the file that the broker was set up with", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: name the root key file itself", path)
	}
	if mode := info.Mode().Perm(); mode&closed != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so others can read or change it: run chmod 0600 %s, and consider its key known to whoever could", path, mode, path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() && st.Uid != 0 {
		return nil, fmt.Errorf("%s belongs to user %d: give it to the broker's user or to root", path, st.Uid)
	}
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return b, nil
}
