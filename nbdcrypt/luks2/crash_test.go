package luks2

import (
	"errors"
	"math/rand/v2"
	"testing"

	"keyward/nbdcrypt/blockdev"
)

// cutEverywhere runs do on copies of start with the power cut at every write, at several bytes of it, and hands over
// what was left on the disk. It returns how many writes an undisturbed run has.
func cutEverywhere(t *testing.T, start []byte, do func(blockdev.Device) error, check func(left *blockdev.Memory)) (writes int) {
	t.Helper()
	for ; ; writes++ {
		for _, torn := range []int64{0, 1, 511, 512, 4096, 5000, HeaderSize - 1} {
			mem := blockdev.NewMemoryFrom(start)
			dev := blockdev.NewFault(mem)
			dev.Add(blockdev.Rule{Ops: blockdev.OpMutate, Skip: writes, Apply: torn, PowerCut: true})
			err := do(dev)
			if dev.Hits() == 0 {
				if err != nil {
					t.Fatalf("undisturbed: %v", err)
				}
				return writes
			}
			if !errors.Is(err, blockdev.ErrPowerCut) {
				t.Errorf("cut at write %d: error %v", writes, err)
			}
			check(mem)
		}
	}
}

// loseUnsynced runs do on copies of start over a disk with a volatile cache, with the power cut at every request, and
// any part of what was not flushed lost.
func loseUnsynced(t *testing.T, start []byte, do func(blockdev.Device) error, check func(left *blockdev.Memory)) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 1))
	for step := 0; ; step++ {
		for range 4 {
			mem := blockdev.NewMemoryFrom(start)
			cache := blockdev.NewVolatile(mem, 512)
			dev := blockdev.NewFault(cache)
			dev.Add(blockdev.Rule{Ops: blockdev.OpMutate | blockdev.OpSync, Skip: step, PowerCut: true})
			_ = do(dev)
			cut := dev.Hits() > 0
			if err := cache.Crash(r); err != nil {
				t.Fatal(err)
			}
			check(mem)
			if !cut {
				return
			}
		}
	}
}

func TestFormat_cutAtEveryWriteLeavesTheOldOrTheNewHeader(t *testing.T) {
	t.Parallel()
	start, old, key := formatted(t, testParams(), 1)
	var made Record
	do := func(dev blockdev.Device) (err error) {
		p := testParams()
		p.Overwrite, p.Epoch = true, 2
		made, err = Format(dev, p, key)
		return err
	}
	seen := map[uint64]int{}
	check := func(left *blockdev.Memory) {
		h, err := Read(left)
		if err != nil {
			t.Errorf("neither header is readable: %v", err)
			return
		}
		rec := h.Record()
		seen[rec.Epoch]++
		if rec.Epoch == 1 && h.Verify(old) != nil {
			t.Error("the old header is readable but not the same")
		}
		if err := h.VerifyKey(rec, key); err != nil {
			t.Errorf("epoch %d: %v", rec.Epoch, err)
		}
		// What is left can be brought into order.
		if err := Repair(left, h); err != nil {
			t.Error(err)
		}
	}
	if writes := cutEverywhere(t, start.Snapshot(), do, check); writes < 3 {
		t.Errorf("only %d writes", writes)
	}
	loseUnsynced(t, start.Snapshot(), do, check)
	if seen[1] == 0 || seen[2] == 0 || len(seen) != 2 {
		t.Errorf("epochs seen: %v", seen)
	}
	if made.Epoch != 2 {
		t.Error("no undisturbed run")
	}
}

func TestRepair_cutAtEveryWriteLeavesTheHeader(t *testing.T) {
	t.Parallel()
	for which := range copyOffsets {
		start, rec, key := formatted(t, testParams(), 1)
		flip(t, start, copyOffsets[which]+500)
		do := func(dev blockdev.Device) error {
			h, err := Read(dev)
			if err != nil {
				return err
			}
			return Repair(dev, h)
		}
		check := func(left *blockdev.Memory) {
			h, err := Read(left)
			if err != nil {
				t.Errorf("%s: %v", copyNames[which], err)
				return
			}
			if err := errors.Join(h.Verify(rec), h.VerifyKey(rec, key)); err != nil {
				t.Error(err)
			}
		}
		cutEverywhere(t, start.Snapshot(), do, check)
		loseUnsynced(t, start.Snapshot(), do, check)
	}
}
