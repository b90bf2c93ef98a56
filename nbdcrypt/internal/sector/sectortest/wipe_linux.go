package sectortest

import (
	"crypto/rand"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/internal/aeskey"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/keymem/memsearch"
)

// RoundKeys are patterns for every round key of an AES key, in both directions. The first is the start of the key.
func RoundKeys(t testing.TB, key []byte) (patterns []memsearch.Pattern) {
	t.Helper()
	state := make([]byte, aeskey.BlockRoom)
	defer clear(state)
	if _, err := aeskey.BlockIn(state, key); err != nil {
		t.Fatal(err)
	}
	// crypto/aes: rounds, then 60 words for each direction, in the order of their bytes where AES is in assembly.
	const words = 60 * 4
	if string(state[8:24]) != string(key[:16]) {
		t.Skip("crypto/aes of this build does not keep round keys as bytes")
	}
	for _, base := range []int{8, 8 + words} {
		for r := range len(key)/4 + 7 {
			patterns = append(patterns, memsearch.NewPattern(state[base+16*r:base+16*r+16]))
		}
	}
	return patterns
}

// Wiped proves that after Wipe no round key of any of the AES keys that parts makes of a key is in the process's memory,
// although signals met the kernels at work and put their registers on signal stacks. Kernels on which the standard
// library does AES are left out.
func (s Subject) Wiped(t *testing.T, parts func(key []byte) [][]byte) {
	t.Helper()
	for _, kernel := range s.Kernels() {
		if kernel == "generic" {
			continue
		}
		for _, keyLen := range s.KeyLens {
			raw := make([]byte, keyLen)
			rand.Read(raw)
			var patterns []memsearch.Pattern
			for _, part := range parts(raw) {
				patterns = append(patterns, RoundKeys(t, part)...)
				clear(part)
			}
			key, err := keymem.FromBytes(raw)
			if err != nil {
				t.Fatal(err)
			}
			c, err := s.New(kernel, key.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			key.Wipe()
			var left []string
			afterSignals(func(buf []byte) {
				c.EncryptSectors(buf, buf, 4096, 0, 8)
			}, func() {
				c.Wipe()
				left, err = memsearch.Search(0, patterns...)
			})
			if err != nil {
				t.Skip(err)
			}
			if len(left) > 0 {
				t.Errorf("%s, key of %d bytes: round keys are left in %q", kernel, keyLen, left)
			}
		}
	}
}

// afterSignals runs work over and over on a thread while it gets signals, as from a busy scheduler, and then runs check
// while that thread stands still: nothing but what check does will touch its signal stack.
func afterSignals(work func(buf []byte), check func()) {
	var stop atomic.Bool
	started, stopped, released := make(chan int), make(chan struct{}), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		buf := make([]byte, 256<<10)
		started <- unix.Gettid()
		for !stop.Load() {
			work(buf)
		}
		close(stopped)
		<-released
	}()
	thread := <-started
	for range 5 {
		time.Sleep(10 * time.Millisecond)
		_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
	}
	stop.Store(true)
	<-stopped
	check()
	close(released)
}
