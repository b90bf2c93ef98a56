package handover

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/keymem"
)

// slotSize is the room of one key. A longer one, of a RAID set, takes as many slots in a row as it needs.
const (
	slotSize  = 256
	vaultSize = maxKeys * slotSize
)

func slots(n int) int { return (n + slotSize - 1) / slotSize }

// newVault makes the file that keys cross in: memfd_secret pages, which have no other way in than a mapping and are never
// swapped, or, where the kernel has none, an ordinary file in memory, locked as long as it is mapped.
func newVault() (int, error) {
	fd, err := unix.MemfdSecret(unix.FD_CLOEXEC)
	if err != nil {
		if fd, err = unix.MemfdCreate("keyward-vault", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING); err != nil {
			return -1, fmt.Errorf("make memory for keys: %w", err)
		}
	}
	if err := unix.Ftruncate(fd, vaultSize); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make memory for keys: %w", err)
	}
	// Refused for memfd_secret, whose size cannot be changed a second time anyway.
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	return fd, nil
}

func mapVault(fd int) ([]byte, error) {
	mem, err := unix.Mmap(fd, 0, vaultSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the memory for keys: %w", err)
	}
	_ = unix.Mlock(mem)                       // memfd_secret is locked already; where the limit forbids, the time is short
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP) // as above
	_ = unix.Madvise(mem, unix.MADV_DONTFORK)
	return mem, nil
}

// vault makes a vault with the parcel's keys. wipe destroys it.
func (p Parcel) vault() (fd int, wipe func(), err error) {
	if fd, err = newVault(); err != nil {
		return -1, nil, err
	}
	mem, err := mapVault(fd)
	if err != nil {
		unix.Close(fd)
		return -1, nil, err
	}
	at := 0
	for _, k := range p.Keys {
		copy(mem[at:], k.Bytes())
		at += slots(k.Len()) * slotSize
	}
	return fd, func() {
		clear(mem)
		_ = unix.Munmap(mem)
		_ = unix.Close(fd)
	}, nil
}

// emptyVault moves the keys out, and wipes and closes the vault.
func emptyVault(fd int, lengths []int) ([]*keymem.Key, error) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != vaultSize {
		return nil, errors.Join(errors.New("the memory with the keys is not there"), err) // a shorter one would fault
	}
	mem, err := mapVault(fd)
	if err != nil {
		return nil, err
	}
	defer unix.Munmap(mem)
	defer clear(mem)
	var keys []*keymem.Key
	fail := func(err error) ([]*keymem.Key, error) {
		for _, k := range keys {
			k.Wipe()
		}
		return nil, err
	}
	at := 0
	for _, n := range lengths {
		if n < 1 || n > vaultSize-at {
			return fail(fmt.Errorf("a key of %d bytes cannot have been handed over", n))
		}
		k, err := keymem.New(n)
		if err != nil {
			return fail(err)
		}
		copy(k.Bytes(), mem[at:])
		at += slots(n) * slotSize
		keys = append(keys, k)
	}
	return keys, nil
}
