package keymem

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// allocate maps n bytes between two pages that fault on touch. The secret ends at the upper guard page (up to 64-byte
// alignment, which vector loads like), so that an over-read is caught too.
func allocate(n int) (mem []byte, protection string, release func() error, err error) {
	page := os.Getpagesize()
	body := (n + page - 1) / page * page
	base, err := unix.MmapPtr(-1, 0, nil, uintptr(body+2*page), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, "", nil, fmt.Errorf("reserve address space: %w", err)
	}
	release = func() error { return unix.MunmapPtr(base, uintptr(body+2*page)) }
	at := unsafe.Add(base, page)
	if protection = MemfdSecret; mapSecret(at, body) != nil {
		if protection, err = mapLocked(at, body); err != nil {
			return nil, "", nil, errors.Join(err, release())
		}
	}
	pages := unsafe.Slice((*byte)(at), body)
	start := (body - n) &^ 63
	return pages[start : start+n : start+n], protection, release, nil
}

// mapSecret maps memfd_secret pages at a reserved address. The kernel locks them, which counts against RLIMIT_MEMLOCK.
func mapSecret(at unsafe.Pointer, n int) error {
	fd, err := unix.MemfdSecret(unix.FD_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd) // the mapping keeps the pages
	if err := unix.Ftruncate(fd, int64(n)); err != nil {
		return err
	}
	if _, err = unix.MmapPtr(fd, 0, at, uintptr(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		return err
	}
	return unix.Madvise(unsafe.Slice((*byte)(at), n), unix.MADV_DONTFORK)
}

// mapLocked maps ordinary pages, kept out of core dumps and children, and locked if the limit allows.
func mapLocked(at unsafe.Pointer, n int) (protection string, err error) {
	_, err = unix.MmapPtr(-1, 0, at, uintptr(n), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED)
	if err != nil {
		return "", fmt.Errorf("map memory: %w", err)
	}
	pages := unsafe.Slice((*byte)(at), n)
	for _, advice := range []int{unix.MADV_DONTDUMP, unix.MADV_WIPEONFORK} {
		if err := unix.Madvise(pages, advice); err != nil {
			return "", fmt.Errorf("keep the secret out of core dumps and children: %w", err)
		}
	}
	if unix.Mlock(pages) != nil {
		return None, nil
	}
	return Mlock, nil
}
