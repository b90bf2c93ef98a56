package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/pki"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
	"keyward/e2e/lab"
)

func TestPeople_usersSessionsTokensAndLog(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		c, setup := newConfig(t, dsn)
		r := start(t, c)
		ann := r.logOn("acme", setup.Admin)
		must := func(status int, p problem.Problem) {
			t.Helper()
			if p.Status != status {
				t.Fatalf("%+v, want %d", p, status)
			}
		}
		var me api.User
		must(200, ann.call("GET", "/api/v1/me", nil, &me))
		if me.Name != "ann" || me.Role != api.RoleAccountAdmin {
			t.Errorf("ann is %+v", me)
		}
		var u api.User
		must(201, ann.call("POST", "/api/v1/users", api.UserWrite{Name: "lee", Role: api.RoleAuditor, Password: "Just+Enough1"}, &u))
		must(200, ann.call("PUT", "/api/v1/users/"+u.ID, api.UserWrite{Name: "lee", DisplayName: "Lee", Role: api.RoleAuditor}, &u))
		must(200, ann.call("GET", "/api/v1/users/"+u.ID, nil, &u))
		if u.DisplayName != "Lee" {
			t.Errorf("changed user %+v", u)
		}
		lee := r.logOn("acme", Login{"lee", "Just+Enough1"})
		var users []api.User
		must(200, lee.call("GET", "/api/v1/users", nil, &users))
		must(403, lee.call("POST", "/api/v1/users", api.UserWrite{Name: "x", Role: api.RoleAuditor, Password: "Just+Enough1"}, nil))
		var roles []api.RoleInfo
		must(200, lee.call("GET", "/api/v1/roles", nil, &roles))
		if len(users) != 3 || len(roles) != 5 {
			t.Errorf("%d users, %d roles", len(users), len(roles))
		}
		must(204, lee.call("PUT", "/api/v1/password", api.PasswordChange{Current: "Just+Enough1", New: "Quite+Enough2"}, nil))
		var sessions []api.Session
		must(200, lee.call("GET", "/api/v1/sessions", nil, &sessions))
		if len(sessions) != 1 || !sessions[0].Current || sessions[0].Address != "127.0.0.1" {
			t.Errorf("sessions %+v", sessions)
		}
		must(204, lee.call("DELETE", "/api/v1/sessions/current", nil, nil))
		must(401, lee.call("GET", "/api/v1/me", nil, nil))

		var token api.EnrolmentTokenInfo
		must(201, ann.call("POST", "/api/v1/enrolment-tokens", api.EnrolmentTokenWrite{Uses: 2, ExpireSeconds: 600}, &token))
		if !strings.HasPrefix(token.Token, "kw1."+token.ID+".") {
			t.Errorf("token %+v", token)
		}
		var tokens []api.EnrolmentTokenInfo
		must(200, ann.call("GET", "/api/v1/enrolment-tokens", nil, &tokens))
		must(204, ann.call("DELETE", "/api/v1/enrolment-tokens/"+token.ID, nil, nil))
		must(404, ann.call("DELETE", "/api/v1/enrolment-tokens/"+token.ID, nil, nil))

		var account api.Account
		must(200, ann.call("GET", "/api/v1/account", nil, &account))
		if account.Name != "Acme" || account.ServiceURL != c.ServiceURL || len(tokens) != 1 {
			t.Errorf("account %+v, %d tokens", account, len(tokens))
		}
		var times struct {
			TimeZone    string   `json:"time_zone"`
			DateFormats []string `json:"date_formats"`
		}
		must(200, ann.call("GET", "/api/v1/time-settings", nil, &times))
		must(204, ann.call("PUT", "/api/v1/time-settings", api.TimeSettings{TimeZone: "Asia/Tokyo", DateFormat: times.DateFormats[1]}, nil))
		must(422, ann.call("PUT", "/api/v1/time-settings", api.TimeSettings{TimeZone: "Nowhere", DateFormat: times.DateFormats[1]}, nil))
		must(200, ann.call("GET", "/api/v1/time-settings", nil, &times))
		if times.TimeZone != "Asia/Tokyo" {
			t.Errorf("time settings %+v", times)
		}
		must(204, ann.call("DELETE", "/api/v1/users/"+u.ID, nil, nil))

		var page api.AuditPage
		must(200, ann.call("GET", "/api/v1/audit?category=user&size=100&order=oldest", nil, &page))
		var events []string
		for _, e := range page.Records {
			events = append(events, e.Event)
		}
		want := []string{"user.created", "user.created", "user.logged-on", "user.created", "user.changed", "user.logged-on", "user.password-changed", "user.logged-off", "user.deleted"}
		if !slices.Equal(events, want) {
			t.Errorf("events %v\nwant   %v", events, want)
		}
		var log, csv []byte
		must(200, ann.call("GET", "/api/v1/audit/export", nil, &log))
		report, err := chain.Verify(bytes.NewReader(log), chain.Options{TrustedKey: r.b.Audit.PublicKey()})
		if err != nil || report.Records < 14 {
			t.Errorf("exported log: %+v (%v)", report, err)
		}
		must(200, ann.call("GET", "/api/v1/audit/export?format=csv&category=user", nil, &csv))
		if !bytes.HasPrefix(csv, []byte("sequence,")) {
			t.Errorf("CSV begins %.40q", csv)
		}
		must(422, ann.call("GET", "/api/v1/audit/export?format=xml", nil, nil))
		must(422, ann.call("GET", "/api/v1/audit/export?from=yesterday", nil, nil))
		must(422, ann.call("GET", "/api/v1/audit?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z", nil, nil))
	})
}

// Tenants never see each other: the account routes, with IDs of another tenant.
func TestPeople_tenantsNeverSeeEachOther(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		c, setup := newConfig(t, dsn)
		o, err := OpenOperator(context.Background(), c)
		if err != nil {
			t.Fatal(err)
		}
		other, err := o.NewAccount(context.Background(), "Other", "ann", "")
		if err := errors.Join(err, o.Close()); err != nil {
			t.Fatal(err)
		}
		r := start(t, c)
		ann, them := r.logOn("acme", setup.Admin), r.logOn("other", other.Admin)
		var users []api.User
		ann.call("GET", "/api/v1/users", nil, &users)
		var sessions []api.Session
		ann.call("GET", "/api/v1/sessions", nil, &sessions)
		var token api.EnrolmentTokenInfo
		ann.call("POST", "/api/v1/enrolment-tokens", api.EnrolmentTokenWrite{Uses: 2, ExpireSeconds: 600}, &token)
		if len(users) != 2 || len(sessions) != 1 || token.ID == "" {
			t.Fatalf("%d users, %d sessions, token %q", len(users), len(sessions), token.ID)
		}
		for _, call := range []struct {
			method, path string
			body         any
		}{
			{"GET", "/api/v1/users/" + users[0].ID, nil},
			{"PUT", "/api/v1/users/" + users[0].ID, api.UserWrite{Name: "x", Role: api.RoleAuditor}},
			{"DELETE", "/api/v1/users/" + users[1].ID, nil},
			{"DELETE", "/api/v1/sessions/" + sessions[0].ID, nil},
			{"DELETE", "/api/v1/enrolment-tokens/" + token.ID, nil},
		} {
			if p := them.call(call.method, call.path, call.body, nil); p.Status != 404 {
				t.Errorf("%s %s of another tenant: %+v", call.method, call.path, p)
			}
		}
		for _, path := range []string{"/api/v1/users", "/api/v1/sessions", "/api/v1/enrolment-tokens", "/api/v1/account", "/api/v1/audit?size=100", "/api/v1/audit/export", "/api/v1/roles", "/api/v1/time-settings", "/api/v1/me"} {
			var body []byte
			if p := them.call("GET", path, nil, &body); p.Status != 200 {
				t.Errorf("%s: %+v", path, p)
			}
			for _, secret := range []string{setup.AccountID, users[0].ID, users[1].ID, sessions[0].ID, token.ID, "Acme"} {
				if bytes.Contains(body, []byte(secret)) {
					t.Errorf("%s shows %s of another tenant: %s", path, secret, body)
				}
			}
		}
		if p := ann.call("GET", "/api/v1/users/"+users[0].ID, nil, nil); p.Status != 200 {
			t.Errorf("after all that the user is gone: %+v", p)
		}
	})
}

// Two brokers on one PostgreSQL are one: sessions, users and locks count on both.
func TestPeople_twoBrokersOnOneDatabase(t *testing.T) {
	t.Parallel()
	dsn := storetest.Postgres(t)
	c, setup := newConfig(t, dsn)
	a := start(t, c)
	second := c
	second.Data = filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(second.Data, os.DirFS(c.Data)); err != nil { // as docs say: the second one has a copy of the identity
		t.Fatal(err)
	}
	b := start(t, second)
	if !bytes.Equal(a.b.CACert(), b.b.CACert()) {
		t.Fatal("the brokers have different CAs")
	}
	ann := a.logOn("acme", setup.Admin)
	there := b.stranger()
	there.token = ann.token
	if p := there.call("POST", "/api/v1/users", api.UserWrite{Name: "lee", Role: api.RoleAuditor, Password: "Just+Enough1"}, nil); p.Status != 201 {
		t.Fatalf("a session of one broker on the other: %+v", p)
	}
	a.logOn("acme", Login{"lee", "Just+Enough1"})
	for i := range 5 {
		guess := []*rig{a, b}[i%2].stranger()
		guess.call("POST", "/api/v1/sessions", api.LogOn{Account: "acme", User: "lee", Password: "wrong"}, nil)
	}
	if p := a.stranger().call("POST", "/api/v1/sessions", api.LogOn{Account: "acme", User: "lee", Password: "Just+Enough1"}, nil); p.Status != 401 {
		t.Errorf("five guesses spread over two brokers do not lock: %+v", p)
	}
	if p := there.call("DELETE", "/api/v1/sessions/current", nil, nil); p.Status != 204 {
		t.Errorf("log-off on the other broker: %+v", p)
	}
	if p := ann.call("GET", "/api/v1/me", nil, nil); p.Status != 401 {
		t.Errorf("after log-off on the other broker: %+v", p)
	}
}

func TestPeople_badRequestsGetProblemsThatHelp(t *testing.T) {
	t.Parallel()
	c, setup := newConfig(t, "")
	r := start(t, c)
	ann := r.logOn("acme", setup.Admin)
	for name, call := range map[string]struct {
		method, path string
		body         any
		status       int
		slug         string
	}{
		"10 MiB":            {"POST", "/api/v1/users", strings.Repeat("x", 10<<20), 413, "too-large"},
		"10 MiB of headers": {"GET", "/api/v1/users", nil, 431, "headers-too-large"},
		"not JSON":          {"POST", "/api/v1/users", "hello", 400, "bad-request"},
		"an array":          {"POST", "/api/v1/users", "[]", 422, "invalid"},
		"deep nesting":      {"POST", "/api/v1/users", strings.Repeat("[", 500000), 400, "bad-request"},
		"NUL in a name":     {"POST", "/api/v1/users", api.UserWrite{Name: "a\x00b", Role: api.RoleAuditor, Password: "Just+Enough1"}, 400, "bad-request"},
		"a huge page":       {"GET", "/api/v1/audit?size=100000", nil, 422, "invalid"},
		"SQL as an ID":      {"GET", "/api/v1/users/1'%20OR%20'1'='1", nil, 404, "not-found"},
		"NUL as an ID":      {"GET", "/api/v1/users/a%00b", nil, 400, "bad-request"},
		"latin-1 as an ID":  {"GET", "/api/v1/users/%ff", nil, 404, "not-found"},
		"an unknown route":  {"GET", "/api/v1/nothing", nil, 404, "no-such-route"},
		"a foreign cookie":  {"GET", "/api/v1/users", nil, 401, "unauthenticated"},
	} {
		who, headers := ann, []string(nil)
		switch name {
		case "10 MiB of headers":
			headers = []string{"X-Filler", strings.Repeat("x", 1<<20)}
		case "a foreign cookie":
			who, headers = r.stranger(), []string{"Cookie", "keyward_session=" + strings.Repeat("A", 43)}
		}
		p := who.call(call.method, call.path, call.body, nil, headers...)
		if p.Status != call.status || p.Slug() != call.slug || p.Title == "" || p.Hint == "" {
			t.Errorf("%s: %+v, want %d %s", name, p, call.status, call.slug)
		}
	}
}

func TestPeople_logOnIsSlowedDownPerAddress(t *testing.T) {
	t.Parallel()
	c, _ := newConfig(t, "")
	now := time.Now()
	c.Clock = func() time.Time { return now } // however long the attempts take
	r := start(t, c)
	var last problem.Problem
	for i := range 40 {
		// A client cannot choose its address: the header counts only from a proxy that is trusted.
		last = r.stranger().call("POST", "/api/v1/sessions", api.LogOn{Account: "nowhere", User: "x", Password: "x"}, nil,
			"X-Forwarded-For", fmt.Sprintf("203.0.113.%d", i))
		if last.Status == 429 {
			break
		}
	}
	if last.Status != 429 || last.Slug() != "too-many-requests" {
		t.Errorf("forty log-ons at once end with %+v, want 429", last)
	}
}

func TestPeople_addressBehindATrustedProxy(t *testing.T) {
	t.Parallel()
	c, setup := newConfig(t, "")
	c.TrustedProxies = []string{"127.0.0.0/8"}
	r := start(t, c)
	ann := r.stranger()
	var on api.LoggedOn
	ann.call("POST", "/api/v1/sessions", api.LogOn{Account: "acme", User: "ann", Password: setup.Admin.Password}, &on, "X-Forwarded-For", "203.0.113.7")
	ann.token = on.Token
	var sessions []api.Session
	ann.call("GET", "/api/v1/sessions", nil, &sessions)
	if len(sessions) != 1 || sessions[0].Address != "203.0.113.7" {
		t.Errorf("sessions %+v, want the address that the proxy names", sessions)
	}
}

func TestAgents_tlsIsMutualAndNew(t *testing.T) {
	t.Parallel()
	c, _ := newConfig(t, "")
	r := start(t, c)
	get := func(client *http.Client) (int, string) {
		res, err := client.Post(r.agents+api.PathNonce, "application/json", nil)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	if status, text := get(clientOf(t, r.b.CACert())); status != 401 || !strings.Contains(text, "certificate-missing") {
		t.Errorf("without a certificate: %d %s", status, text)
	}
	issue := func(ca *pki.CA) tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		out, err := ca.IssueClient(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), "i", "a", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(out)
		return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
	}
	if status, text := get(clientOf(t, r.b.CACert(), issue(r.b.identity.CA))); status != 401 || !strings.Contains(text, "certificate-unknown") {
		t.Errorf("with a certificate that is on no record: %d %s", status, text)
	}
	foreign, err := pki.NewCA("foreign", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if status, text := get(clientOf(t, r.b.CACert(), issue(foreign))); status != 0 && status != 401 {
		t.Errorf("with another CA's certificate: %d %s", status, text)
	}
	old := clientOf(t, r.b.CACert())
	old.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tls.VersionTLS12
	if status, text := get(old); status != 0 || !strings.Contains(text, "protocol version") {
		t.Errorf("over TLS 1.2: %d %s", status, text)
	}
	if status, text := get(clientOf(t, foreign.CACert())); status != 0 || !strings.Contains(text, "unknown authority") {
		t.Errorf("a client that trusts another CA: %d %s", status, text)
	}
}

func TestServe_stopsWhileRequestsWaitAndSignsTheLogs(t *testing.T) {
	t.Parallel()
	c, setup := newConfig(t, "")
	c.PeopleListen, c.AgentListen, c.MetricsListen = freePort(t), freePort(t), freePort(t)
	b, err := New(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(b.Serve(ctx), b.Close()) }()
	ann := &person{t: t, http: clientOf(t, b.CACert()), url: "https://" + c.PeopleListen}
	await(t, func() bool { return ann.call("GET", "/readyz", nil, nil).Status == 200 })
	ann.logOn("acme", setup.Admin)
	// A stream that would go on for ever, and a connection that says nothing.
	req, err := http.NewRequest("GET", ann.url+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+ann.token)
	res, err := ann.http.Do(req)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("opening a stream: %v %v", res, err)
	}
	defer res.Body.Close()
	idle, err := net.Dial("tcp", c.AgentListen)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	scrape, err := http.Get("http://" + c.MetricsListen + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(scrape.Body)
	scrape.Body.Close()
	if !bytes.Contains(text, []byte(`keyward_http_requests_total{interface="people",method="POST",route="/api/v1/sessions",status="201"} 1`)) {
		t.Errorf("metrics lack the log-on:\n%s", text)
	}
	if bytes.Contains(text, []byte(setup.AccountID)) || bytes.Contains(text, []byte("Acme")) {
		t.Error("metrics name a tenant")
	}
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("stopping: %v", err)
		}
	case <-time.After(2 * stopWithin):
		t.Fatal("the broker does not stop")
	}
	if _, err := io.ReadAll(res.Body); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the stream ended with %v", err)
	}
	o, err := OpenOperator(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var log bytes.Buffer
	if err := o.Audit.ExportJSONL(context.Background(), tenant.Broker(setup.AccountID), audit.Filter{}, &log); err != nil {
		t.Fatal(err)
	}
	report, err := chain.Verify(bytes.NewReader(log.Bytes()), chain.Options{})
	if err != nil || report.SignedTo != report.Last-1 { // the export is one record more
		t.Errorf("after the stop the log is %+v (%v)", report, err)
	}
	for _, event := range []string{"server.started", "server.stopped"} {
		if !bytes.Contains(log.Bytes(), []byte(event)) {
			t.Errorf("the log lacks %s", event)
		}
	}
}

func TestServe_fullDiskIsAClearProblemAndPasses(t *testing.T) {
	t.Parallel()
	c, setup := newConfig(t, "")
	disk := t.TempDir()
	if err := unix.Mount("keyward-test", disk, "tmpfs", 0, "size=3m,mode=0700"); err != nil {
		t.Skipf("mounting a small tmpfs needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Errorf("unmounting the small tmpfs: %v", err)
		}
	})
	b, err := os.ReadFile(filepath.Join(c.Data, "keyward.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(disk, "keyward.db"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	c.DSN = "sqlite:" + filepath.Join(disk, "keyward.db")
	t.Run("broker", func(t *testing.T) { // ends, and closes the database, before the disk is unmounted
		r := start(t, c)
		ann := r.logOn("acme", setup.Admin)
		ballast := filepath.Join(disk, "ballast")
		fill := func() {
			f, err := os.Create(ballast)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for _, size := range []int{64 << 10, 4 << 10, 1} {
				for {
					if _, err := f.Write(make([]byte, size)); err != nil {
						break
					}
				}
			}
		}
		fill()
		made := 0
		var p problem.Problem
		for i := range 400 { // the WAL may have room left in pages that it holds already
			p = ann.call("POST", "/api/v1/enrolment-tokens", api.EnrolmentTokenWrite{Description: strings.Repeat("d", 100), Uses: 1, ExpireSeconds: 600}, nil)
			if p.Status != 201 {
				break
			}
			made = i + 1
		}
		if p.Status != 507 || p.Slug() != "storage-full" {
			t.Fatalf("with a full disk: %+v after %d tokens, want 507", p, made)
		}
		var tokens []api.EnrolmentTokenInfo
		if p := ann.call("GET", "/api/v1/enrolment-tokens", nil, &tokens); p.Status != 200 || len(tokens) != made {
			t.Errorf("reading with a full disk: %+v, %d tokens of %d", p, len(tokens), made)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if p := ann.call("POST", "/api/v1/enrolment-tokens", api.EnrolmentTokenWrite{Uses: 1, ExpireSeconds: 600}, nil); p.Status != 201 {
			t.Errorf("after space was freed: %+v", p)
		}
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	address, err := lab.FreeAddress("")
	if err != nil {
		t.Fatal(err)
	}
	return address
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what was waited for did not happen within a minute")
		}
	}
}

// encode is for tests that hand a configuration to a child.
func encode(t *testing.T, c Config) string {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
