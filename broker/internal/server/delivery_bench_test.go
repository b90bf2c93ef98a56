package server

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

const (
	// warm is how many deliveries are made before PostgreSQL looks at its tables, as it does every few seconds in a broker that runs.
	warm = 256
	// statisticsLag is how late its counters of changes are.
	statisticsLag = 1500 * time.Millisecond
)

// BenchmarkDelivery measures what the broker does for one key below HTTP and TLS: the nonce, the request judged, the key
// sealed, everything stored, with 32 that ask at once. go run ./bench broker measures all of it.
func BenchmarkDelivery(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { deliveries(b, storetest.SQLite(b)) })
	b.Run("postgres", func(b *testing.B) { deliveries(b, storetest.Postgres(b)) })
}

func deliveries(b *testing.B, dsn string) {
	c, setup := newConfig(b, dsn)
	machines := newFleet(b, c, setup.AccountID, 1536)
	broker, err := New(context.Background(), c)
	if err != nil {
		b.Fatal(err)
	}
	defer broker.Close()
	private, err := client.NewDeliveryKey()
	if err != nil {
		b.Fatal(err)
	}
	public := private.PublicKey()
	fact := func(name api.FactName, values ...string) api.Fact {
		return api.Fact{Name: name, Values: values, Source: "test", Grade: api.GradeSelfReported, At: time.Now().UTC()}
	}
	facts := []api.Fact{fact(api.FactHostName, "fleet-x"), fact(api.FactGuestOS, "linux"), fact(api.FactKernelVersion, "6.1.0"),
		fact(api.FactOSName, "Debian GNU/Linux 12 (bookworm)"), fact(api.FactTCPPorts, "22", "443"), fact(api.FactUDPPorts, "68")}
	ask := func(next *atomic.Int64, n int) {
		var wg sync.WaitGroup
		for range 32 {
			wg.Go(func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= n {
						return
					}
					m := machines[i%len(machines)]
					p := tenant.Principal{AccountID: m.AccountID, Instance: m.InstanceID, Address: "192.0.2.1"}
					nonce := broker.Requests.Nonce(p).Nonce
					now := time.Now().UTC()
					got, err := broker.Requests.Ask(context.Background(), p, idempotency.Call{Scope: "x", Key: uuid.NewString()}, api.KeyRequest{DeviceID: m.DeviceID,
						Nonce: nonce, PublicKey: public, Time: now, Deliver: true, Evidence: api.Evidence{Nonce: nonce, CollectedAt: now, Facts: facts}})
					if err != nil || got.Delivery == nil {
						b.Errorf("request: %s (%s), %v", got.Status, got.Reason, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	var next atomic.Int64
	ask(&next, warm)
	time.Sleep(statisticsLag)
	if err := broker.store.Analyze(context.Background()); err != nil {
		b.Fatal(err)
	}
	next.Store(warm)
	b.ResetTimer()
	b.ReportAllocs()
	ask(&next, warm+b.N)
}
