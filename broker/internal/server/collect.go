package server

import (
	"context"
	"runtime/debug"
	running "runtime/metrics"
)

// The heap may grow by its own size, as usual, or by minGarbage where that is more: most of what a request leaves behind is
// garbage, and collecting a small heap for every few of them was a tenth of a delivery's processor time. With thousands of
// connections the heap is large, and what may be wasted is not multiplied with it.
const (
	minGarbage  = 64 << 20
	usualGrowth = 100 // percent
	mostGrowth  = 400
)

// growth is by how many percent a heap with so many live bytes may grow.
func growth(live uint64) int {
	return int(min(max(minGarbage*100/max(live, 1<<20), usualGrowth), mostGrowth))
}

// collect follows the size of the heap. It is called every second.
func collect(context.Context) error {
	sample := []running.Sample{{Name: "/gc/heap/live:bytes"}}
	running.Read(sample)
	if sample[0].Value.Kind() == running.KindUint64 {
		debug.SetGCPercent(growth(sample[0].Value.Uint64()))
	}
	return nil
}
