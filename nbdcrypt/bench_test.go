package nbdcrypt

import (
	"fmt"
	"testing"
)

func TestVolume_steadyStateAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool drop buffers at random")
	}
	dev, rec := fresh(t, 256, 4096)
	v := open(t, dev, rec, Options{})
	p := make([]byte, 128<<10)
	for name, request := range map[string]func(){
		"read":           func() { v.ReadAt(p, 4096) },
		"write":          func() { v.WriteAt(p, 4096) },
		"write in place": func() { v.WriteAtInPlace(p, 4096) },
		"partial write":  func() { v.WriteAt(p[:100], 77) },
		"partial read":   func() { v.ReadAt(p[:100], 77) },
	} {
		if n := testing.AllocsPerRun(50, request); n >= 1 {
			t.Errorf("%s: %v allocations a request", name, n)
		}
	}
}

func BenchmarkVolume(b *testing.B) {
	for _, size := range []int{512, 4096, 65536, 1 << 20} {
		dev, rec := fresh(b, 256, 4096)
		v := open(b, dev, rec, Options{})
		p := make([]byte, size)
		for name, request := range map[string]func() (int, error){
			"read":  func() (int, error) { return v.ReadAt(p, 0) },
			"write": func() (int, error) { return v.WriteAtInPlace(p, 0) },
		} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				for b.Loop() {
					if _, err := request(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
