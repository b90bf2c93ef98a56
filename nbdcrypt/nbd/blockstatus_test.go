package nbd

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"keyward/nbdcrypt/blockdev"
)

func TestDescribe_cases(t *testing.T) {
	t.Parallel()
	data := func(n int64) blockdev.Extent { return blockdev.Extent{Length: n} }
	hole := func(n int64) blockdev.Extent { return blockdev.Extent{Length: n, Hole: true, Zero: true} }
	noise := func(n int64) blockdev.Extent { return blockdev.Extent{Length: n, Hole: true} }
	for _, tc := range []struct {
		name    string
		extents []blockdev.Extent
		length  int64
		block   int64
		most    int
		want    []descriptor
	}{
		{"data", []blockdev.Extent{data(8192)}, 8192, 1, 10, []descriptor{{8192, 0}}},
		{"a hole that reads as zeroes, one that does not", []blockdev.Extent{hole(4096), noise(4096)}, 8192, 1, 10,
			[]descriptor{{4096, stateHole | stateZero}, {4096, stateHole}}},
		{"neighbours are merged", []blockdev.Extent{hole(100), hole(200), data(1), data(2)}, 303, 1, 10,
			[]descriptor{{300, 3}, {3, 0}}},
		{"only part of the range", []blockdev.Extent{hole(100)}, 8192, 1, 10, []descriptor{{100, 3}}},
		{"more than the range", []blockdev.Extent{data(1 << 62), hole(1 << 62)}, 4096, 1, 10, []descriptor{{4096, 0}}},
		{"the longest possible", []blockdev.Extent{hole(1<<63 - 1)}, 0xffffffff, 1, 10, []descriptor{{0xffffffff, 3}}},
		{"no more than asked", []blockdev.Extent{data(1), hole(1), data(1)}, 3, 1, 2, []descriptor{{1, 0}, {1, 3}}},
		{"one", []blockdev.Extent{data(1), hole(1), data(1)}, 3, 1, 1, []descriptor{{1, 0}}},
		{"a block in a hole and in data is data", []blockdev.Extent{hole(5000), data(100), hole(7188)}, 12288, 4096, 10,
			[]descriptor{{4096, 3}, {4096, 0}, {4096, 3}}},
		{"a block in two kinds of hole is data", []blockdev.Extent{hole(6000), noise(6288)}, 12288, 4096, 10,
			[]descriptor{{4096, 3}, {4096, 0}, {4096, 1}}},
		{"a block that is only begun is data", []blockdev.Extent{hole(6000)}, 12288, 4096, 10,
			[]descriptor{{4096, 3}, {4096, 0}}},
		{"nothing", nil, 4096, 1, 10, nil},
		{"an empty extent ends it", []blockdev.Extent{data(10), {}, data(10)}, 4096, 1, 10, []descriptor{{10, 0}}},
	} {
		if got := describe(tc.extents, tc.length, tc.block, tc.most); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
}

// Whatever a device says: descriptors are whole blocks inside the range, and never call data a hole or zeroes.
func TestDescribe_neverHidesData(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		block := int64(1) << rnd.IntN(4)
		length := block * (1 + rnd.Int64N(12))
		var extents []blockdev.Extent
		var states []uint32
		for range rnd.IntN(8) {
			e := blockdev.Extent{Length: rnd.Int64N(12), Hole: rnd.IntN(2) == 0, Zero: rnd.IntN(2) == 0}
			extents = append(extents, e)
			if e.Length == 0 {
				break
			}
			for range e.Length {
				states = append(states, stateOf(e))
			}
		}
		pos := int64(0)
		for i, d := range describe(extents, length, block, 3) {
			if d.length == 0 || int64(d.length)%block != 0 || i >= 3 {
				t.Fatalf("%v, length %d, block %d: descriptor %d is %v", extents, length, block, i, d)
			}
			for range d.length {
				if d.state != 0 && (pos >= int64(len(states)) || states[pos] != d.state) {
					t.Fatalf("%v, length %d, block %d: byte %d described as %d", extents, length, block, pos, d.state)
				}
				pos++
			}
		}
		if pos > length {
			t.Fatalf("%v: %d of %d bytes described", extents, pos, length)
		}
	}
}

func TestBlockStatus_onTheWire(t *testing.T) {
	t.Parallel()
	dev := newFullDevice(1 << 20)
	if _, err := dev.WriteAt(make([]byte, 8192), 4096); err != nil {
		t.Fatal(err)
	}
	c := connect(t, newServer(t, Options{Exports: []Export{{Device: dev}}})).enter("", true, infoBlockSize)
	status := func(flags uint16, off uint64, length uint32) []uint32 {
		a := c.do(cmdBlockStatus, flags, off, length, nil)
		if a.errno != OK || a.chunk != chunkBlockStatus || binary.BigEndian.Uint32(a.data) != baseAllocationID {
			t.Fatalf("%+v", a)
		}
		var got []uint32
		for b := a.data[4:]; len(b) > 0; b = b[4:] {
			got = append(got, binary.BigEndian.Uint32(b))
		}
		return got
	}
	if got := status(0, 0, 1<<20); !slices.Equal(got, []uint32{4096, 3, 8192, 0, 1<<20 - 12288, 3}) {
		t.Errorf("the whole export: %d", got)
	}
	if got := status(cmdFlagReqOne, 0, 1<<20); !slices.Equal(got, []uint32{4096, 3}) {
		t.Errorf("one extent: %d", got)
	}
	if got := status(0, 4097, 100); !slices.Equal(got, []uint32{100, 0}) {
		t.Errorf("inside an extent: %d", got)
	}
	c.leave()
}

// A fragmented export gives as many descriptors as one reply may have; the client goes on from there.
func TestBlockStatus_isBounded(t *testing.T) {
	t.Parallel()
	dev := newFullDevice(3 * maxExtents * testBlock)
	for i := range dev.hole {
		dev.hole[i] = i%2 == 0
	}
	c := connect(t, newServer(t, Options{Exports: []Export{{Device: dev}}})).enter("", true)
	a := c.do(cmdBlockStatus, 0, 0, uint32(len(dev.data)), nil)
	if n := (len(a.data) - 4) / extentSize; a.errno != OK || n != maxExtents {
		t.Errorf("error %d, %d descriptors, want %d", a.errno, n, maxExtents)
	}
	c.leave()
}
