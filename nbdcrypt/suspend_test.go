package nbdcrypt

import (
	"bytes"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/luks2"
)

func TestSuspend_requestsWaitAndGoOnAfterResume(t *testing.T) {
	t.Parallel()
	dev, rec := fresh(t, 256, 4096)
	synctest.Test(t, func(t *testing.T) {
		v := open(t, dev, rec, Options{AllowDiscard: true})
		if _, err := v.WriteAt([]byte("before"), 100); err != nil {
			t.Fatal(err)
		}
		if err := v.Suspend(); err != nil {
			t.Fatal(err)
		}
		if v.Status() != StatusSuspended || v.Protection() != "" || v.Kernel() != "" {
			t.Errorf("status %s, key in %q", v.Status(), v.Protection())
		}
		if err := v.Suspend(); err != nil {
			t.Errorf("second suspend: %v", err)
		}
		var done atomic.Int32
		back := make([]byte, 6)
		for _, request := range []func() error{
			func() error { _, err := v.ReadAt(back, 100); return err },
			func() error { _, err := v.WriteAt([]byte("after"), 8192); return err },
			func() error { _, err := v.WriteAtInPlace(make([]byte, 4096), 4096*8); return err },
			func() error { return v.WriteZeroes(4096*9, 4096, true) },
			func() error { return v.Discard(4096*10, 4096) },
		} {
			go func() {
				if err := request(); err != nil {
					t.Error(err)
				}
				done.Add(1)
			}()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := done.Load(); n != 0 {
			t.Errorf("%d requests went through a suspended volume", n)
		}
		if err := v.Sync(); err != nil {
			t.Errorf("sync while suspended: %v", err)
		}
		if err := v.Resume(newKey(t, 256, 2)); !errors.Is(err, luks2.ErrWrongKey) || v.Status() != StatusSuspended {
			t.Errorf("resumed with the wrong key: %v, %s", err, v.Status())
		}
		if err := v.Resume(newKey(t, 256, 1)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := done.Load(); n != 5 || string(back) != "before" || v.Status() != StatusOpen || v.Protection() == "" {
			t.Errorf("after resume: %d requests done, read %q, %s", n, back, v.Status())
		}
		if err := v.Resume(newKey(t, 256, 1)); err == nil {
			t.Error("an open volume was resumed")
		}
	})
}

func TestSuspend_waitsForRequestsUnderWayAndSyncsBeforeTheKeyIsWiped(t *testing.T) {
	t.Parallel()
	mem, rec := fresh(t, 256, 4096)
	synctest.Test(t, func(t *testing.T) {
		cache := blockdev.NewVolatile(mem, 512)
		v := open(t, blockdev.NewDelay(cache, blockdev.Delays{Write: time.Minute}), rec, Options{})
		start := time.Now()
		go v.WriteAt(bytes.Repeat([]byte{1}, 4096), 0)
		synctest.Wait()
		suspended := make(chan error)
		go func() { suspended <- v.Suspend() }()
		synctest.Wait()
		if v.Status() != StatusSuspending {
			t.Errorf("status %s while a write is under way", v.Status())
		}
		if err := <-suspended; err != nil {
			t.Error(err)
		}
		// Wiping the key takes as long as threads need to take a signal, which on the bubble's clock is not nothing.
		if waited := time.Since(start); waited < time.Minute || waited > time.Minute+time.Second {
			t.Errorf("suspended after %s, the write takes a minute", waited)
		}
		if cache.Pending() != 0 {
			t.Error("acknowledged data was not flushed")
		}
	})
}

func TestSuspend_wipesTheKeyEvenIfTheFlushFails(t *testing.T) {
	t.Parallel()
	mem, rec := fresh(t, 256, 4096)
	dev := blockdev.NewFault(mem)
	v := open(t, dev, rec, Options{})
	dev.Add(blockdev.Rule{Ops: blockdev.OpSync, Count: 1})
	if err := v.Suspend(); !errors.Is(err, blockdev.ErrInjected) {
		t.Errorf("error %v", err)
	}
	if v.Status() != StatusSuspended || v.cipher != nil {
		t.Errorf("status %s, key still there", v.Status())
	}
	if err := v.Resume(newKey(t, 256, 1)); err != nil {
		t.Error(err)
	}
}

func TestResume_refusesADiskSwappedMeanwhile(t *testing.T) {
	t.Parallel()
	dev, rec := fresh(t, 256, 4096)
	v := open(t, dev, rec, Options{})
	if err := v.Suspend(); err != nil {
		t.Fatal(err)
	}
	other := blockdev.NewMemory(dev.Size())
	if _, err := luks2.Format(other, luks2.Params{Device: "x", Account: "x", Broker: "x", KeyBits: 256}, newKey(t, 256, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := dev.WriteAt(other.Snapshot()[:2*luks2.HeaderSize], 0); err != nil {
		t.Fatal(err)
	}
	key := newKey(t, 256, 1)
	if err := v.Resume(key); !errors.As(err, new(*luks2.MismatchError)) {
		t.Errorf("error %v", err)
	}
	if key.Len() == 0 {
		t.Error("the key was wiped on failure")
	}
}

func TestClose_releasesWaitingRequests(t *testing.T) {
	t.Parallel()
	dev, rec := fresh(t, 256, 4096)
	synctest.Test(t, func(t *testing.T) {
		v := open(t, dev, rec, Options{})
		if err := v.Suspend(); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 3)
		for range 3 {
			go func() { _, err := v.ReadAt(make([]byte, 10), 0); waiting <- err }()
		}
		synctest.Wait()
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := <-waiting; !errors.Is(err, blockdev.ErrClosed) {
				t.Errorf("error %v", err)
			}
		}
		_, writeErr := v.WriteAt([]byte{1}, 0)
		for name, err := range map[string]error{
			"write": writeErr, "sync": v.Sync(), "suspend": v.Suspend(), "resume": v.Resume(newKey(t, 256, 1)),
		} {
			if !errors.Is(err, blockdev.ErrClosed) {
				t.Errorf("%s on a closed volume: %v", name, err)
			}
		}
		if err := v.Close(); err != nil || v.Status() != StatusClosed {
			t.Errorf("second close: %v, %s", err, v.Status())
		}
	})
}

// Under load, suspends and resumes must neither lose a write nor let one through without the key.
func TestSuspend_underLoad(t *testing.T) {
	t.Parallel()
	dev, rec := fresh(t, 128, 512)
	v := open(t, dev, rec, Options{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 300 {
				p := bytes.Repeat([]byte{byte(i)}, 700)
				off := int64(w * 100_000)
				if _, err := v.WriteAt(p, off); err != nil {
					t.Error(err)
					return
				}
				back := make([]byte, 700)
				if _, err := v.ReadAt(back, off); err != nil || !bytes.Equal(back, p) {
					t.Errorf("writer %d: lost write %d (%v)", w, i, err)
					return
				}
			}
		})
	}
	for range 10 {
		if err := v.Suspend(); err != nil {
			t.Error(err)
		}
		if err := v.Resume(newKey(t, 128, 1)); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func TestStatus_answersWhileTheDeviceHangs(t *testing.T) {
	t.Parallel()
	dev, rec := fresh(t, 256, 4096)
	synctest.Test(t, func(t *testing.T) {
		v := open(t, blockdev.NewDelay(dev, blockdev.Delays{Read: time.Hour, Sync: time.Hour}), rec, Options{})
		key := newKey(t, 256, 1)
		var wg sync.WaitGroup
		for _, step := range []struct {
			state  string
			change func() error
		}{{StatusSuspending, v.Suspend}, {StatusResuming, func() error { return v.Resume(key) }}} {
			wg.Go(func() {
				if err := step.change(); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
			if got := v.Status(); got != step.state || v.Kernel() != "" {
				t.Errorf("status %s, want %s", got, step.state)
			}
			wg.Wait()
		}
		if v.Status() != StatusOpen {
			t.Errorf("status %s after resume", v.Status())
		}
	})
}
