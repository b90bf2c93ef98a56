package sector

import (
	"slices"
	"strings"
	"testing"
)

type named struct {
	Kernel
	name      string
	available bool
}

func (k named) Name() string    { return k.name }
func (k named) Available() bool { return k.available }

func TestRegistry_fastestUsableFirst(t *testing.T) {
	r := NewRegistry("test", named{name: "generic", available: true})
	r.Add(named{name: "old", available: true}, named{name: "new", available: true}, named{name: "absent"})
	if got := r.Names(); !slices.Equal(got, []string{"new", "old", "generic"}) || r.Best().Name() != "new" {
		t.Errorf("kernels %v, best %s", got, r.Best().Name())
	}
	if k, err := r.ByName("old"); err != nil || k.Name() != "old" {
		t.Errorf("old: %v, %v", k, err)
	}
	if _, err := r.ByName("absent"); err == nil || !strings.Contains(err.Error(), "new, old, generic") {
		t.Errorf("a kernel that this processor lacks: %v", err)
	}
}

func TestRegistry_lateKernelIsABug(t *testing.T) {
	r := NewRegistry("test", named{name: "generic", available: true})
	r.Best()
	defer func() {
		if recover() == nil {
			t.Error("a kernel was added that nobody would use")
		}
	}()
	r.Add(named{name: "late", available: true})
}
