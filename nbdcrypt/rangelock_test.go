package nbdcrypt

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
)

func TestRangeLock_ordersOnlyWhatConflicts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		from, to int64
		shared   bool
		waits    bool
	}{
		"same range":           {100, 200, false, true},
		"one byte in common":   {199, 300, false, true},
		"inside":               {120, 130, false, true},
		"around":               {0, 1000, false, true},
		"reader of it":         {100, 200, true, true},
		"right behind":         {200, 300, false, false},
		"right before":         {0, 100, false, false},
		"reader of other data": {200, 300, true, false},
	} {
		synctest.Test(t, func(t *testing.T) {
			var l rangeLock
			held := l.lock(100, 200, false)
			got := false
			go func() {
				r := l.lock(c.from, c.to, c.shared)
				got = true
				l.unlock(r)
			}()
			synctest.Wait()
			if got == c.waits {
				t.Errorf("%s: waits %v", name, !got)
			}
			l.unlock(held)
			synctest.Wait()
			if !got || len(l.queue) != 0 {
				t.Errorf("%s: never released", name)
			}
		})
	}
}

func TestRangeLock_readersShareAndAWaitingWriterIsNotStarved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l rangeLock
		var mu sync.Mutex
		var order []string
		enter := func(name string, shared bool) {
			go func() {
				r := l.lock(0, 10, shared)
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				l.unlock(r)
			}()
			synctest.Wait()
		}
		first, second := l.lock(0, 10, true), l.lock(5, 8, true) // two readers inside: no deadlock
		enter("writer", false)
		enter("late reader", true)
		if len(order) != 0 {
			t.Fatalf("entered beside readers: %v", order)
		}
		l.unlock(first)
		l.unlock(second)
		synctest.Wait()
		if !slices.Equal(order, []string{"writer", "late reader"}) {
			t.Errorf("order %v", order)
		}
	})
}

func TestRangeLock_excludesUnderLoad(t *testing.T) {
	t.Parallel()
	var l rangeLock
	var cells [64]int // changed without any other lock: the race detector watches
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 5))
			for range 500 {
				from := r.IntN(60)
				to := from + 1 + r.IntN(64-from-1)
				shared := r.IntN(3) == 0
				held := l.lock(int64(from), int64(to), shared)
				for i := from; i < to; i++ {
					if shared {
						_ = cells[i]
					} else {
						cells[i]++
					}
				}
				l.unlock(held)
			}
		})
	}
	wg.Wait()
	if len(l.queue) != 0 {
		t.Errorf("%d ranges are left", len(l.queue))
	}
}
