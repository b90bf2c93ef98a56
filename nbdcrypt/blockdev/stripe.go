package blockdev

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"
)

// What a stripe may look like.
const (
	MinStripeMembers = 2
	MaxStripeMembers = 64
	// MinStripeChunk and MaxStripeChunk are in bytes. The least is a memory page, which md asks for.
	MinStripeChunk = 4 << 10
	MaxStripeChunk = 16 << 20
)

// CheckChunk returns nil if a stripe can have chunks of that many bytes.
func CheckChunk(chunk int64) error {
	if chunk < MinStripeChunk || chunk > MaxStripeChunk || chunk&(chunk-1) != 0 {
		return fmt.Errorf("chunk of %d bytes; must be a power of two from %d to %d", chunk, MinStripeChunk, MaxStripeChunk)
	}
	return nil
}

// Member is one device of a Stripe.
type Member struct {
	Device Device
	// Name is what errors call it.
	Name string
}

// Stripe is RAID 0: its members' bytes in turns of one chunk. The layout is that of Linux md without superblocks
// (drivers/md/raid0.c, first zone): chunk c of the stripe is chunk c/count of member c mod count. Room that a member has
// beyond the smallest is not used.
//
// It implements Device, BlockSizer, OwnedWriter, Discarder, Zeroer and Extenter. A request that fails on one member
// fails, and may have been done on others.
type Stripe struct {
	members []Member
	chunk   int64
	size    int64
	block   int
}

var (
	_ Device      = (*Stripe)(nil)
	_ BlockSizer  = (*Stripe)(nil)
	_ OwnedWriter = (*Stripe)(nil)
	_ Discarder   = (*Stripe)(nil)
	_ Zeroer      = (*Stripe)(nil)
	_ Extenter    = (*Stripe)(nil)
)

// NewStripe makes a stripe of 2 to 64 members in the order given, with chunk bytes (CheckChunk) on each in turn. Its
// size is that of the smallest member in whole chunks, times their number.
//
// A member that is missing, shorter than one chunk or given twice is refused by its name. On success the stripe owns the
// devices, which Close closes; on error they stay with the caller.
func NewStripe(members []Member, chunk int64) (*Stripe, error) {
	if len(members) < MinStripeMembers || len(members) > MaxStripeMembers {
		return nil, fmt.Errorf("stripe of %d members: must be %d to %d", len(members), MinStripeMembers, MaxStripeMembers)
	}
	if err := CheckChunk(chunk); err != nil {
		return nil, fmt.Errorf("stripe: %w", err)
	}
	s := &Stripe{members: append([]Member(nil), members...), chunk: chunk, block: 512}
	smallest := int64(math.MaxInt64)
	for i, m := range s.members {
		if isNil(m.Device) {
			return nil, s.refuse(i, "it is missing; a stripe has no copy of what was on it, so attach it and try again")
		}
		for k, other := range s.members[:i] {
			if m.Name == other.Name || sameDevice(m.Device, other.Device) {
				return nil, s.refuse(i, fmt.Sprintf("it is member %d as well; give each device once", k))
			}
		}
		size := m.Device.Size()
		if size < chunk {
			return nil, s.refuse(i, fmt.Sprintf("it has %d bytes, less than one chunk of %d; it was cut short or is the wrong device", size, chunk))
		}
		smallest = min(smallest, size)
		if s.block = max(s.block, BlockSize(m.Device)); int64(s.block) > chunk {
			return nil, s.refuse(i, fmt.Sprintf("its blocks of %d bytes are longer than a chunk of %d", s.block, chunk))
		}
	}
	each, count := smallest/chunk*chunk, int64(len(members))
	if each > math.MaxInt64/count {
		return nil, fmt.Errorf("stripe of %d members of %d bytes: more than can be addressed", count, each)
	}
	s.size = each * count
	return s, nil
}

func (s *Stripe) refuse(i int, why string) error {
	return fmt.Errorf("stripe: member %d of %d (%s): %s", i, len(s.members), s.members[i].Name, why)
}

func (s *Stripe) memberError(i int, err error) error {
	return fmt.Errorf("stripe member %d of %d (%s): %w", i, len(s.members), s.members[i].Name, err)
}

func isNil(d Device) bool {
	if d == nil {
		return true
	}
	v := reflect.ValueOf(d)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

func sameDevice(a, b Device) bool { return reflect.TypeOf(a).Comparable() && a == b }

// Size implements Device.
func (s *Stripe) Size() int64 { return s.size }

// BlockSize implements BlockSizer: the largest of the members'.
func (s *Stripe) BlockSize() int { return s.block }

// Chunk is the number of bytes on one member before the next one follows.
func (s *Stripe) Chunk() int64 { return s.chunk }

// ReadAt implements Device.
func (s *Stripe) ReadAt(p []byte, off int64) (int, error) {
	return s.transfer(p, off, Device.ReadAt)
}

// WriteAt implements Device.
func (s *Stripe) WriteAt(p []byte, off int64) (int, error) {
	return s.transfer(p, off, Device.WriteAt)
}

// WriteAtInPlace implements OwnedWriter.
func (s *Stripe) WriteAtInPlace(p []byte, off int64) (int, error) {
	return s.transfer(p, off, WriteAtInPlace)
}

// Discard implements Discarder. It returns errors.ErrUnsupported if a member has no discards.
func (s *Stripe) Discard(off, n int64) error {
	return s.each(off, n, Discard)
}

// WriteZeroes implements Zeroer. It returns errors.ErrUnsupported if a member has no cheap way; others may then hold
// zeroes in the range already.
func (s *Stripe) WriteZeroes(off, n int64, mayUnmap bool) error {
	return s.each(off, n, func(d Device, off, n int64) error { return WriteZeroes(d, off, n, mayUnmap) })
}

// Sync implements Device: it returns after every member did, also if one fails.
func (s *Stripe) Sync() error {
	return s.all(everyMember, func(i int) error { return s.members[i].Device.Sync() })
}

// Close implements Device: it closes every member, also if one fails.
func (s *Stripe) Close() error {
	return s.all(everyMember, func(i int) error { return s.members[i].Device.Close() })
}

func everyMember(int) bool { return true }

// all runs do for the members that take part, each on its own goroutine but one, and returns when all have. A request
// costs what the slowest member takes, not the sum.
func (s *Stripe) all(takesPart func(i int) bool, do func(i int) error) error {
	errs := make([]error, len(s.members))
	run := func(i int) {
		if err := do(i); err != nil {
			errs[i] = s.memberError(i, err)
		}
	}
	var others sync.WaitGroup
	mine := -1
	for i := range s.members {
		switch {
		case !takesPart(i):
		case mine < 0:
			mine = i
		default:
			others.Go(func() { run(i) })
		}
	}
	if mine >= 0 {
		run(mine)
	}
	others.Wait()
	return combine(errs)
}

// combine joins errors. One that says that a request is not supported is said only alone: a caller that finds it falls
// back to other requests and would miss that a disk fails.
func combine(errs []error) error {
	var real, unsupported []error
	for _, err := range errs {
		if errors.Is(err, errors.ErrUnsupported) {
			unsupported = append(unsupported, err)
		} else if err != nil {
			real = append(real, err)
		}
	}
	if len(real) > 0 {
		return errors.Join(real...)
	}
	return errors.Join(unsupported...)
}
