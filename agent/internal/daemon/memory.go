package daemon

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// trimPace is how often the agent looks whether it keeps memory that it no longer needs.
const trimPace = 20 * time.Second

// keepFree is how much free heap may stay with the process between two looks.
const keepFree = 4 << 20

// trim gives the buffers of a load back to the machine once the load is over. Left alone, Go would keep them for minutes,
// and an idle agent does not allocate enough to start a collection by itself.
func trim(ctx context.Context) {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"}}
	var before uint64
	trimmed := false
	for ctx.Err() == nil {
		pause(ctx, trimPace)
		metrics.Read(samples)
		allocated := samples[0].Value.Uint64()
		busy := allocated-before > 4*keepFree
		before = allocated
		if busy {
			trimmed = false
			continue
		}
		// Once after a load in any case, because pooled buffers count as objects until two collections have passed.
		if !trimmed || samples[1].Value.Uint64()+samples[2].Value.Uint64() > keepFree {
			debug.FreeOSMemory()
			debug.FreeOSMemory()
			trimmed = true
		}
	}
}
