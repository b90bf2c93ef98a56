package blockdev

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// memories are members of the given sizes, named m0, m1 and so on.
func memories(sizes ...int64) (members []Member, under []*Memory) {
	for i, size := range sizes {
		m := NewMemory(size)
		under = append(under, m)
		members = append(members, Member{m, fmt.Sprintf("m%d", i)})
	}
	return members, under
}

func mustStripe(t testing.TB, members []Member, chunk int64) *Stripe {
	t.Helper()
	s, err := NewStripe(members, chunk)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// dealt is the layout of md's RAID 0 as one would deal cards: chunk after chunk to member after member.
func dealt(plain []byte, members int, chunk int64) [][]byte {
	piles := make([][]byte, members)
	for turn := 0; len(plain) > 0; turn++ {
		n := min(int64(len(plain)), chunk)
		piles[turn%members] = append(piles[turn%members], plain[:n]...)
		plain = plain[n:]
	}
	return piles
}

func TestStripe_layoutIsThatOfMD(t *testing.T) {
	t.Parallel()
	for _, count := range []int{2, 3, 4, 7} {
		for _, chunk := range []int64{4096, 65536} {
			sizes := make([]int64, count)
			for i := range sizes {
				sizes[i] = 5*chunk + 512*int64(i) // the rest of a chunk is not used
			}
			members, under := memories(sizes...)
			s := mustStripe(t, members, chunk)
			if want := 5 * chunk * int64(count); s.Size() != want {
				t.Fatalf("%d members, chunk %d: size %d, want %d", count, chunk, s.Size(), want)
			}
			plain := make([]byte, s.Size())
			r := rand.New(rand.NewPCG(1, uint64(count)))
			for i := range plain {
				plain[i] = byte(r.Uint32())
			}
			if n, err := s.WriteAt(plain, 0); n != len(plain) || err != nil {
				t.Fatal(n, err)
			}
			for i, pile := range dealt(plain, count, chunk) {
				image := under[i].Snapshot()
				if !bytes.Equal(image[:len(pile)], pile) {
					t.Errorf("%d members, chunk %d: member %d holds something else", count, chunk, i)
				}
				if !bytes.Equal(image[len(pile):], make([]byte, len(image)-len(pile))) {
					t.Errorf("%d members, chunk %d: member %d was written behind its part", count, chunk, i)
				}
			}
		}
	}
}

func TestStripe_smallestMemberDecides(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sizes []int64
		chunk int64
		want  int64
	}{
		{[]int64{8192, 8192}, 4096, 16384},
		{[]int64{8192, 1 << 20}, 4096, 16384},
		{[]int64{1 << 20, 8192 + 4095}, 4096, 16384},
		{[]int64{65536, 131071, 70000}, 65536, 3 * 65536},
	} {
		members, _ := memories(c.sizes...)
		if s := mustStripe(t, members, c.chunk); s.Size() != c.want {
			t.Errorf("%v in chunks of %d: %d bytes, want %d", c.sizes, c.chunk, s.Size(), c.want)
		}
	}
}

// Every kind of request at any place and length, against one flat disk.
func TestStripe_behavesAsOneDisk(t *testing.T) {
	t.Parallel()
	for _, count := range []int{2, 3, 5} {
		const chunk = 4096
		sizes := make([]int64, count)
		for i := range sizes {
			sizes[i] = 40 * chunk
		}
		members, _ := memories(sizes...)
		s := mustStripe(t, members, chunk)
		model := make([]byte, s.Size())
		r := rand.New(rand.NewPCG(2, uint64(count)))
		for step := range 4000 {
			n := []int{0, 1, 511, 4095, 4096, 4097, 8192, 12289, 65536, r.IntN(len(model))}[r.IntN(10)]
			n = min(n, len(model))
			off := r.IntN(len(model) - n + 1)
			part := model[off : off+n]
			p := bytes.Repeat([]byte{byte(step)}, n)
			for i := range p {
				p[i] += byte(i >> 3)
			}
			var err error
			switch op := r.IntN(5); op {
			case 0, 1:
				copy(part, p)
				write := s.WriteAt
				if op == 1 {
					write = s.WriteAtInPlace
				}
				var done int
				if done, err = write(p, int64(off)); done != n {
					t.Fatalf("wrote %d of %d", done, n)
				}
			case 2:
				clear(part)
				err = s.WriteZeroes(int64(off), int64(n), true)
			case 3:
				clear(part) // Memory's discard
				err = s.Discard(int64(off), int64(n))
			case 4:
				var done int
				if done, err = s.ReadAt(p, int64(off)); done != n || !bytes.Equal(p, part) {
					t.Fatalf("%d members: %d bytes at %d read differently (%d done)", count, n, off, done)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		back := make([]byte, len(model))
		if _, err := s.ReadAt(back, 0); err != nil || !bytes.Equal(back, model) {
			t.Errorf("%d members: the whole differs (%v)", count, err)
		}
	}
}

func FuzzStripe(f *testing.F) {
	f.Add(uint8(2), uint8(0), uint32(0), uint32(4096))
	f.Add(uint8(3), uint8(1), uint32(8191), uint32(40000))
	f.Add(uint8(63), uint8(2), uint32(1), uint32(1<<20))
	f.Fuzz(func(t *testing.T, count, shift uint8, off, n uint32) {
		members, chunk := int(count%63)+2, int64(4096)<<(shift%4)
		s := &Stripe{members: make([]Member, members), chunk: chunk}
		// Where each byte lies, counted one by one at the ends of the runs, and the spans that requests use.
		total := make([]int64, members)
		from, end := int64(off), int64(off)+int64(n%(1<<21))
		first := make(map[int]int64)
		for pos := from; pos < end; {
			m, at, run := s.place(pos)
			c := pos / chunk
			if int64(m) != c%int64(members) || at != c/int64(members)*chunk+pos%chunk || run <= 0 || run > chunk {
				t.Fatalf("byte %d lies at %d of member %d", pos, at, m)
			}
			if _, seen := first[m]; !seen {
				first[m] = pos - from
				if got := s.firstOn(m, from); got != pos-from {
					t.Fatalf("member %d starts %d behind %d, not %d", m, pos-from, from, got)
				}
				if lo, _ := s.span(m, from, end-from); lo != at {
					t.Fatalf("member %d starts at %d, not %d", m, at, lo)
				}
			}
			run = min(run, end-pos)
			total[m] += run
			pos += run
		}
		for m := range members {
			if lo, hi := s.span(m, from, end-from); hi-lo != total[m] {
				t.Fatalf("member %d has %d bytes of [%d, %d), not %d", m, total[m], from, end, hi-lo)
			}
		}
	})
}

func TestNewStripe_refusesByName(t *testing.T) {
	t.Parallel()
	good, _ := memories(1<<20, 1<<20, 1<<20)
	with := func(i int, m Member) []Member {
		list := append([]Member(nil), good...)
		list[i] = m
		return list
	}
	big := bigBlocks{NewMemory(1 << 20)}
	for name, c := range map[string]struct {
		members []Member
		chunk   int64
		says    string
	}{
		"no members":            {nil, 4096, "0 members"},
		"one member":            {good[:1], 4096, "1 members"},
		"65 members":            {make([]Member, 65), 4096, "65 members"},
		"missing":               {with(1, Member{nil, "sdb"}), 4096, "member 1 of 3 (sdb): it is missing"},
		"missing, typed nil":    {with(2, Member{(*Memory)(nil), "sdc"}), 4096, "member 2 of 3 (sdc): it is missing"},
		"short":                 {with(0, Member{NewMemory(4095), "sda"}), 4096, "member 0 of 3 (sda): it has 4095 bytes"},
		"twice, other name":     {with(2, Member{good[0].Device, "again"}), 4096, "member 2 of 3 (again): it is member 0 as well"},
		"twice, same name":      {with(2, Member{NewMemory(1 << 20), "m1"}), 4096, "member 2 of 3 (m1): it is member 1 as well"},
		"blocks beyond a chunk": {with(1, Member{big, "tape"}), 4096, "member 1 of 3 (tape): its blocks of 8192"},
		"chunk 0":               {good, 0, "chunk of 0"},
		"chunk below a page":    {good, 2048, "chunk of 2048"},
		"chunk not a power":     {good, 12288, "chunk of 12288"},
		"chunk negative":        {good, -4096, "chunk of -4096"},
		"chunk of 32 MiB":       {good, 32 << 20, "chunk of 33554432"},
		"too long to address":   {[]Member{{huge{}, "a"}, {&huge{}, "b"}}, 4096, "more than can be addressed"},
	} {
		if _, err := NewStripe(c.members, c.chunk); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v, want one that says %q", name, err, c.says)
		}
	}
	for i, m := range good {
		if _, err := m.Device.ReadAt(make([]byte, 1), 0); err != nil {
			t.Errorf("a refused stripe closed member %d: %v", i, err)
		}
	}
}

type bigBlocks struct{ Device }

func (bigBlocks) BlockSize() int { return 8192 }

// huge is a device of the largest size.
type huge struct{ Device }

func (huge) Size() int64 { return 1<<63 - 1 }

// A request that fails on one member fails, names the member, and keeps the kind of the error.
func TestStripe_aFailingMemberIsNamed(t *testing.T) {
	t.Parallel()
	for op, request := range map[Op]func(s *Stripe) error{
		OpRead:        func(s *Stripe) error { _, err := s.ReadAt(make([]byte, 20000), 100); return err },
		OpWrite:       func(s *Stripe) error { _, err := s.WriteAt(make([]byte, 20000), 100); return err },
		OpSync:        func(s *Stripe) error { return s.Sync() },
		OpDiscard:     func(s *Stripe) error { return s.Discard(0, 20000) },
		OpWriteZeroes: func(s *Stripe) error { return s.WriteZeroes(0, 20000, false) },
	} {
		members, _ := memories(1<<20, 1<<20, 1<<20)
		fault := NewFault(members[1].Device)
		members[1] = Member{fault, "sdb"}
		s := mustStripe(t, members, 4096)
		if err := request(s); err != nil {
			t.Errorf("%s: %v", op, err)
		}
		fault.Add(Rule{Ops: op, Err: ErrNoSpace})
		if err := request(s); !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "member 1 of 3 (sdb)") {
			t.Errorf("%s: %v", op, err)
		}
		// One chunk, on that member alone.
		if _, err := s.ReadAt(make([]byte, 512), 4096); op == OpRead && !strings.Contains(fmt.Sprint(err), "(sdb)") {
			t.Errorf("short read: %v", err)
		}
		if _, err := s.ReadAt(make([]byte, 512), 0); err != nil {
			t.Errorf("another member: %v", err)
		}
	}
}

// A member that has no discards must not hide that another one is broken: callers take the former lightly.
func TestStripe_unsupportedDoesNotHideAnError(t *testing.T) {
	t.Parallel()
	members, _ := memories(1<<20, 1<<20)
	fault := NewFault(members[1].Device)
	members[0].Device, members[1].Device = plainDevice{members[0].Device}, fault
	s := mustStripe(t, members, 4096)
	if err := s.Discard(0, 8192); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v, want ErrUnsupported", err)
	}
	fault.Add(Rule{Ops: OpDiscard})
	if err := s.Discard(0, 8192); !errors.Is(err, ErrInjected) || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v, want only ErrInjected", err)
	}
}

// plainDevice hides every capability.
type plainDevice struct{ Device }

// An acknowledged Sync is one that every member acknowledged, also when one of them failed.
func TestStripe_syncReachesEveryMember(t *testing.T) {
	t.Parallel()
	var members []Member
	var synced [3]int
	for i := range synced {
		members = append(members, Member{&countSync{NewMemory(1 << 20), &synced[i]}, fmt.Sprint(i)})
	}
	fault := NewFault(members[0].Device)
	members[0].Device = fault
	s := mustStripe(t, members, 4096)
	if err := s.Sync(); err != nil || synced != [3]int{1, 1, 1} {
		t.Errorf("synced %v: %v", synced, err)
	}
	fault.Add(Rule{Ops: OpSync})
	if err := s.Sync(); !errors.Is(err, ErrInjected) || synced != [3]int{1, 2, 2} {
		t.Errorf("synced %v: %v", synced, err)
	}
}

type countSync struct {
	*Memory
	n *int
}

func (c *countSync) Sync() error { *c.n++; return c.Memory.Sync() }

// meeting is a device whose requests wait until as many as expected are under way at one time.
type meeting struct {
	*Memory
	all *sync.WaitGroup
}

func (m *meeting) ReadAt(p []byte, off int64) (int, error) {
	m.all.Done()
	m.all.Wait()
	return m.Memory.ReadAt(p, off)
}

func TestStripe_membersWorkSideBySide(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	all.Add(4)
	var members []Member
	for i := range 4 {
		members = append(members, Member{&meeting{NewMemory(1 << 20), &all}, fmt.Sprint(i)})
	}
	// If one waited for another this would hang.
	if _, err := mustStripe(t, members, 4096).ReadAt(make([]byte, 16384), 0); err != nil {
		t.Error(err)
	}
}

func TestStripe_extentsFollowTheMembers(t *testing.T) {
	t.Parallel()
	a, b := newFile(t, 1<<20), newFile(t, 1<<20)
	s := mustStripe(t, []Member{{a, "a"}, {b, "b"}}, 65536)
	if _, err := s.WriteAt(bytes.Repeat([]byte{1}, 65536), 3*65536); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	var hole, data int64
	for off := int64(0); off < s.Size(); {
		list, err := s.Extents(off, s.Size()-off)
		if err != nil || lengths(list) == 0 {
			t.Fatal(list, err)
		}
		for _, e := range list {
			if e.Hole {
				hole += e.Length
			} else if data += e.Length; off > 3*65536 || off+e.Length <= 3*65536 {
				t.Errorf("data at %d", off)
			}
			off += e.Length
		}
	}
	if data == s.Size() {
		t.Skip("the file system does not report holes")
	}
	if data < 65536 || hole+data != s.Size() {
		t.Errorf("%d bytes of data, %d of holes", data, hole)
	}
}

func TestStripe_shortRequestsAllocateNothing(t *testing.T) {
	members, _ := memories(1<<20, 1<<20)
	s := mustStripe(t, members, 65536)
	p := make([]byte, 4096)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := s.WriteAt(p, 65536); err != nil {
			t.Error(err)
		}
		if _, err := s.ReadAt(p, 65536); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
