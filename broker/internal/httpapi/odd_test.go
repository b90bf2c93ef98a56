package httpapi_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/httpapi"
	"keyward/rbac"
)

// Identifiers that no database can hold are like identifiers that do not exist: never a fault of the broker.
func TestRoutes_oddIdentifiersAreNotFaults(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		c, m := r.browser(), r.browser(b.cert)
		for _, odd := range []string{"\x00", "a\x00b", "\xff\xfe", "'; DROP TABLE devices; --", "..", "%", strings.Repeat("x", 64)} {
			ids := map[string]string{}
			for _, word := range []string{"devices", "spare", "policies", "images", "instances", "key-requests", "raid-sets", "users", "sessions", "enrolment-tokens", "notices", "jobs", "key-exports"} {
				ids[word] = url.PathEscape(odd)
			}
			inBody := map[string]string{}
			for word := range ids {
				inBody[word] = odd
			}
			form := bodies(inBody)
			matrix := must[*rbac.Enforcer](t)(rbac.New())
			for _, rt := range r.people.Routes() {
				if rt.Path == "/api/v1/events" || rt.Method == http.MethodGet && !strings.Contains(rt.Path, "{id}") {
					continue
				}
				role := api.RoleAccountAdmin
				if !matrix.Allowed(string(role), rt.Operation) {
					role = api.RoleSecurityAdmin
				}
				if status, text := r.do(c, r.peopleAt, o.person(role).Token(), rt, fillIn(t, rt.Path, ids), form[rt.Method+" "+rt.Path]); status >= 500 {
					t.Errorf("%s %s with %q: %d %s", rt.Method, rt.Path, odd, status, text)
				}
			}
			for _, rt := range r.agents.Routes() {
				if status, text := r.do(m, r.agentsAt, "", rt, fillIn(t, rt.Path, ids), form[rt.Method+" "+rt.Path]); status >= 500 {
					t.Errorf("%s %s with %q: %d %s", rt.Method, rt.Path, odd, status, text)
				}
			}
			beat := api.Heartbeat{Evidence: b.evidence(""), Held: []api.HeldKey{{RequestID: odd, DeviceID: odd}}, Time: r.now()}
			if status, text := r.do(m, r.agentsAt, "", httpapi.Route{Method: "POST"}, api.PathHeartbeat, beat); status >= 500 {
				t.Errorf("heartbeat with %q: %d %s", odd, status, text)
			}
			in, _ := b.prepare(odd)
			if status, text := r.do(m, r.agentsAt, "", httpapi.Route{Method: "POST"}, api.PathKeyRequests, in); status >= 500 || status < 400 {
				t.Errorf("key request with %q: %d %s", odd, status, text)
			}
			in.Nonce, in.Evidence.Nonce = odd, odd
			if status, text := r.do(m, r.agentsAt, "", httpapi.Route{Method: "POST"}, api.PathKeyRequests, in); status >= 500 || status < 400 {
				t.Errorf("nonce %q: %d %s", odd, status, text)
			}
			_, enrolment := o.enrolment("db9")
			enrolment.Token, enrolment.AccountID = odd+".AAAA", odd
			if status, text := r.do(c, r.agentsAt, "", httpapi.Route{Method: "POST"}, api.PathEnrol, enrolment); status != http.StatusForbidden && !strings.Contains(odd, "\x00") || status >= 500 {
				t.Errorf("enrolment with token %q: %d %s", odd, status, text)
			}
		}
		if _, err := b.Devices(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A megabyte that unpacks into a gigabyte is refused before it is unpacked, by strangers' routes first of all.
func TestRoutes_compressedBodiesAreRefused(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		var bomb bytes.Buffer
		z := gzip.NewWriter(&bomb)
		chunk := bytes.Repeat([]byte(" "), 1<<20)
		for range 64 {
			if _, err := z.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		for _, to := range []struct {
			c         *http.Client
			url, path string
		}{
			{r.browser(), r.agentsAt, api.PathEnrol},
			{r.browser(b.cert), r.agentsAt, api.PathHeartbeat},
			{r.browser(), r.peopleAt, "/api/v1/sessions"},
			{r.browser(), r.peopleAt, "/api/v1/policies"},
		} {
			req, err := http.NewRequestWithContext(t.Context(), "POST", to.url+to.path, bytes.NewReader(bomb.Bytes()))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("Content-Encoding", "gzip")
			req.Header.Set("Authorization", "Bearer "+o.admin.Token())
			res, err := to.c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			eq(t, to.path, res.StatusCode, http.StatusUnsupportedMediaType)
		}
	})
}

// However many collect at once, the key leaves once.
func TestDelivery_atTheSameTimeHappensOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		a := b.ask(d.ID).approve()
		var delivered, refused atomic.Int64
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				_, err := b.Delivery(t.Context(), a.ID, api.DeliveryRequest{PublicKey: a.private.PublicKey()})
				switch {
				case err == nil:
					delivered.Add(1)
				case client.Is(err, "already-delivered"):
					refused.Add(1)
				default:
					t.Errorf("a delivery failed: %v", err)
				}
			})
		}
		wg.Wait()
		if delivered.Load() != 1 || refused.Load() != 5 {
			t.Errorf("%d deliveries, %d refusals", delivered.Load(), refused.Load())
		}
		// Many requests at once: numbers are never shared, and one of them is left.
		for range 6 {
			in, _ := b.prepare(d.ID)
			wg.Go(func() {
				if _, err := b.Request(t.Context(), in); err != nil {
					t.Errorf("a request failed: %v", err)
				}
			})
		}
		wg.Wait()
		if rows := o.running(); rows.Total != 1 {
			t.Errorf("%d requests are open: %+v", rows.Total, rows)
		}
	})
}
