package nbd

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSplit_longWritesArriveWhole(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	for _, tc := range []struct {
		name        string
		off, length int
		writes      int
	}{
		{"as long as a piece", 0, writePiece, 1},
		{"a byte more", 0, writePiece + 1, 2},
		{"across a border", writePiece - 512, 1024, 1}, // too short to be split
		{"from the middle of a piece", 512, 1 << 20, 5},
		{"odd at both ends", 12345, 3<<20 + 77, 13},
		{"all of the device", 0, size, 32},
	} {
		for _, inFlight := range []int{1, 4, 32} {
			dev := newFullDevice(size)
			dev.record = true
			srv := newServer(t, Options{MaxInFlight: inFlight, Exports: []Export{{Device: dev}}})
			c := connect(t, srv).enter("", false)
			data := pattern(tc.length, 7)
			c.mustDo(cmdWrite, cmdFlagFUA, uint64(tc.off), uint32(tc.length), data)
			mustEqual(t, tc.name, dev.content(tc.off, tc.length), data)
			log := dev.log()
			want := tc.writes
			if inFlight == 1 {
				want = 1 // the parts are requests too
			}
			if len(log) != want+1 || log[len(log)-1] != "sync 0+0" {
				t.Errorf("%s, %d in flight: the device saw %q, want %d writes and then a sync", tc.name, inFlight, log, want)
			}
			c.leave()
			if s := srv.Stats(); s.InFlight != 0 || s.BufferBytes != 0 || s.Requests != 1 || s.BytesWritten != uint64(tc.length) {
				t.Errorf("%s: %+v", tc.name, s)
			}
		}
	}
}

// A part that fails fails the write, once, with its error; what is behind the payload is understood.
func TestSplit_oneErrorForAllParts(t *testing.T) {
	t.Parallel()
	for _, bad := range []int64{0, 2 * writePiece, 7 * writePiece} {
		dev := newFullDevice(4 << 20)
		dev.record = true
		dev.hook = func(op string, off, _ int64) error {
			if op == "write" && off == bad {
				return errors.New("medium error")
			}
			return nil
		}
		srv := newServer(t, Options{Exports: []Export{{Device: dev}}})
		c := connect(t, srv).enter("", true)
		if a := c.do(cmdWrite, cmdFlagFUA, 0, 2<<20, pattern(2<<20, 1)); a.errno != EIO {
			t.Errorf("part at %d: error %d, want EIO", bad, a.errno)
		}
		if slices.ContainsFunc(dev.log(), func(e string) bool { return strings.HasPrefix(e, "sync") }) {
			t.Errorf("part at %d: a write that failed was synced: %q", bad, dev.log())
		}
		c.mustDo(cmdWrite, 0, 3<<20, 1<<20, pattern(1<<20, 2))
		mustEqual(t, "the next write", dev.content(3<<20, 1<<20), pattern(1<<20, 2))
		c.leave()
		if s := srv.Stats(); s.InFlight != 0 || s.BufferBytes != 0 || s.Errors != 1 {
			t.Errorf("part at %d: %+v", bad, s)
		}
	}
}
