package nbd

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unicode/utf8"

	"keyward/nbdcrypt/blockdev"
)

// Defaults of an Export's block sizes, bytes. They are also what the protocol document tells a client to assume.
const (
	DefaultMinBlock       = 1
	DefaultPreferredBlock = 4096
	DefaultMaxBlock       = 32 << 20
	// largestBlock is the most that MaxBlock can be.
	largestBlock = 64 << 20
)

// Export is a device under a name. The server never closes the device.
type Export struct {
	// Name is what a client asks for: UTF-8, at most 4096 bytes. The empty name is the default export; when no export
	// has it, a client that asks for it gets the only export there is.
	Name string
	// Description is shown by LIST and INFO; at most 4096 bytes.
	Description string
	Device      blockdev.Device
	// ReadOnly refuses every command that writes, with EPERM.
	ReadOnly bool
	// AllowTrim passes TRIM on and lets WRITE_ZEROES deallocate. It shows whoever sees the medium which parts of the
	// export are in use, so it is off unless asked for. It has no effect on a device that is not a blockdev.Discarder.
	AllowTrim bool
	// MultiConn tells clients that they may spread requests over several connections: a FLUSH on one covers the writes
	// answered on all, which holds for every blockdev.Device.
	MultiConn bool
	// MinBlock is the alignment, in bytes, demanded of clients that negotiate block sizes; a power of two up to 64 KiB
	// that divides the device's size. Others may send any alignment, and the device reads, modifies and writes.
	// PreferredBlock is where requests are fastest; MaxBlock the longest READ and WRITE. 0 means the default.
	MinBlock, PreferredBlock, MaxBlock uint32
}

// cacher is a Device that can bring a range closer without handing it out.
type cacher interface {
	Cache(off, n int64) error
}

// TransmissionFlags are the flags of the handshake's last reply, which the kernel's NBD client takes as SERVER_FLAGS.
// SEND_DF is not among them: it belongs to structured replies, which the kernel does not speak.
func (e *Export) TransmissionFlags() uint16 {
	flags := flagHasFlags | flagSendFlush | flagSendFUA | flagSendCache
	if e.MultiConn {
		flags |= flagMultiConn
	}
	if e.ReadOnly {
		return flags | flagReadOnly
	}
	flags |= flagSendWriteZeroes
	if _, ok := e.Device.(blockdev.Discarder); ok && e.AllowTrim {
		flags |= flagSendTrim
	}
	if _, ok := e.Device.(blockdev.Zeroer); ok {
		flags |= flagSendFastZero
	}
	return flags
}

// target is an Export in use, with its defaults filled in and its device's capabilities looked up once.
type target struct {
	Export
	size     uint64
	flags    uint16
	inPlace  blockdev.OwnedWriter
	discard  blockdev.Discarder
	zeroer   blockdev.Zeroer
	extenter blockdev.Extenter
	cache    cacher
	sync     syncGroup
	// unsynced is set by a write and cleared by the Sync that follows it.
	unsynced atomic.Bool
}

// newTarget checks e, whose longest request must fit into budget bytes.
func newTarget(e Export, budget int64) (*target, error) {
	if e.Device == nil {
		return nil, fmt.Errorf("export %q: it has no device; set Export.Device", e.Name)
	}
	if len(e.Name) > maxNameLength || len(e.Description) > maxNameLength {
		return nil, fmt.Errorf("export %.40q: name or description is longer than %d bytes; shorten it", e.Name, maxNameLength)
	}
	if !utf8.ValidString(e.Name) || !utf8.ValidString(e.Description) {
		return nil, fmt.Errorf("export %.40q: name or description is not UTF-8; use UTF-8", e.Name)
	}
	size := e.Device.Size()
	if size < 0 {
		return nil, fmt.Errorf("export %q: the device reports a size of %d bytes; check that it is open", e.Name, size)
	}
	if err := e.fillBlockSizes(size, budget); err != nil {
		return nil, fmt.Errorf("export %q: %w", e.Name, err)
	}
	t := &target{Export: e, size: uint64(size), flags: e.TransmissionFlags()}
	t.inPlace, _ = e.Device.(blockdev.OwnedWriter)
	if t.flags&flagSendTrim != 0 {
		t.discard, _ = e.Device.(blockdev.Discarder)
	}
	t.zeroer, _ = e.Device.(blockdev.Zeroer)
	t.extenter, _ = e.Device.(blockdev.Extenter)
	t.cache, _ = e.Device.(cacher)
	t.sync.sync = func() error {
		t.unsynced.Store(false)
		err := e.Device.Sync()
		if err != nil {
			t.unsynced.Store(true)
		}
		return err
	}
	return t, nil
}

// fillBlockSizes replaces zeroes by defaults and refuses what the protocol document does not allow.
func (e *Export) fillBlockSizes(size, budget int64) error {
	if e.MinBlock == 0 {
		e.MinBlock = DefaultMinBlock
	}
	if e.PreferredBlock == 0 {
		e.PreferredBlock = max(DefaultPreferredBlock, e.MinBlock)
		if b, ok := e.Device.(blockdev.BlockSizer); ok && b.BlockSize() > int(e.PreferredBlock) && b.BlockSize() <= 1<<20 {
			e.PreferredBlock = uint32(b.BlockSize())
		}
	}
	if e.MaxBlock == 0 {
		e.MaxBlock = DefaultMaxBlock
	}
	switch {
	case e.MinBlock&(e.MinBlock-1) != 0 || e.MinBlock > 64<<10:
		return fmt.Errorf("minimum block size %d is not a power of two up to 65536", e.MinBlock)
	case size%int64(e.MinBlock) != 0:
		return fmt.Errorf("the device's size of %d bytes is not a multiple of the minimum block size %d; use a smaller one",
			size, e.MinBlock)
	case e.PreferredBlock&(e.PreferredBlock-1) != 0 || e.PreferredBlock < max(e.MinBlock, 512):
		return fmt.Errorf("preferred block size %d is not a power of two of at least 512 and the minimum block size %d",
			e.PreferredBlock, e.MinBlock)
	case e.MaxBlock%e.MinBlock != 0 || e.MaxBlock < e.PreferredBlock || e.MaxBlock > largestBlock:
		return fmt.Errorf("maximum block size %d is not a multiple of the minimum, between the preferred block size %d and %d",
			e.MaxBlock, e.PreferredBlock, largestBlock)
	case classSize(classOf(int(e.MaxBlock))) > budget:
		return fmt.Errorf("a request of the maximum block size %d does not fit into the memory budget of %d bytes; "+
			"raise Options.MemoryBudget or lower Export.MaxBlock", e.MaxBlock, budget)
	}
	return nil
}

// ErrUnknownExport is returned for a name that the server does not have.
var ErrUnknownExport = errors.New("no export of that name")
