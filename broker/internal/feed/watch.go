package feed

import (
	"context"
	"time"
)

// Watch notices what other brokers on the same database changed: every change has an audit record, so an account whose
// log grew was changed. head returns the sequence of an account's last audit record. Only accounts with listeners are
// asked for, every interval, until ctx ends. Listeners of this broker's own changes are woken at once by Publish; that
// Watch then wakes them once more is harmless.
func (h *Hub) Watch(ctx context.Context, interval time.Duration, head func(ctx context.Context, accountID string) (int64, error)) {
	seen := map[string]int64{}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := map[string]int64{}
		for _, id := range h.Accounts() {
			last, err := head(ctx, id)
			if err != nil {
				// The database is away; whoever listens learns that from its own next read.
				now[id] = seen[id]
				continue
			}
			if before, known := seen[id]; known && before != last {
				h.Publish(id, TopicChanged)
			}
			now[id] = last
		}
		seen = now
	}
}
