package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"keyward/agent/internal/discover"
)

// image describes an image file. Its ID is "file:" and a hash of the machine, the file's path and its inode number: it
// survives restarts, new contents and encryption, and changes when the file is replaced by another, moved or restored
// under another inode, because it is then not known to be the same disk.
func image(img ImageFile, machine string) (Device, error) {
	var st unix.Stat_t
	// Stat and not Lstat: a link is another name for the file it leads to.
	if err := unix.Stat(img.Path, &st); err != nil {
		return Device{}, fmt.Errorf("image file %s: %w", img.Path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return Device{}, fmt.Errorf("image file %s is not a regular file; disks are found by themselves, remove it from images", img.Path)
	}
	real, err := filepath.EvalSymlinks(img.Path)
	if err != nil {
		return Device{}, fmt.Errorf("image file %s: %w", img.Path, err)
	}
	d := Device{Name: filepath.Base(img.Path), Path: img.Path, Kind: KindImage, Size: st.Size, Description: "image file in " + filepath.Dir(real),
		ID: imageID(machine, real, st.Ino), StableID: true}
	d.ReadOnly = unix.Access(img.Path, unix.W_OK) != nil
	c, err := probe(img.Path, st.Size)
	if err != nil {
		return Device{}, fmt.Errorf("image file %s: %w", img.Path, err)
	}
	d.Empty, d.Contents = c.Empty, c.String()
	return d, nil
}

func imageID(machine, path string, inode uint64) string {
	sum := sha256.Sum256([]byte(machine + "\x00" + path + "\x00" + strconv.FormatUint(inode, 10)))
	return "file:" + hex.EncodeToString(sum[:16])
}

func probe(path string, size int64) (discover.Contents, error) {
	f, err := os.Open(path)
	if err != nil {
		return discover.Contents{}, err
	}
	defer f.Close()
	return discover.Probe(f, size)
}
