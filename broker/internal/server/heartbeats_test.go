package server

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// 200 machines report at the same time, each on a connection of its own: all are answered, seen and told when to come
// again. `go run ./bench broker` has 10,000 of them.
func TestHeartbeats_of200MachinesAtOnce(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		c, setup := newConfig(t, dsn)
		machines := newFleet(t, c, setup.AccountID, 200)
		r := start(t, c)
		began := time.Now().UTC().Add(-time.Second)
		var wg sync.WaitGroup
		for _, m := range machines {
			cert, err := tls.X509KeyPair([]byte(m.Cert), []byte(m.Key))
			if err != nil {
				t.Fatal(err)
			}
			by := clientOf(t, r.b.CACert(), cert)
			wg.Go(func() {
				for range 2 {
					now := time.Now().UTC()
					body, err := json.Marshal(api.Heartbeat{Time: now, Held: []api.HeldKey{}, Evidence: api.Evidence{CollectedAt: now, Facts: []api.Fact{
						{Name: api.FactHostName, Values: []string{"fleet-x"}, Source: "test", Grade: api.GradeSelfReported, At: now}}}})
					if err != nil {
						t.Error(err)
						return
					}
					res, err := by.Post(r.agents+api.PathHeartbeat, "application/json", bytes.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					raw, err := io.ReadAll(res.Body)
					res.Body.Close()
					var answer api.HeartbeatResponse
					if err != nil || res.StatusCode != http.StatusOK || json.Unmarshal(raw, &answer) != nil || answer.NextSeconds != 30 {
						t.Errorf("heartbeat: %s %s (%v), want one every 30 s", res.Status, raw, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := r.b.Store().View(t.Context(), func(tx *store.Tx) error {
			n, err := store.In[store.Instance](tx.Tenant(setup.AccountID)).Count(store.Eq("missing", false), store.After("last_seen_at", began))
			if n != 200 {
				t.Errorf("%d of 200 machines were seen", n)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}
