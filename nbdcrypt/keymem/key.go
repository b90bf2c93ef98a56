// Package keymem holds secrets outside the Go heap, where the garbage collector neither copies nor keeps them: in
// memfd_secret memory where the kernel has it (not readable through /proc, not in core dumps, never swapped), else in
// locked memory. A secret is redacted wherever it could be printed, and wiped by one call.
package keymem

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// MaxLen is the largest secret in bytes: room for the expanded schedules of one cipher, far from the locked-memory limit.
const MaxLen = 64 << 10

// The protections that Protection reports, best first.
const (
	// MemfdSecret: pages that even the kernel does not map; not swapped, not dumped, not readable through /proc/PID/mem.
	MemfdSecret = "memfd_secret"
	// Mlock: locked pages, left out of core dumps.
	Mlock = "mlock"
	// None: the limit on locked memory (or the system) allowed neither; left out of core dumps where possible.
	None = "none"
)

const redacted = "REDACTED"

// Key is a secret of fixed length. It is used through a pointer; the zero value and nil hold nothing.
//
// A Key is not wiped by the garbage collector: whoever owns it calls Wipe.
type Key struct {
	// Behind a pointer, so that a copied or printed struct holds no secret.
	r *region
}

type region struct {
	mu         sync.RWMutex
	mem        []byte // nil once wiped
	protection string
	release    func() error
}

// New makes a Key of n zero bytes, 1 to MaxLen.
func New(n int) (*Key, error) {
	if n < 1 || n > MaxLen {
		return nil, fmt.Errorf("secret of %d bytes: must be 1 to %d", n, MaxLen)
	}
	mem, protection, release, err := allocate(n)
	if err != nil {
		return nil, fmt.Errorf("get protected memory for a secret of %d bytes: %w", n, err)
	}
	return &Key{&region{mem: mem, protection: protection, release: release}}, nil
}

// FromBytes moves the secret b into protected memory: b is wiped, also on error.
func FromBytes(b []byte) (*Key, error) {
	defer clear(b)
	k, err := New(len(b))
	if err != nil {
		return nil, err
	}
	copy(k.r.mem, b)
	clearRegisters()
	return k, nil
}

// Bytes is the secret itself, nil once wiped. The slice is invalid after Wipe: touching it then faults, which is on
// purpose, because going on with a zero key would write unreadable data. Do not copy it to ordinary memory.
func (k *Key) Bytes() []byte {
	if k == nil || k.r == nil {
		return nil
	}
	k.r.mu.RLock()
	defer k.r.mu.RUnlock()
	return k.r.mem
}

// Len is the length of the secret in bytes, 0 once wiped.
func (k *Key) Len() int { return len(k.Bytes()) }

// Equal reports in constant time whether both hold the same secret. Wiped keys equal nothing.
func (k *Key) Equal(other *Key) bool {
	a, b := k.Bytes(), other.Bytes()
	return len(a) > 0 && subtle.ConstantTimeCompare(a, b) == 1
}

// Clone is an independent copy in protected memory of its own.
func (k *Key) Clone() (*Key, error) {
	secret := k.Bytes()
	if secret == nil {
		return nil, errors.New("copy a secret: it has been wiped")
	}
	c, err := New(len(secret))
	if err != nil {
		return nil, err
	}
	copy(c.r.mem, secret)
	clearRegisters()
	return c, nil
}

// Split makes an independent copy of each of several secrets that lie one after the other, of the given lengths, which must
// be the whole. The original stays the caller's.
func (k *Key) Split(lengths ...int) ([]*Key, error) {
	rest := k.Bytes()
	var parts []*Key
	fail := func(err error) ([]*Key, error) {
		for _, p := range parts {
			p.Wipe()
		}
		return nil, err
	}
	for _, n := range lengths {
		if n < 1 || n > len(rest) {
			return fail(fmt.Errorf("split a secret of %d bytes into %v", k.Len(), lengths))
		}
		p, err := New(n)
		if err != nil {
			return fail(err)
		}
		copy(p.r.mem, rest)
		parts, rest = append(parts, p), rest[n:]
	}
	clearRegisters()
	if len(rest) > 0 {
		return fail(fmt.Errorf("split a secret of %d bytes into %v", k.Len(), lengths))
	}
	return parts, nil
}

// Wipe overwrites the secret, and what signals have saved of it, and returns its memory. The caller makes sure that
// nobody is using Bytes. Wiping twice, or wiping nil, does nothing.
func (k *Key) Wipe() {
	if k == nil || k.r == nil {
		return
	}
	k.r.mu.Lock()
	defer k.r.mu.Unlock()
	if k.r.mem == nil {
		return
	}
	clear(k.r.mem)
	k.r.mem = nil
	// The secret is gone already; a failure to unmap only costs address space.
	_ = k.r.release()
	clearRegisters()
	scrubSignalFrames()
}

// Protection is MemfdSecret, Mlock or None.
func (k *Key) Protection() string {
	if k == nil || k.r == nil {
		return None
	}
	return k.r.protection
}

// String implements fmt.Stringer and never shows the secret.
func (k Key) String() string { return redacted }

// Format implements fmt.Formatter: every verb shows the same word.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements slog.LogValuer.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

var errMarshal = errors.New("a secret is never marshalled: seal it for its receiver instead")

// MarshalJSON always fails.
func (k Key) MarshalJSON() ([]byte, error) { return nil, errMarshal }

// MarshalText always fails.
func (k Key) MarshalText() ([]byte, error) { return nil, errMarshal }

// MarshalBinary always fails.
func (k Key) MarshalBinary() ([]byte, error) { return nil, errMarshal }
