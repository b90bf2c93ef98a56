// Package xts is AES-XTS (IEEE 1619-2018, NIST SP 800-38E) over many sectors a call, in place or from buffer to buffer.
//
// The work is done by a kernel (generic Go, or assembly chosen by processor); Cipher checks every argument first, so
// that a kernel may trust its input. Expanded key schedules live in keymem memory, never on the Go heap.
package xts

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"keyward/nbdcrypt/keymem"
)

const (
	// BlockSize is the AES block in bytes; sectors are whole blocks.
	BlockSize = 16
	// MaxSectorSize is the largest data unit in bytes.
	MaxSectorSize = 65536
	// maxRun is how many bytes one kernel call gets: assembly is not preemptible, and a longer run would hold up the
	// garbage collector. A multiple of MaxSectorSize.
	maxRun = 256 << 10
)

var (
	errKeySize  = errors.New("must be 32, 48 or 64 bytes: two AES keys of 128, 192 or 256 bits")
	errSameKeys = errors.New("its two halves are equal, which breaks XTS (FIPS 140-3 IG C.I); generate a new key")
)

// Cipher encrypts and decrypts with one key. It is safe for concurrent use, except that nothing may be under way when
// Wipe is called.
type Cipher struct {
	kernel   string
	mem      *keymem.Key
	schedule schedule // nil once wiped
}

// New expands a key of 32, 48 or 64 bytes (data key, then tweak key) for the best kernel of this processor. The caller
// keeps key and may wipe it afterwards. The caller calls Wipe when done.
func New(key []byte) (*Cipher, error) { return newCipher(best(), key) }

// NewWithKernel is New for one of Kernels by name, so that tests and benchmarks reach each of them.
func NewWithKernel(name string, key []byte) (*Cipher, error) {
	k, err := byName(name)
	if err != nil {
		return nil, err
	}
	return newCipher(k, key)
}

func newCipher(k kernel, key []byte) (*Cipher, error) {
	switch len(key) {
	case 32, 48, 64:
	default:
		return nil, fmt.Errorf("XTS key of %d bytes: %w", len(key), errKeySize)
	}
	half := len(key) / 2
	if subtle.ConstantTimeCompare(key[:half], key[half:]) == 1 {
		return nil, fmt.Errorf("XTS key: %w", errSameKeys)
	}
	mem, err := keymem.New(k.scheduleSize())
	if err != nil {
		return nil, fmt.Errorf("expand XTS key: %w", err)
	}
	s, err := k.expand(mem.Bytes(), key[:half], key[half:])
	if err != nil {
		mem.Wipe()
		return nil, fmt.Errorf("expand XTS key: %w", err)
	}
	return &Cipher{kernel: k.name(), mem: mem, schedule: s}, nil
}

// Kernel is the name of the kernel that does the work.
func (c *Cipher) Kernel() string { return c.kernel }

// Protection says what kind of memory holds the key schedules, as keymem.Key.Protection does.
func (c *Cipher) Protection() string { return c.mem.Protection() }

// Wipe destroys the key schedules. Nothing may be under way; later calls panic. Wiping twice does nothing.
func (c *Cipher) Wipe() {
	c.schedule = nil
	c.mem.Wipe()
}

// EncryptSectors encrypts src, a whole number of sectors of sectorSize bytes, into dst. Sector i is encrypted under
// the tweak firstTweak + i*tweakStep (modulo 2^64) as a 16-byte little-endian number.
//
// dst is at least as long as src and either the same memory or does not overlap it. sectorSize is a multiple of 16 from
// 16 to 65536. Anything else is a bug of the caller and panics, as does a wiped Cipher.
func (c *Cipher) EncryptSectors(dst, src []byte, sectorSize int, firstTweak, tweakStep uint64) {
	c.run(dst, src, sectorSize, firstTweak, tweakStep, schedule.encrypt)
}

// DecryptSectors is the inverse of EncryptSectors with the same arguments.
func (c *Cipher) DecryptSectors(dst, src []byte, sectorSize int, firstTweak, tweakStep uint64) {
	c.run(dst, src, sectorSize, firstTweak, tweakStep, schedule.decrypt)
}

type operation func(s schedule, dst, src []byte, sectorSize int, tweak, step uint64)

func (c *Cipher) run(dst, src []byte, sectorSize int, tweak, step uint64, op operation) {
	s := c.schedule
	switch {
	case s == nil:
		panic("xts: the key has been wiped")
	case sectorSize < BlockSize || sectorSize > MaxSectorSize || sectorSize%BlockSize != 0:
		panic("xts: sector size is not a multiple of 16 from 16 to 65536")
	case len(src)%sectorSize != 0:
		panic("xts: input is not a whole number of sectors")
	case len(dst) < len(src):
		panic("xts: output is shorter than input")
	case overlapsInexactly(dst[:len(src)], src):
		panic("xts: output overlaps input")
	}
	sectors := uint64(maxRun / sectorSize)
	for run := int(sectors) * sectorSize; len(src) > 0; tweak += sectors * step {
		n := min(run, len(src))
		op(s, dst[:n], src[:n], sectorSize, tweak, step)
		dst, src = dst[n:], src[n:]
	}
	runtime.KeepAlive(c)
}

// overlapsInexactly reports whether two slices of one length share memory without being the same memory.
func overlapsInexactly(a, b []byte) bool {
	if len(a) == 0 || &a[0] == &b[0] {
		return false
	}
	return uintptr(unsafe.Pointer(&a[0])) <= uintptr(unsafe.Pointer(&b[len(b)-1])) &&
		uintptr(unsafe.Pointer(&b[0])) <= uintptr(unsafe.Pointer(&a[len(a)-1]))
}
