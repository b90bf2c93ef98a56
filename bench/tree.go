package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sourceFile is a file of the tree that is copied, held in memory so that only the target is measured.
type sourceFile struct {
	name string
	data []byte
}

// sourceTree reads Go's own source tree, up to limit bytes: thousands of real, mostly small files on every machine that can
// run this benchmark.
func sourceTree(ctx context.Context, limit int64) (files []sourceFile, err error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("find Go's source tree: %w", err)
	}
	root, total := filepath.Join(strings.TrimSpace(string(out)), "src"), int64(0)
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || total >= limit {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		files = append(files, sourceFile{name, data})
		total += int64(len(data))
		return err
	})
	if err == nil && len(files) < 500 {
		err = errors.New("it has fewer than 500 files")
	}
	if err != nil {
		return nil, fmt.Errorf("read Go's source tree: %w", err)
	}
	return files, nil
}

// copyIn writes the files under root and syncs the file system.
func copyIn(root string, files []sourceFile) (t transfer, err error) {
	started := time.Now()
	for _, f := range files {
		path := filepath.Join(root, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return t, err
		}
		if err := os.WriteFile(path, f.data, 0o644); err != nil {
			return t, err
		}
		t.files, t.bytes = t.files+1, t.bytes+int64(len(f.data))
	}
	folder, err := os.Open(root)
	if err != nil {
		return t, err
	}
	defer folder.Close()
	if err := unix.Syncfs(int(folder.Fd())); err != nil {
		return t, fmt.Errorf("sync: %w", err)
	}
	t.took = time.Since(started)
	return t, nil
}

// readBack reads the files after their pages have been dropped, and compares them.
func readBack(root string, files []sourceFile) (t transfer, err error) {
	for _, f := range files {
		if err := forget(filepath.Join(root, f.name)); err != nil {
			return t, err
		}
	}
	started := time.Now()
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(root, f.name))
		if err != nil {
			return t, err
		}
		if !bytes.Equal(data, f.data) {
			return t, fmt.Errorf("%s reads differently than it was written", f.name)
		}
		t.files, t.bytes = t.files+1, t.bytes+int64(len(data))
	}
	t.took = time.Since(started)
	return t, nil
}

// forget drops a clean file's pages from the cache.
func forget(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
}
