package keymem

import (
	"unsafe"

	"golang.org/x/sys/windows"
)

// allocate commits pages of its own and locks them in the working set.
func allocate(n int) (mem []byte, protection string, release func() error, err error) {
	at, err := windows.VirtualAlloc(0, uintptr(n), windows.MEM_COMMIT|windows.MEM_RESERVE, windows.PAGE_READWRITE)
	if err != nil {
		return nil, "", nil, err
	}
	protection = Mlock
	if windows.VirtualLock(at, uintptr(n)) != nil {
		protection = None
	}
	// Through a pointer to the address, because go vet cannot know that VirtualAlloc's memory never moves.
	mem = unsafe.Slice(*(**byte)(unsafe.Pointer(&at)), n)
	return mem, protection, func() error { return windows.VirtualFree(at, 0, windows.MEM_RELEASE) }, nil
}
