package store_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// A store whose readers have all been busy still says that it is there.
func TestPing_afterEveryReaderWasBusy(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := s.View(t.Context(), func(*store.Tx) error { time.Sleep(50 * time.Millisecond); return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := s.Ping(ctx); err != nil {
			t.Error(err)
		}
	})
}
