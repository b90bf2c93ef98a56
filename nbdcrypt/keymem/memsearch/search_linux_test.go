package memsearch

import (
	"crypto/rand"
	"runtime"
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
