// Package nbdcrypt is the data plane: a Volume is a block device whose sectors are encrypted on the device below.
//
// The sub-packages are the ciphers (xts, essiv), the header (luks2), the devices (blockdev), secrets in memory (keymem) and the
// network export (nbd). The package imports nothing else of Keyward.
package nbdcrypt

import (
	"errors"
	"fmt"
	"sync"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/essiv"
	"keyward/nbdcrypt/internal/sector"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
	"keyward/nbdcrypt/xts"
)

// tweakUnit is the unit in which plain64 and essiv count sectors, whatever the sector size (dm-crypt without
// iv_large_sectors).
const tweakUnit = 512

// Options say how a volume is opened.
type Options struct {
	// ReadOnly refuses every request that writes with blockdev.ErrReadOnly.
	ReadOnly bool
	// AllowDiscard passes discards on to the device. It shows whoever sees the disk which sectors are in use.
	AllowDiscard bool
}

// Volume is the plaintext view of an encrypted device. It implements blockdev.Device, BlockSizer, OwnedWriter, Zeroer
// and, where Options allow it, Discarder. Requests at any alignment are correct; whole sectors are faster.
type Volume struct {
	dev  blockdev.Device
	rec  luks2.Record
	opts Options

	gate  *gate
	locks rangeLock
	// cipher is nil while suspended. Written only when nobody is inside the gate.
	cipher *sector.Cipher
}

var (
	_ blockdev.Device      = (*Volume)(nil)
	_ blockdev.BlockSizer  = (*Volume)(nil)
	_ blockdev.OwnedWriter = (*Volume)(nil)
	_ blockdev.Zeroer      = (*Volume)(nil)
	_ blockdev.Discarder   = (*Volume)(nil)
)

// selfTest proves the ciphers once per process, before the first volume is opened.
var selfTest = sync.OnceValue(func() error { return errors.Join(xts.SelfTest(), essiv.SelfTest()) })

// newCipher expands the key for the record's cipher. What the header on the disk says was compared with the record and
// has no say here.
func newCipher(rec luks2.Record, key *keymem.Key) (*sector.Cipher, error) {
	switch rec.Cipher {
	case luks2.CipherXTS:
		return xts.New(key.Bytes())
	case luks2.CipherESSIV:
		return essiv.New(key.Bytes())
	}
	return nil, fmt.Errorf("cipher %.64q of the broker's record is unknown to this program; use a newer one", rec.Cipher)
}

// Open verifies the header on dev against the broker's record and the key, and refuses on any mismatch: see the errors
// of luks2. On success the Volume owns dev, which Close closes, and has consumed key, which is wiped. On error both stay
// with the caller and nothing was written.
func Open(dev blockdev.Device, rec luks2.Record, key *keymem.Key, opts Options) (*Volume, error) {
	if err := selfTest(); err != nil {
		return nil, fmt.Errorf("open volume %s: %w", rec.UUID, err)
	}
	v := &Volume{dev: dev, rec: rec, opts: opts, gate: newGate()}
	if err := v.unlock(key); err != nil {
		return nil, fmt.Errorf("open volume %s: %w", rec.UUID, err)
	}
	return v, nil
}

// unlock checks header, key and size, and expands the key. It wipes key on success.
func (v *Volume) unlock(key *keymem.Key) error {
	header, err := luks2.Read(v.dev)
	if err != nil {
		return err
	}
	if err := header.Verify(v.rec); err != nil {
		return err
	}
	if err := header.VerifyKey(v.rec, key); err != nil {
		return err
	}
	if v.dev.Size()-v.rec.DataOffset < v.rec.DataSize {
		return fmt.Errorf("the device has %d bytes, the volume needs %d: it was cut short; restore its size before opening it",
			v.dev.Size(), v.rec.DataOffset+v.rec.DataSize)
	}
	cipher, err := newCipher(v.rec, key)
	if err != nil {
		return err
	}
	v.cipher = cipher
	key.Wipe()
	return nil
}

// Record is the record that the volume was opened by.
func (v *Volume) Record() luks2.Record { return v.rec }

// Size implements blockdev.Device: the length of the payload.
func (v *Volume) Size() int64 { return v.rec.DataSize }

// BlockSize implements blockdev.BlockSizer: the encryption sector.
func (v *Volume) BlockSize() int { return v.rec.SectorSize }

// ReadOnly reports whether writes are refused.
func (v *Volume) ReadOnly() bool { return v.opts.ReadOnly }

// Status is one of the Status constants. It answers at once, also while the device hangs.
func (v *Volume) Status() string { return v.gate.status() }

// Protection says what kind of memory holds the key (as keymem.Key.Protection), and Kernel which code encrypts. Both
// are empty while there is no key.
func (v *Volume) Protection() string {
	return v.describe((*sector.Cipher).Protection)
}

// Kernel is the name of the implementation of the cipher in use, empty while there is no key.
func (v *Volume) Kernel() string { return v.describe((*sector.Cipher).Kernel) }

func (v *Volume) describe(of func(*sector.Cipher) string) string {
	v.gate.mu.Lock()
	defer v.gate.mu.Unlock()
	if v.gate.state != StatusOpen || v.cipher == nil {
		return ""
	}
	return of(v.cipher)
}

// Sync implements blockdev.Device. It needs no key and works on a suspended volume.
func (v *Volume) Sync() error {
	if v.gate.status() == StatusClosed {
		return blockdev.ErrClosed
	}
	return v.dev.Sync()
}

// Suspend makes new requests wait, waits for those under way, flushes the device and wipes the key. The key is gone when
// it returns, also if it returns the error of the flush. Suspending twice does nothing.
func (v *Volume) Suspend() error {
	err := v.gate.suspend(func() error {
		err := v.dev.Sync()
		v.cipher.Wipe()
		v.cipher = nil
		return err
	})
	if err != nil {
		return fmt.Errorf("suspend volume %s: %w", v.rec.UUID, err)
	}
	return nil
}

// Resume verifies header and key again, as Open does, and lets the waiting requests go on. It consumes key on success;
// on error the volume stays suspended.
func (v *Volume) Resume(key *keymem.Key) error {
	if err := v.gate.resume(func() error { return v.unlock(key) }); err != nil {
		return fmt.Errorf("resume volume %s: %w", v.rec.UUID, err)
	}
	return nil
}

// Close turns away waiting and new requests with blockdev.ErrClosed, waits for those under way, wipes the key and closes
// the device. As with every Device it does not imply Sync. Closing twice does nothing.
func (v *Volume) Close() error {
	_, err := v.gate.close(func() error {
		if v.cipher != nil {
			v.cipher.Wipe()
			v.cipher = nil
		}
		return v.dev.Close()
	})
	return err
}

// Discard implements blockdev.Discarder for the whole sectors in the range. It returns errors.ErrUnsupported unless
// Options.AllowDiscard. A discarded sector reads as noise.
func (v *Volume) Discard(off, n int64) error {
	if !v.opts.AllowDiscard {
		return errors.ErrUnsupported
	}
	if err := v.checkWrite(off, n); err != nil {
		return err
	}
	sector := int64(v.rec.SectorSize)
	from, to := (off+sector-1)/sector*sector, (off+n)/sector*sector
	if from >= to {
		return nil
	}
	if err := v.gate.enter(); err != nil {
		return err
	}
	defer v.gate.leave()
	defer v.locks.unlock(v.locks.lock(from, to, false))
	return blockdev.Discard(v.dev, v.rec.DataOffset+from, to-from)
}

func (v *Volume) checkWrite(off, n int64) error {
	if v.opts.ReadOnly {
		return blockdev.ErrReadOnly
	}
	return blockdev.CheckRange(off, n, v.rec.DataSize)
}
