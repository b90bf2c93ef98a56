package blockdev

import (
	"errors"
	"strings"
	"sync"
)

// Errors that Fault and Volatile inject.
var (
	// ErrInjected is what a Rule without an error of its own returns.
	ErrInjected = errors.New("injected I/O error")
	// ErrPowerCut is returned for every request after a simulated power cut.
	ErrPowerCut = errors.New("simulated power cut")
)

// Op is a set of request kinds.
type Op uint8

// The request kinds. OpMutate is every kind that changes what is stored.
const (
	OpRead Op = 1 << iota
	OpWrite
	OpSync
	OpDiscard
	OpWriteZeroes

	OpMutate = OpWrite | OpDiscard | OpWriteZeroes
	OpAll    = OpRead | OpMutate | OpSync
)

var opNames = []string{"read", "write", "sync", "discard", "write-zeroes"}

// String lists the kinds of the set, as in "read|write".
func (o Op) String() string {
	var names []string
	for i, name := range opNames {
		if o&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "|")
}

// Rule breaks requests of a Fault.
type Rule struct {
	// Ops are the kinds it breaks.
	Ops Op
	// Off and Len limit it to requests that touch [Off, Off+Len). Len 0 means the whole device. A sync always touches.
	Off, Len int64
	// Skip matching requests pass before the first is broken.
	Skip int
	// Count requests are broken; 0 means all from then on.
	Count int
	// Apply is how many bytes of a broken read or write are really done, from its start: a short or torn request.
	Apply int64
	// Err is what the broken request returns; nil means ErrInjected.
	Err error
	// Silent makes the broken request report success: a disk that lies.
	Silent bool
	// PowerCut makes every later request fail with ErrPowerCut, as does the broken one.
	PowerCut bool
}

// Fault is a decorator that breaks requests by rule. The first rule that matches decides.
type Fault struct {
	dev Device

	mu    sync.Mutex
	rules []*activeRule
	hits  int
	dead  bool
}

type activeRule struct {
	Rule
	seen, broken int
}

// NewFault decorates dev with no rules.
func NewFault(dev Device) *Fault { return &Fault{dev: dev} }

// Add appends a rule.
func (f *Fault) Add(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &activeRule{Rule: r})
}

// Clear removes all rules and ends a power cut.
func (f *Fault) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules, f.dead = nil, false
}

// Hits is how many requests have been broken by rules.
func (f *Fault) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// judge finds the rule that breaks a request, if any.
func (f *Fault) judge(op Op, off, n int64) (rule Rule, broken bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return Rule{Err: ErrPowerCut}, true
	}
	for _, r := range f.rules {
		touches := r.Len == 0 || op == OpSync || (off < r.Off+r.Len && r.Off < off+n)
		if r.Ops&op == 0 || !touches || (r.Count > 0 && r.broken == r.Count) {
			continue
		}
		if r.seen++; r.seen <= r.Skip {
			continue
		}
		r.broken++
		f.hits++
		f.dead = r.PowerCut
		return r.Rule, true
	}
	return Rule{}, false
}

// outcome is the error of a broken request.
func (r Rule) outcome() error {
	switch {
	case r.Silent:
		return nil
	case r.Err != nil:
		return r.Err
	case r.PowerCut:
		return ErrPowerCut
	}
	return ErrInjected
}

// transfer runs a read or write, or the part of it that its rule lets through.
func (f *Fault) transfer(op Op, p []byte, off int64, do func([]byte, int64) (int, error)) (int, error) {
	rule, broken := f.judge(op, off, int64(len(p)))
	if !broken {
		return do(p, off)
	}
	n := int(min(rule.Apply, int64(len(p))))
	if n > 0 {
		if done, err := do(p[:n], off); err != nil {
			return done, err
		}
	}
	if err := rule.outcome(); err != nil {
		return n, err
	}
	return len(p), nil
}

// ReadAt implements Device.
func (f *Fault) ReadAt(p []byte, off int64) (int, error) {
	return f.transfer(OpRead, p, off, f.dev.ReadAt)
}

// WriteAt implements Device.
func (f *Fault) WriteAt(p []byte, off int64) (int, error) {
	return f.transfer(OpWrite, p, off, f.dev.WriteAt)
}

// WriteAtInPlace implements OwnedWriter, broken as a write.
func (f *Fault) WriteAtInPlace(p []byte, off int64) (int, error) {
	return f.transfer(OpWrite, p, off, func(p []byte, off int64) (int, error) { return WriteAtInPlace(f.dev, p, off) })
}

// Sync implements Device. A silently broken one does not reach the device.
func (f *Fault) Sync() error {
	if rule, broken := f.judge(OpSync, 0, 0); broken {
		return rule.outcome()
	}
	return f.dev.Sync()
}

// Discard implements Discarder if the device does.
func (f *Fault) Discard(off, n int64) error {
	if rule, broken := f.judge(OpDiscard, off, n); broken {
		return rule.outcome()
	}
	return Discard(f.dev, off, n)
}

// WriteZeroes implements Zeroer if the device does.
func (f *Fault) WriteZeroes(off, n int64, mayUnmap bool) error {
	if rule, broken := f.judge(OpWriteZeroes, off, n); broken {
		return rule.outcome()
	}
	return WriteZeroes(f.dev, off, n, mayUnmap)
}

// Extents implements Extenter.
func (f *Fault) Extents(off, n int64) ([]Extent, error) { return Extents(f.dev, off, n) }

// BlockSize implements BlockSizer.
func (f *Fault) BlockSize() int { return BlockSize(f.dev) }

// Size implements Device.
func (f *Fault) Size() int64 { return f.dev.Size() }

// Close implements Device; it is never broken, so that tests clean up.
func (f *Fault) Close() error { return f.dev.Close() }
