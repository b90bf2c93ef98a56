package sector

import (
	"fmt"
	"runtime"
	"unsafe"

	"keyward/nbdcrypt/keymem"
)

const (
	// BlockSize is the AES block in bytes; sectors are whole blocks.
	BlockSize = 16
	// MaxSize is the largest sector in bytes.
	MaxSize = 65536
	// MaxRun is how many bytes one kernel call gets: assembly is not preemptible, and a longer run would hold up the
	// garbage collector. A multiple of MaxSize.
	MaxRun = 256 << 10
)

// Cipher encrypts and decrypts sectors with one key. It is safe for concurrent use, except that nothing may be under
// way when Wipe is called.
type Cipher struct {
	kernel   string
	mem      *keymem.Key
	schedule Schedule // nil once wiped
}

// New expands key, whose length the caller has checked, for kernel k. The caller keeps key.
func New(k Kernel, key []byte) (*Cipher, error) {
	mem, err := keymem.New(k.ScheduleSize())
	if err != nil {
		return nil, fmt.Errorf("expand key: %w", err)
	}
	s, err := k.Expand(mem.Bytes(), key)
	if err != nil {
		mem.Wipe()
		return nil, fmt.Errorf("expand key: %w", err)
	}
	return &Cipher{kernel: k.Name(), mem: mem, schedule: s}, nil
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
// the number firstTweak + i*tweakStep (modulo 2^64) as a 16-byte little-endian number.
//
// dst is at least as long as src and either the same memory or does not overlap it. sectorSize is a multiple of 16 from
// 16 to 65536. Anything else is a bug of the caller and panics, as does a wiped Cipher.
func (c *Cipher) EncryptSectors(dst, src []byte, sectorSize int, firstTweak, tweakStep uint64) {
	c.run(dst, src, sectorSize, firstTweak, tweakStep, Schedule.Encrypt)
}

// DecryptSectors is the inverse of EncryptSectors with the same arguments.
func (c *Cipher) DecryptSectors(dst, src []byte, sectorSize int, firstTweak, tweakStep uint64) {
	c.run(dst, src, sectorSize, firstTweak, tweakStep, Schedule.Decrypt)
}

type operation func(s Schedule, dst, src []byte, sectorSize int, tweak, step uint64)

func (c *Cipher) run(dst, src []byte, sectorSize int, tweak, step uint64, op operation) {
	s := c.schedule
	switch {
	case s == nil:
		panic("sector cipher: the key has been wiped")
	case sectorSize < BlockSize || sectorSize > MaxSize || sectorSize%BlockSize != 0:
		panic("sector cipher: sector size is not a multiple of 16 from 16 to 65536")
	case len(src)%sectorSize != 0:
		panic("sector cipher: input is not a whole number of sectors")
	case len(dst) < len(src):
		panic("sector cipher: output is shorter than input")
	case overlapsInexactly(dst[:len(src)], src):
		panic("sector cipher: output overlaps input")
	}
	sectors := uint64(MaxRun / sectorSize)
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
