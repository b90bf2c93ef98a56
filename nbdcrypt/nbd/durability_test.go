package nbd

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"keyward/nbdcrypt/blockdev"
)

// cacheDevice is a disk with a volatile cache: a write reaches the medium only by a Sync that begins after it.
type cacheDevice struct {
	*testDevice
	media sync.Mutex
	disk  []byte
}

func newCacheDevice(size int) *cacheDevice {
	return &cacheDevice{testDevice: newTestDevice(size), disk: make([]byte, size)}
}

func (d *cacheDevice) Sync() error {
	d.mu.RLock()
	now := slices.Clone(d.data)
	d.mu.RUnlock()
	d.media.Lock()
	defer d.media.Unlock()
	copy(d.disk, now)
	return nil
}

func (d *cacheDevice) durable(off, n int) []byte {
	d.media.Lock()
	defer d.media.Unlock()
	return slices.Clone(d.disk[off : off+n])
}

// What is on the medium when the reply arrives, had the power failed at that moment.
func TestDurability_powerCutAfterReply(t *testing.T) {
	t.Parallel()
	dev := newCacheDevice(1 << 20)
	srv := newServer(t, Options{Exports: []Export{{Device: dev, MultiConn: true}}})
	a, b := connect(t, srv).enter("", false), connect(t, srv).enter("", true)

	a.mustDo(cmdWrite, 0, 0, 4096, pattern(4096, 1))
	mustEqual(t, "the medium after a plain write", dev.durable(0, 4096), make([]byte, 4096))
	b.mustDo(cmdFlush, 0, 0, 0, nil)
	mustEqual(t, "the medium after a flush on another connection", dev.durable(0, 4096), pattern(4096, 1))

	a.mustDo(cmdWrite, cmdFlagFUA, 8192, 512, pattern(512, 2))
	mustEqual(t, "the medium after a write with FUA", dev.durable(8192, 512), pattern(512, 2))
	a.mustDo(cmdWriteZeroes, cmdFlagFUA, 0, 4096, nil)
	mustEqual(t, "the medium after zeroes with FUA", dev.durable(0, 4096), make([]byte, 4096))

	a.mustDo(cmdWrite, 0, 0, 100, pattern(100, 3))
	a.leave()
	mustEqual(t, "the medium after a client without flush has left", dev.durable(0, 100), pattern(100, 3))
	b.leave()
}

// Many writers with FUA and flushers at once: each finds its own data on the medium with its reply, though they share
// Syncs.
func TestDurability_sharedSyncsCoverEveryWrite(t *testing.T) {
	t.Parallel()
	const writers, rounds = 8, 40
	dev := newCacheDevice(writers * 4096)
	srv := newServer(t, Options{Exports: []Export{{Device: dev, MultiConn: true}}})
	var all sync.WaitGroup
	for i := range writers {
		c := connect(t, srv).enter("", false)
		all.Go(func() {
			for round := range rounds {
				data := pattern(4096, byte(i*rounds+round))
				if round%2 == 0 {
					c.mustDo(cmdWrite, cmdFlagFUA, uint64(i*4096), 4096, data)
				} else {
					c.mustDo(cmdWrite, 0, uint64(i*4096), 4096, data)
					c.mustDo(cmdFlush, 0, 0, 0, nil)
				}
				if !bytes.Equal(dev.durable(i*4096, 4096), data) {
					t.Errorf("writer %d, round %d: answered, but not on the medium", i, round)
				}
			}
			c.leave()
		})
	}
	all.Wait()
}

func TestDurability_orderAtTheDevice(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		send func(*client)
		want []string
	}{
		{"FUA", func(c *client) { c.mustDo(cmdWrite, cmdFlagFUA, 0, 512, make([]byte, 512)) }, []string{"write 0+512", "sync 0+0"}},
		{"flush without writes", func(c *client) { c.mustDo(cmdFlush, 0, 0, 0, nil) }, []string{"sync 0+0"}},
		{"trim with FUA", func(c *client) { c.mustDo(cmdTrim, cmdFlagFUA, 0, 4096, nil) }, []string{"discard 0+4096", "sync 0+0"}},
		{"read with FUA", func(c *client) { c.mustDo(cmdRead, cmdFlagFUA, 0, 512, nil) }, nil},
		{"write and leave", func(c *client) { c.mustDo(cmdWrite, 0, 0, 512, make([]byte, 512)) }, []string{"write 0+512", "sync 0+0"}},
		{"write, flush and leave", func(c *client) {
			c.mustDo(cmdWrite, 0, 0, 512, make([]byte, 512))
			c.mustDo(cmdFlush, 0, 0, 0, nil)
		}, []string{"write 0+512", "sync 0+0"}},
	} {
		dev := newFullDevice(1 << 20)
		dev.record = true
		c := connect(t, newServer(t, Options{Exports: []Export{{Device: dev, AllowTrim: true}}})).enter("", false)
		tc.send(c)
		c.leave()
		if log := dev.log(); !slices.Equal(log, tc.want) {
			t.Errorf("%s: the device saw %q, want %q", tc.name, log, tc.want)
		}
	}
}

// Callers that arrive while a Sync runs share the next one, never the running one.
func TestSyncGroup_sharesOnlyLaterSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun atomic.Int32
		gate := make(chan error)
		g := &syncGroup{sync: func() error {
			begun.Add(1)
			return <-gate
		}}
		results := make(chan string, 10)
		call := func(name string) { go func() { results <- fmt.Sprintf("%s: %v", name, g.do()) }() }
		call("first")
		synctest.Wait()
		for i := range 5 {
			call(fmt.Sprintf("waiter %d", i))
		}
		synctest.Wait()
		if n := begun.Load(); n != 1 {
			t.Fatalf("%d Syncs begun, want 1", n)
		}
		gate <- nil
		if got := <-results; got != "first: <nil>" {
			t.Errorf("%s", got)
		}
		synctest.Wait()
		call("late")
		synctest.Wait()
		// The second Sync serves those who waited for the first, and its failure is theirs.
		gate <- blockdev.ErrNoSpace
		for range 5 {
			if got := <-results; got[:6] != "waiter" || got[10:] != blockdev.ErrNoSpace.Error() {
				t.Errorf("%s", got)
			}
		}
		gate <- nil
		if got := <-results; got != "late: <nil>" {
			t.Errorf("%s", got)
		}
		if n := begun.Load(); n != 3 {
			t.Errorf("%d Syncs for 7 callers, want 3", n)
		}
		call("again")
		gate <- nil
		<-results
	})
}
