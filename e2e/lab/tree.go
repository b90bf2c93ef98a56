package lab

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
)

// Tree maps the files of a folder, by relative path, to the SHA-256 of their contents.
type Tree map[string][sha256.Size]byte

// ReadTree reads every regular file under root.
func ReadTree(root string) (Tree, error) {
	tree := Tree{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		tree[name] = sha256.Sum256(raw)
		return err
	})
	return tree, err
}

// CopyTree copies the regular files under from into to, up to limit bytes, and returns their checksums and total size.
func CopyTree(from, to string, limit int64) (Tree, int64, error) {
	tree, total := Tree{}, int64(0)
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case !entry.Type().IsRegular():
			return nil
		}
		info, err := entry.Info()
		if err != nil || total+info.Size() > limit {
			return err
		}
		sum, err := copyFile(path, target)
		if err != nil {
			return err
		}
		tree[name] = sum
		total += info.Size()
		return nil
	})
	return tree, total, err
}

func copyFile(from, to string) (sum [sha256.Size]byte, err error) {
	in, err := os.Open(from)
	if err != nil {
		return sum, err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return sum, err
	}
	hash := sha256.New()
	if _, err = io.Copy(io.MultiWriter(out, hash), in); err != nil {
		out.Close()
		return sum, err
	}
	hash.Sum(sum[:0])
	return sum, out.Close()
}

// Same compares what a folder holds with what it should.
func (want Tree) Same(root string) error {
	have, err := ReadTree(root)
	if err != nil {
		return fmt.Errorf("read %s back: %w", root, err)
	}
	if maps.Equal(want, have) {
		return nil
	}
	for name, sum := range want {
		if got, there := have[name]; !there {
			return fmt.Errorf("%s is missing under %s", name, root)
		} else if got != sum {
			return fmt.Errorf("%s under %s has changed", name, root)
		}
	}
	return fmt.Errorf("%s holds %d files, want %d", root, len(have), len(want))
}
