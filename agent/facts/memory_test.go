package facts

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/api"
)

// A heartbeat takes costly facts from the memory and has them refreshed behind it; a key request never does.
func TestMemory_heartbeatsDoNotWait(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	count := filepath.Join(root, "count")
	program(t, root, "opt/counter", "echo x >> "+count+"; wc -l < "+count+"\n")
	var offset atomic.Int64
	s := Sources{Root: root, Clock: func() time.Time { return clock().Add(time.Duration(offset.Load())) },
		Configured: Configured{Scripts: []Script{{Name: "counter", Path: "/opt/counter", Number: true, Timeout: commandTime}}},
		Memory:     NewMemory(t.Context(), 30*time.Second)}
	expect := func(when, nonce, want string, at time.Duration) {
		t.Helper()
		f := of(t, Collect(context.Background(), s, nonce), api.FactScriptNumber, "counter")
		if !slices.Equal(f.Values, []string{want}) || !f.At.Equal(clock().Add(at)) {
			t.Errorf("%s: %v of %v (%s), want %s of %v", when, f.Values, f.At, f.Missing, want, clock().Add(at))
		}
		s.Memory.Wait()
	}
	expect("the first heartbeat collects", "", "1", 0)
	offset.Store(int64(29 * time.Second))
	expect("a young memory", "", "1", 0)
	offset.Store(int64(31 * time.Second))
	expect("an old memory, refreshed behind it", "", "1", 0)
	expect("the next heartbeat", "", "2", 31*time.Second)
	expect("a key request", "nonce", "3", 31*time.Second)
	s.Fresh = true
	expect("a check on demand", "", "4", 31*time.Second)
}

func TestMemory_filesAreHashedAgainOnlyWhenTheyChange(t *testing.T) {
	t.Parallel()
	root := fixture(t, map[string]string{"etc/motd": "one"})
	path := filepath.Join(root, "etc/motd")
	s := Sources{Root: root, Clock: clock, Memory: NewMemory(t.Context(), time.Minute)}
	first, err := s.digest(t.Context(), "/etc/motd")
	if err != nil {
		t.Fatal(err)
	}
	// Same length, and the time of change set back as far as anybody can.
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // file systems count time in ticks
	if err := os.WriteFile(path, []byte("two"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	second, err := s.digest(t.Context(), "/etc/motd")
	if err != nil || second == first {
		t.Errorf("a changed file has the old digest %s (%v)", second, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if again, err := s.digest(ended, "/etc/motd"); err != nil || again != second {
		t.Errorf("an unchanged file was read again: %v", err)
	}
	s.Fresh = true
	if _, err := s.digest(ended, "/etc/motd"); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("fresh evidence took a remembered digest: %v", err)
	}
}
