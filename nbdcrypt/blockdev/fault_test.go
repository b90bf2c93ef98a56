package blockdev

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

func TestFault_rules(t *testing.T) {
	t.Parallel()
	write := func(d Device, off int64) error { _, err := d.WriteAt(make([]byte, 512), off); return err }
	read := func(d Device, off int64) error { _, err := d.ReadAt(make([]byte, 512), off); return err }
	for name, c := range map[string]struct {
		rule Rule
		do   func(Device) []error
		want []error
	}{
		"every write": {Rule{Ops: OpWrite},
			func(d Device) []error { return []error{write(d, 0), write(d, 0), read(d, 0)} },
			[]error{ErrInjected, ErrInjected, nil}},
		"the second write only": {Rule{Ops: OpWrite, Skip: 1, Count: 1},
			func(d Device) []error { return []error{write(d, 0), write(d, 0), write(d, 0)} },
			[]error{nil, ErrInjected, nil}},
		"reads of a range": {Rule{Ops: OpRead, Off: 1000, Len: 100, Err: io.ErrNoProgress},
			func(d Device) []error { return []error{read(d, 0), read(d, 512), read(d, 1099), read(d, 1100)} },
			[]error{nil, io.ErrNoProgress, io.ErrNoProgress, nil}},
		"power cut at the first sync": {Rule{Ops: OpSync, PowerCut: true},
			func(d Device) []error { return []error{write(d, 0), d.Sync(), read(d, 0), write(d, 0), d.Sync()} },
			[]error{nil, ErrPowerCut, ErrPowerCut, ErrPowerCut, ErrPowerCut}},
		"zeroes and discards": {Rule{Ops: OpDiscard | OpWriteZeroes},
			func(d Device) []error {
				return []error{Discard(d, 0, 512), WriteZeroes(d, 0, 512, true), write(d, 0)}
			},
			[]error{ErrInjected, ErrInjected, nil}},
	} {
		f := NewFault(NewMemory(4096))
		f.Add(c.rule)
		for i, err := range c.do(f) {
			if !errors.Is(err, c.want[i]) || (c.want[i] == nil) != (err == nil) {
				t.Errorf("%s: request %d: %v, want %v", name, i, err, c.want[i])
			}
		}
		f.Clear()
		if err := errors.Join(write(f, 0), read(f, 1000), f.Sync()); err != nil {
			t.Errorf("%s: after Clear: %v", name, err)
		}
	}
}

func TestFault_tornAndLyingWrites(t *testing.T) {
	t.Parallel()
	mem := NewMemory(4096)
	f := NewFault(mem)
	f.Add(Rule{Ops: OpWrite, Count: 1, Apply: 100})
	if n, err := f.WriteAt(bytes.Repeat([]byte{1}, 512), 0); n != 100 || !errors.Is(err, ErrInjected) {
		t.Errorf("torn: %d, %v", n, err)
	}
	f.Add(Rule{Ops: OpWrite, Silent: true, Apply: 10})
	if n, err := f.WriteAt(bytes.Repeat([]byte{2}, 512), 1024); n != 512 || err != nil {
		t.Errorf("lying: %d, %v", n, err)
	}
	image := mem.Snapshot()
	if bytes.Count(image, []byte{1}) != 100 || bytes.Count(image, []byte{2}) != 10 || f.Hits() != 2 {
		t.Errorf("%d and %d bytes arrived", bytes.Count(image, []byte{1}), bytes.Count(image, []byte{2}))
	}
}

func TestVolatile_losesOnlyWhatWasNotSynced(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 1))
	lost, kept, torn := 0, 0, 0
	for range 200 {
		mem := NewMemory(8192)
		v := NewVolatile(mem, 512)
		synced, loose := bytes.Repeat([]byte{1}, 2048), bytes.Repeat([]byte{2}, 1024)
		if _, err := v.WriteAt(synced, 100); err != nil {
			t.Fatal(err)
		}
		if err := v.Sync(); err != nil || v.Pending() != 0 {
			t.Fatal(err)
		}
		if _, err := v.WriteAt(loose, 4096); err != nil {
			t.Fatal(err)
		}
		back := make([]byte, 1024)
		if _, err := v.ReadAt(back, 4096); err != nil || !bytes.Equal(back, loose) {
			t.Fatal("an unsynced write is not read back")
		}
		if err := v.Crash(r); err != nil {
			t.Fatal(err)
		}
		if _, err := v.ReadAt(back, 0); !errors.Is(err, ErrPowerCut) {
			t.Errorf("read after the crash: %v", err)
		}
		image := mem.Snapshot()
		if !bytes.Equal(image[100:2148], synced) {
			t.Fatal("a synced write was lost")
		}
		switch bytes.Count(image, []byte{2}) {
		case 0:
			lost++
		case 512:
			torn++
		case 1024:
			kept++
		default:
			t.Fatal("torn inside a sector")
		}
	}
	if lost == 0 || kept == 0 || torn == 0 {
		t.Errorf("of 200 crashes %d lost, %d kept, %d tore the write", lost, kept, torn)
	}
}

func TestDelay_takesItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := NewDelay(NewMemory(4096), Delays{Read: time.Second, Write: time.Minute, Sync: time.Hour})
		start := time.Now()
		if _, err := d.ReadAt(make([]byte, 1), 0); err != nil {
			t.Error(err)
		}
		if _, err := d.WriteAt(make([]byte, 1), 0); err != nil {
			t.Error(err)
		}
		if err := errors.Join(d.Sync(), d.Discard(0, 1), d.WriteZeroes(0, 1, false)); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != time.Hour+3*time.Minute+time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestStats_countsRequestsBytesErrorsAndTime(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	clock := func() time.Time { now = now.Add(time.Millisecond); return now }
	f := NewFault(NewMemory(4096))
	s := NewStats(f, clock)
	for range 3 {
		if _, err := s.ReadAt(make([]byte, 100), 0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.WriteAtInPlace(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	f.Add(Rule{Ops: OpWrite | OpSync})
	if _, err := s.WriteAt(make([]byte, 512), 0); err == nil {
		t.Fatal("no error")
	}
	if s.Sync() == nil || s.Discard(0, 512) != nil || s.WriteZeroes(0, 1024, true) != nil {
		t.Fatal("unexpected outcome")
	}
	want := Counters{
		Read:        Counter{3, 0, 300, 3 * time.Millisecond},
		Write:       Counter{2, 1, 512, 2 * time.Millisecond},
		Sync:        Counter{1, 1, 0, time.Millisecond},
		Discard:     Counter{1, 0, 512, time.Millisecond},
		WriteZeroes: Counter{1, 0, 1024, time.Millisecond},
	}
	if got := s.Counters(); got != want {
		t.Errorf("counters %+v", got)
	}
}

func TestOp_isNamed(t *testing.T) {
	if got := (OpRead | OpWriteZeroes).String(); got != "read|write-zeroes" {
		t.Error(got)
	}
}
