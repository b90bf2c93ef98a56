package blockdev

import (
	"math/rand/v2"
	"sync"
)

// Volatile is a decorator with a volatile write cache, as real disks have: what was written is read back at once but
// reaches the device below only by Sync. Crash loses a random part of the rest.
type Volatile struct {
	dev    Device
	sector int

	mu      sync.Mutex
	pending []pendingWrite
	dead    bool
}

type pendingWrite struct {
	off  int64
	data []byte
}

// NewVolatile decorates dev, which must not be written by anybody else, with a cache that tears at sectors of the given
// size in bytes (the physical sector of the disk that it stands for).
func NewVolatile(dev Device, sector int) *Volatile { return &Volatile{dev: dev, sector: sector} }

// Pending is the number of writes that a power cut may still lose.
func (v *Volatile) Pending() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.pending)
}

// Crash cuts the power: of the writes since the last Sync each sector reaches the device or not as r decides,
// in any combination. Every later request fails with ErrPowerCut; the device below holds what survived.
func (v *Volatile) Crash(r *rand.Rand) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dead = true
	for _, w := range v.pending {
		for at := 0; at < len(w.data); {
			// A disk tears at its own sectors, wherever in the request they lie.
			next := min(at+v.sector-int((w.off+int64(at))%int64(v.sector)), len(w.data))
			if r.IntN(2) == 0 {
				if _, err := v.dev.WriteAt(w.data[at:next], w.off+int64(at)); err != nil {
					return err
				}
			}
			at = next
		}
	}
	v.pending = nil
	return nil
}

// ReadAt implements Device.
func (v *Volatile) ReadAt(p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dead {
		return 0, ErrPowerCut
	}
	if n, err := v.dev.ReadAt(p, off); err != nil {
		return n, err
	}
	for _, w := range v.pending {
		from, to := max(off, w.off), min(off+int64(len(p)), w.off+int64(len(w.data)))
		if from < to {
			copy(p[from-off:to-off], w.data[from-w.off:])
		}
	}
	return len(p), nil
}

// WriteAt implements Device.
func (v *Volatile) WriteAt(p []byte, off int64) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dead {
		return 0, ErrPowerCut
	}
	if err := CheckRange(off, int64(len(p)), v.dev.Size()); err != nil {
		return 0, err
	}
	v.pending = append(v.pending, pendingWrite{off, append([]byte(nil), p...)})
	return len(p), nil
}

// Sync implements Device.
func (v *Volatile) Sync() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dead {
		return ErrPowerCut
	}
	for len(v.pending) > 0 {
		if _, err := v.dev.WriteAt(v.pending[0].data, v.pending[0].off); err != nil {
			return err
		}
		v.pending = v.pending[1:]
	}
	return v.dev.Sync()
}

// Size implements Device.
func (v *Volatile) Size() int64 { return v.dev.Size() }

// Close implements Device; unsynced writes are lost.
func (v *Volatile) Close() error { return v.dev.Close() }
