package memsearch

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSearch_findsASecretWhereverItLies(t *testing.T) {
	const size = 5 << 20
	pages, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(pages)
	for _, at := range []int{0, 1, 1<<20 - 16, 1<<20 - 1, 1 << 20, 3<<20 - 31, size - 32} {
		secret := pages[at : at+32]
		rand.Read(secret)
		p := NewPattern(secret)
		if found, err := Search(0, p); err != nil || len(found) != 1 {
			t.Errorf("secret at %d: found %q, error %v", at, found, err)
		}
		clear(secret)
		if found, err := Search(0, p); err != nil || len(found) != 0 {
			t.Errorf("cleared secret at %d: found %q, error %v", at, found, err)
		}
	}
}

func TestSearch_findsASecretOnTheGoHeap(t *testing.T) {
	secret := make([]byte, 32)
	rand.Read(secret)
	p := NewPattern(secret)
	if found, err := Search(0, p); err != nil || len(found) == 0 {
		t.Errorf("found %q, error %v", found, err)
	}
	runtime.KeepAlive(secret)
}

func TestSearch_refusesWhatProvesNothing(t *testing.T) {
	if _, err := Search(0, NewPattern([]byte("short"))); err == nil {
		t.Error("a pattern of 5 bytes was accepted")
	}
	if _, err := Search(1<<30, NewPattern(make([]byte, 32))); err == nil {
		t.Error("a process that does not exist was searched")
	}
}

func TestSearch_anyOfManyPatterns(t *testing.T) {
	page := make([]byte, 4096)
	rand.Read(page)
	here, gone := NewPattern(page[100:116]), make([]byte, 16)
	rand.Read(gone)
	absent := NewPattern(gone)
	clear(gone)
	for n := range 2 * few {
		patterns := append(slices.Repeat([]Pattern{absent}, n), here)
		if found, err := Search(0, patterns...); err != nil || len(found) == 0 {
			t.Errorf("among %d: found %q, error %v", n, found, err)
		}
	}
	if found, err := Search(0, absent); err != nil || len(found) != 0 {
		t.Errorf("found %q, error %v", found, err)
	}
	runtime.KeepAlive(page)
}

func TestSearchFile_everywhereInAFile(t *testing.T) {
	const size = 3<<20 + 77
	secret := make([]byte, 32)
	rand.Read(secret)
	p := NewPattern(secret)
	for _, at := range []int{0, 1<<20 - 16, 1<<20 - 32, 1 << 20, 2<<20 - 1, size - 32} {
		content := make([]byte, size)
		path := filepath.Join(t.TempDir(), "core")
		for _, there := range []bool{false, true} {
			if there {
				copy(content[at:], secret)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			if found, err := SearchFile(path, p); err != nil || found != there {
				t.Errorf("secret at %d: found %v, want %v (%v)", at, found, there, err)
			}
		}
	}
}
