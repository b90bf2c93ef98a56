package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// people is a fake of the sessions: the token is the name and the role.
type people struct{}

func (people) Authenticate(_ context.Context, token, address string) (tenant.Principal, error) {
	if !strings.HasPrefix(token, "token-of-") {
		return tenant.Principal{}, problem.Unauthenticated()
	}
	return tenant.Principal{AccountID: "a", UserName: "u", Role: api.Role(strings.TrimPrefix(token, "token-of-")), Address: address}, nil
}

func (s people) AuthenticateAny(ctx context.Context, token, address string) (tenant.Principal, error) {
	return s.Authenticate(ctx, token, address)
}

type echoInput struct {
	ID   string `path:"id"`
	Body struct {
		Name  string `json:"name" minLength:"1" maxLength:"8"`
		Count int    `json:"count,omitempty" maximum:"9"`
	}
}

type echoOutput struct{ Body map[string]string }

func newTestRouter(t *testing.T, log io.Writer) (*fiber.App, *Router) {
	t.Helper()
	roles, err := rbac.New()
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.NewJSONHandler(log, nil))
	app := NewApp(AppOptions{Logger: logger})
	r := NewRouter(app, "/api/v1", "test", "1", &PeopleGate{Sessions: people{}, Roles: roles}, logger)
	handle(r, Route{Method: "PUT", Path: "/api/v1/things/{id}", Operation: rbac.UsersWrite, Summary: "Change a thing"},
		func(_ context.Context, p tenant.Principal, in *echoInput) (*echoOutput, error) {
			return &echoOutput{Body: map[string]string{"id": in.ID, "name": in.Body.Name, "by": p.UserName}}, nil
		})
	handle(r, Route{Method: "GET", Path: "/api/v1/failures/{id}", Operation: rbac.UsersRead, Summary: "Fail"},
		func(_ context.Context, _ tenant.Principal, in *struct {
			ID string `path:"id"`
		}) (*None, error) {
			switch in.ID {
			case "stale":
				return nil, fmt.Errorf("doing: %w", store.ErrStale)
			case "full":
				return nil, fmt.Errorf("doing: %w", store.ErrFull)
			case "wait":
				return nil, problem.TooMany(1500 * time.Millisecond)
			case "panic":
				panic("secret-in-a-panic")
			}
			return nil, errors.New("secret-in-an-error")
		})
	handle(r, Route{Method: "GET", Path: "/api/v1/open", Open: true, Summary: "Open"},
		func(_ context.Context, p tenant.Principal, _ *None) (*echoOutput, error) {
			return &echoOutput{Body: map[string]string{"account": p.AccountID}}, nil
		})
	raw(r, Route{Method: "GET", Path: "/api/v1/download", Operation: rbac.LogsExport, Summary: "Download"},
		func(c *fiber.Ctx, p tenant.Principal) error { return c.SendString("for " + p.UserName) })
	return app, r
}

func call(t *testing.T, app *fiber.App, method, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := app.Test(req, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func TestRoute_admitsByRoleAndAnswersWithProblems(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	app, _ := newTestRouter(t, &log)
	admin := []string{"Authorization", "Bearer token-of-account-administrator"}
	for name, c := range map[string]struct {
		method, path, body string
		headers            []string
		status             int
		want               string // in the body
	}{
		"allowed":                    {"PUT", "/api/v1/things/7", `{"name":"n"}`, admin, 200, `"id":"7"`},
		"no session":                 {"PUT", "/api/v1/things/7", `{"name":"n"}`, nil, 401, "urn:keyward:problem:unauthenticated"},
		"bad session":                {"PUT", "/api/v1/things/7", `{"name":"n"}`, []string{"Authorization", "Bearer x"}, 401, "unauthenticated"},
		"other scheme":               {"PUT", "/api/v1/things/7", `{"name":"n"}`, []string{"Authorization", "Basic eDp5"}, 401, "unauthenticated"},
		"role not allowed":           {"PUT", "/api/v1/things/7", `{"name":"n"}`, []string{"Authorization", "Bearer token-of-auditor"}, 403, "urn:keyward:problem:forbidden"},
		"unknown role":               {"PUT", "/api/v1/things/7", `{"name":"n"}`, []string{"Authorization", "Bearer token-of-root"}, 403, "forbidden"},
		"role before body":           {"PUT", "/api/v1/things/7", `not json`, []string{"Authorization", "Bearer token-of-auditor"}, 403, "forbidden"},
		"malformed body":             {"PUT", "/api/v1/things/7", `{"name"`, admin, 400, "urn:keyward:problem:"},
		"value out of range":         {"PUT", "/api/v1/things/7", `{"name":"123456789"}`, admin, 422, `"name":"expected length`},
		"unknown member":             {"PUT", "/api/v1/things/7", `{"name":"n","role":"x"}`, admin, 422, `"role":`},
		"unknown query":              {"PUT", "/api/v1/things/7?x=1", `{"name":"n"}`, admin, 422, "invalid"},
		"no such route":              {"GET", "/api/v1/nothing", "", admin, 404, "no-such-route"},
		"no such method":             {"DELETE", "/api/v1/things/7", "", admin, 405, "method-not-allowed"},
		"error of the store":         {"GET", "/api/v1/failures/stale", "", admin, 409, "urn:keyward:problem:stale"},
		"full disk":                  {"GET", "/api/v1/failures/full", "", admin, 507, "storage-full"},
		"own fault":                  {"GET", "/api/v1/failures/x", "", admin, 500, "urn:keyward:problem:internal"},
		"panic":                      {"GET", "/api/v1/failures/panic", "", admin, 500, "urn:keyward:problem:internal"},
		"open route":                 {"GET", "/api/v1/open", "", nil, 200, `"account":""`},
		"raw route":                  {"GET", "/api/v1/download", "", admin, 200, "for u"},
		"raw route without a role":   {"GET", "/api/v1/download", "", []string{"Authorization", "Bearer token-of-key-approver"}, 403, "forbidden"},
		"raw route without a caller": {"GET", "/api/v1/download", "", nil, 401, "unauthenticated"},
	} {
		res, body := call(t, app, c.method, c.path, c.body, c.headers...)
		if res.StatusCode != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s: %d %s, want %d with %q", name, res.StatusCode, body, c.status, c.want)
		}
		if res.StatusCode >= 400 {
			var p problem.Problem
			if err := json.Unmarshal([]byte(body), &p); err != nil || res.Header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s: %q of type %q is no problem document (%v)", name, body, res.Header.Get("Content-Type"), err)
			}
			if p.Status != res.StatusCode || p.Title == "" || p.Hint == "" || (p.RequestID != "" && p.RequestID != res.Header.Get("X-Request-Id")) {
				t.Errorf("%s: incomplete problem %+v", name, p)
			}
		}
		if strings.Contains(body, "secret-in") {
			t.Errorf("%s: the caller sees an error of the broker: %s", name, body)
		}
		for h, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "X-Frame-Options": "DENY"} {
			if res.Header.Get(h) != want {
				t.Errorf("%s: header %s is %q, want %q", name, h, res.Header.Get(h), want)
			}
		}
	}
	if !strings.Contains(log.String(), "secret-in-an-error") || !strings.Contains(log.String(), "secret-in-a-panic") {
		t.Error("the broker's own faults are missing from its log")
	}
	res, _ := call(t, app, "GET", "/api/v1/failures/wait", "", admin...)
	if res.StatusCode != 429 || res.Header.Get("Retry-After") != "2" {
		t.Errorf("slowed down with %d, Retry-After %q; want 429 and 2", res.StatusCode, res.Header.Get("Retry-After"))
	}
}

func TestRoute_thatDoesNotSayWhoMayCallItCannotBeRegistered(t *testing.T) {
	t.Parallel()
	_, r := newTestRouter(t, io.Discard)
	for name, rt := range map[string]Route{
		"nobody":      {Method: "GET", Path: "/api/v1/x"},
		"two":         {Method: "GET", Path: "/api/v1/x", Open: true, Operation: rbac.UsersRead},
		"wrong place": {Method: "GET", Path: "/x", Open: true},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: registered", name)
				}
			}()
			handle(r, rt, func(context.Context, tenant.Principal, *None) (*None, error) { return nil, nil })
		}()
	}
}

func TestCSRF_cookieWritesNeedOurPage(t *testing.T) {
	t.Parallel()
	app, _ := newTestRouter(t, io.Discard)
	const token = "token-of-account-administrator"
	cookie, proof := SessionCookie+"="+token, CSRFToken(token)
	for name, c := range map[string]struct {
		method  string
		headers []string
		status  int
	}{
		"our page":                         {"PUT", []string{"Cookie", cookie, CSRFHeader, proof, "Sec-Fetch-Site", "same-origin"}, 200},
		"our page, old browser":            {"PUT", []string{"Cookie", cookie, CSRFHeader, proof, "Origin", "https://example.com"}, 200},
		"no proof":                         {"PUT", []string{"Cookie", cookie}, 403},
		"proof of another session":         {"PUT", []string{"Cookie", cookie, CSRFHeader, CSRFToken("token-of-auditor")}, 403},
		"proof, but another site":          {"PUT", []string{"Cookie", cookie, CSRFHeader, proof, "Sec-Fetch-Site", "cross-site"}, 403},
		"proof, but a sister site":         {"PUT", []string{"Cookie", cookie, CSRFHeader, proof, "Sec-Fetch-Site", "same-site"}, 403},
		"proof, but another origin":        {"PUT", []string{"Cookie", cookie, CSRFHeader, proof, "Origin", "https://evil.example"}, 403},
		"proof, but an opaque origin":      {"PUT", []string{"Cookie", cookie, CSRFHeader, proof, "Origin", "null"}, 403},
		"bearer needs none":                {"PUT", []string{"Authorization", "Bearer " + token}, 200},
		"a broken header hides the cookie": {"PUT", []string{"Authorization", "Bearer x", "Cookie", cookie, CSRFHeader, proof}, 401},
	} {
		res, body := call(t, app, c.method, "/api/v1/things/7", `{"name":"n"}`, c.headers...)
		if res.StatusCode != c.status {
			t.Errorf("%s: %d %s, want %d", name, res.StatusCode, body, c.status)
		}
	}
	if res, body := call(t, app, "GET", "/api/v1/download", "", "Cookie", cookie); res.StatusCode != 200 {
		t.Errorf("reading with a cookie: %d %s", res.StatusCode, body)
	}
	if proof == token || strings.Contains(token, proof) || CSRFToken("a") == CSRFToken("b") {
		t.Error("the CSRF token shows the session token")
	}
}

func TestSessionCookie_isOutOfReachOfScriptsAndOtherSites(t *testing.T) {
	t.Parallel()
	app := NewApp(AppOptions{})
	app.Get("/on", func(c *fiber.Ctx) error { SetSession(c, "t", time.Now().Add(time.Hour)); return nil })
	app.Get("/off", func(c *fiber.Ctx) error { ClearSession(c); return nil })
	res, _ := call(t, app, "GET", "/on", "")
	got := res.Cookies()[0]
	if !got.HttpOnly || !got.Secure || got.SameSite != http.SameSiteStrictMode || got.Path != "/" || got.Domain != "" || got.Value != "t" {
		t.Errorf("cookie %+v", got)
	}
	res, _ = call(t, app, "GET", "/off", "")
	if got := res.Cookies()[0]; got.Value != "" || got.Expires.After(time.Now()) {
		t.Errorf("after log-off the cookie is %+v", got)
	}
}

// Fiber's default returns strings that point into a buffer which the next request overwrites. In a broker that would be
// another tenant's data; this test fails when Immutable is off.
func TestApp_valuesThatAreKeptDoNotChangeWithTheNextRequest(t *testing.T) {
	t.Parallel()
	app := NewApp(AppOptions{})
	var kept []string
	app.Post("/keep/:id", func(c *fiber.Ctx) error {
		kept = append(kept, c.Params("id"), c.Query("q"), c.Get("X-Value"), c.Cookies("v"), string(c.Body()), c.Path())
		return nil
	})
	server := startApp(t, app)
	var want []string
	for _, v := range []string{"aaaaaa", "bbbbbb", "cccccc"} {
		req, err := http.NewRequest("POST", server+"/keep/"+v+"?q="+v, strings.NewReader(v))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Value", v)
		req.AddCookie(&http.Cookie{Name: "v", Value: v})
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		want = append(want, v, v, v, v, v, "/keep/"+v)
	}
	if fmt.Sprint(kept) != fmt.Sprint(want) {
		t.Errorf("kept\n%v, want\n%v", kept, want)
	}
}

func TestOpenAPI_describesEveryRoute(t *testing.T) {
	t.Parallel()
	app, r := newTestRouter(t, io.Discard)
	for path, version := range map[string]string{"/api/v1/openapi.json": "3.1.0", "/api/v1/openapi-3.0.json": "3.0.3"} {
		res, body := call(t, app, "GET", path, "")
		var doc struct {
			OpenAPI string
			Paths   map[string]map[string]struct {
				OperationID string `json:"operationId"`
				Summary     string
				Security    []map[string][]string
			}
			Components struct {
				Schemas map[string]struct{ Properties map[string]any }
			}
		}
		if err := json.Unmarshal([]byte(body), &doc); err != nil || res.StatusCode != 200 {
			t.Fatalf("%s: %d (%v)", path, res.StatusCode, err)
		}
		if doc.OpenAPI != version {
			t.Errorf("%s is of version %s, want %s", path, doc.OpenAPI, version)
		}
		ids := map[string]bool{}
		for _, rt := range r.Routes() {
			op, ok := doc.Paths[rt.Path][strings.ToLower(rt.Method)]
			if !ok || op.Summary == "" || op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s: route %s %s is described as %+v", path, rt.Method, rt.Path, op)
			}
			ids[op.OperationID] = true
			if rt.Open != (len(op.Security) == 0) {
				t.Errorf("%s: route %s %s has security %v", path, rt.Method, rt.Path, op.Security)
			}
		}
		if doc.Components.Schemas["Problem"].Properties["hint"] == nil {
			t.Errorf("%s does not describe problems: %v", path, doc.Components.Schemas)
		}
		if strings.Contains(body, "$schema") {
			t.Errorf("%s makes bodies carry $schema", path)
		}
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := newLimiter(3, 10*time.Second, func() time.Time { return now })
	for i := range 3 {
		if _, ok := l.allow("a"); !ok {
			t.Fatalf("call %d of a burst of 3 was refused", i+1)
		}
	}
	if wait, ok := l.allow("a"); ok || wait != 10*time.Second {
		t.Errorf("fourth call: %v, wait %v; want a wait of 10s", ok, wait)
	}
	if _, ok := l.allow("b"); !ok {
		t.Error("another key was refused")
	}
	now = now.Add(10 * time.Second)
	if _, ok := l.allow("a"); !ok {
		t.Error("refused after the wait")
	}
	if _, ok := l.allow("a"); ok {
		t.Error("one interval gave two calls")
	}
	l.maxKeys = 2
	if _, ok := l.allow("c"); !ok {
		t.Error("a full table did not forget the key that had rested")
	}
	if _, ok := l.allow("d"); ok {
		t.Error("the table grew beyond its bound")
	}
}

func TestNetwork_isWhatOneCallerOwns(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2:ffff::1": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "": "", "odd": "odd",
	} {
		if got := network(address); got != want {
			t.Errorf("network(%q) = %q, want %q", address, got, want)
		}
	}
}
