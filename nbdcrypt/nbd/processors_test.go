package nbd

import (
	"runtime"
	"testing"
)

// GOMAXPROCS belongs to the process, so these do not run in parallel with others.
func TestSpareProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
	for _, c := range []struct {
		name         string
		set          string
		has, expects int
	}{
		{"a small machine gets twice as many", "", 2, 4},
		{"a large one eight more", "", 64, 72},
		{"the administrator's setting stays", "3", 3, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GOMAXPROCS", c.set)
			runtime.GOMAXPROCS(c.has)
			SpareProcessors()
			if got := runtime.GOMAXPROCS(0); got != c.expects {
				t.Errorf("%d processors, want %d", got, c.expects)
			}
		})
	}
}
