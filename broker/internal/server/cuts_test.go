package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/fleet"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

// cuts is how often each database's broker is killed; KEYWARD_CUTS says another number.
const cuts = 100

// TestBroker_killedAtRandomInstantsLosesNothingAcknowledged kills a broker with SIGKILL again and again while machines
// fetch keys. What a machine was told is compared with the database and the audit log afterwards: every request that was
// answered is there, and every key that a machine opened has its record, once.
func TestBroker_killedAtRandomInstantsLosesNothingAcknowledged(t *testing.T) {
	t.Parallel()
	times := cuts
	if testing.Short() || raceDetector {
		times = 5
	}
	if n, err := strconv.Atoi(os.Getenv("KEYWARD_CUTS")); err == nil {
		times = n
	}
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		c, setup := newConfig(t, dsn)
		c.PeopleListen, c.AgentListen = freePort(t), freePort(t)
		machines := newFleet(t, c, setup.AccountID, 12)
		crowd := &askers{t: t, url: "https://" + c.AgentListen, requests: map[string]bool{}, keys: map[string]bool{}}
		ca, err := os.ReadFile(c.Data + "/" + fileCA)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop()
		for _, m := range machines {
			cert, err := tls.X509KeyPair([]byte(m.Cert), []byte(m.Key))
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { crowd.fetch(ctx, m, clientOf(t, ca, cert)) })
		}
		for i := range times {
			broker := spawn(t, c)
			before := crowd.answers.Load()
			for began := time.Now(); crowd.answers.Load() == before; time.Sleep(time.Millisecond) {
				if time.Since(began) > time.Minute {
					t.Fatalf("after cut %d nobody was answered for a minute; the broker's log:\n%s", i, broker.log)
				}
			}
			time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
			if err := broker.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			broker.cmd.Wait()
		}
		stop()
		wg.Wait()
		t.Logf("%d cuts; %d requests and %d keys were acknowledged", times, len(crowd.requests), len(crowd.keys))
		crowd.compare(c, setup.AccountID)
	})
}

// newFleet makes machines that can ask, in a broker that does not run.
func newFleet(t testing.TB, c Config, accountID string, n int) []fleet.Machine {
	t.Helper()
	o, err := OpenOperator(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var out []fleet.Machine
	maker := fleet.Maker{Store: o.Store(), CA: o.Identity.CA, Root: o.Identity.Root, AccountID: accountID}
	if err := maker.Make(t.Context(), n, true, func(m fleet.Machine) error { out = append(out, m); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// askers remember what they were told.
type askers struct {
	t       *testing.T
	url     string
	answers atomic.Int64

	mu sync.Mutex
	// requests were answered; keys were delivered and opened, by request.
	requests, keys map[string]bool
}

// fetch asks for the machine's key for ever.
func (a *askers) fetch(ctx context.Context, m fleet.Machine, by *http.Client) {
	for ctx.Err() == nil {
		private, err := client.NewDeliveryKey()
		if err != nil {
			a.t.Error(err)
			return
		}
		var nonce api.NonceResponse
		if !a.call(ctx, by, api.PathNonce, nil, &nonce) {
			continue
		}
		now := time.Now().UTC()
		fact := func(name api.FactName, values ...string) api.Fact {
			return api.Fact{Name: name, Values: values, Source: "test", Grade: api.GradeSelfReported, At: now}
		}
		var status api.KeyRequestStatus
		atOnce := rand.IntN(2) == 0
		if !a.call(ctx, by, api.PathKeyRequests, api.KeyRequest{DeviceID: m.DeviceID, Nonce: nonce.Nonce, PublicKey: private.PublicKey(), Time: now, Deliver: atOnce,
			Evidence: api.Evidence{Nonce: nonce.Nonce, CollectedAt: now, Facts: []api.Fact{fact(api.FactHostName, "fleet-x"),
				fact(api.FactKernelVersion, "6.1.0"), fact(api.FactTCPPorts, "22")}}}, &status) {
			continue
		}
		a.note(a.requests, status.ID)
		if (status.Delivery != nil) != atOnce || !atOnce && status.Status != api.KeyApproved {
			a.t.Errorf("request %d is %s (%s), delivered with the answer: %t, wanted %t", status.Number, status.Status, status.Reason, status.Delivery != nil, atOnce)
			return
		}
		var d api.KeyDelivery
		if atOnce {
			d = *status.Delivery
		} else if !a.call(ctx, by, strings.Replace(api.PathDelivery, "{id}", status.ID, 1), api.DeliveryRequest{PublicKey: private.PublicKey()}, &d) {
			continue
		}
		if _, err := private.Open(d, api.DeliveryBinding{Purpose: "key-request", AccountID: m.AccountID, RequestID: status.ID, DeviceID: m.DeviceID,
			InstanceID: m.InstanceID, Nonce: nonce.Nonce}); err != nil {
			a.t.Error(err)
			return
		}
		a.note(a.keys, status.ID)
	}
}

func (a *askers) note(in map[string]bool, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	in[id] = true
	a.answers.Add(1)
}

// call repeats a call with one idempotency key until it is answered, as agents do over a restart of their broker. false
// says that the answer was a refusal which the cut may have caused: the nonce was spent by an earlier try whose answer was
// lost, or the time is over.
func (a *askers) call(ctx context.Context, by *http.Client, path string, in, out any) bool {
	body, err := json.Marshal(in)
	if err != nil {
		a.t.Error(err)
		return false
	}
	key := uuid.NewString()
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+path, bytes.NewReader(body))
		if err != nil {
			a.t.Error(err)
			return false
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(api.HeaderIdempotencyKey, key)
		res, err := by.Do(req)
		if err != nil {
			time.Sleep(2 * time.Millisecond)
			continue
		}
		raw, err := io.ReadAll(res.Body)
		res.Body.Close()
		switch {
		case err != nil || res.StatusCode >= 500:
			continue
		case res.StatusCode == http.StatusOK:
			if err := json.Unmarshal(raw, out); err != nil {
				a.t.Error(err)
				return false
			}
			return true
		default:
			a.t.Errorf("%s: %s: %s", path, res.Status, raw)
			return false
		}
	}
	return false
}

// compare looks at what is left.
func (a *askers) compare(c Config, accountID string) {
	t := a.t
	o, err := OpenOperator(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	stored, delivered := map[string]bool{}, map[string]bool{}
	if err := o.Store().View(context.Background(), func(tx *store.Tx) error {
		rows, err := store.In[store.KeyRequest](tx.Tenant(accountID)).List(store.Only("id", "delivered_at"))
		for _, r := range rows {
			stored[r.ID] = true
			if r.DeliveredAt != nil {
				delivered[r.ID] = true
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if err := o.Audit.ExportJSONL(context.Background(), tenant.Principal{AccountID: accountID}, audit.Filter{}, &log); err != nil {
		t.Fatal(err)
	}
	if _, err := chain.Verify(bytes.NewReader(log.Bytes()), chain.Options{TrustedKey: o.Audit.PublicKey()}); err != nil {
		t.Errorf("the audit log: %v", err)
	}
	recorded := map[string]int{}
	for lines := bufio.NewScanner(&log); lines.Scan(); {
		var l chain.Line
		if err := json.Unmarshal(lines.Bytes(), &l); err == nil && l.Record != nil && l.Record.Event == "key-request.delivered" {
			recorded[l.Record.Subject]++
		}
	}
	for id := range a.requests {
		if !stored[id] {
			t.Errorf("request %s was answered and is lost", id)
		}
	}
	for id := range a.keys {
		if recorded[id] != 1 || !delivered[id] {
			t.Errorf("the key of request %s was opened by its machine; %d records, delivered: %v", id, recorded[id], delivered[id])
		}
	}
	for id := range delivered {
		if recorded[id] != 1 {
			t.Errorf("request %s is delivered with %d records", id, recorded[id])
		}
	}
	if len(a.keys) == 0 || len(recorded) != len(delivered) {
		t.Errorf("%d keys opened, %d recorded, %d delivered", len(a.keys), len(recorded), len(delivered))
	}
}
