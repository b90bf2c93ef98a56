package httpapi

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// doorman lets machines in by a header.
type doorman struct{ asked int }

func (d *doorman) Admit(c *fiber.Ctx, _ Route) (tenant.Principal, error) {
	d.asked++
	name := c.Get("X-Machine")
	if name == "" {
		return tenant.Principal{}, inventory.UnknownMachine()
	}
	return tenant.Principal{AccountID: "a", Instance: name}, nil
}

// bothWays are two interfaces with the same route: one as huma serves it, one direct.
func bothWays(t *testing.T, call Call[AgentCall[api.KeyRequest], answer[api.KeyRequestStatus]]) (byHuma, byUs *fiber.App, door *doorman) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	rt := Route{Method: "POST", Path: "/agent/v1/ask", Machine: true, Summary: "Ask"}
	byHuma, byUs = NewApp(AppOptions{Logger: quiet}), NewApp(AppOptions{Logger: quiet})
	door = &doorman{}
	handle(NewRouter(byHuma, "/agent/v1", "test", "1", door, quiet), rt, call)
	r := NewRouter(byUs, "/agent/v1", "test", "1", door, quiet)
	r.limitMachines(newLimiter(1000, time.Hour, time.Now))
	direct(r, rt, call)
	return byHuma, byUs, door
}

func echoRequest(_ context.Context, p tenant.Principal, in *AgentCall[api.KeyRequest]) (*answer[api.KeyRequestStatus], error) {
	switch in.Body.DeviceID {
	case "gone":
		return nil, problem.NotFound("device")
	case "broken":
		return nil, io.ErrUnexpectedEOF
	case "busy":
		return nil, problem.TooMany(1500 * time.Millisecond)
	}
	raw, err := json.Marshal(in.Body)
	return &answer[api.KeyRequestStatus]{Body: api.KeyRequestStatus{ID: in.Key, Reason: p.Instance + " <asked> " + string(raw), WaitsFor: string(in.RawBody)}}, err
}

// What is answered without huma is answered as huma does, to the byte; all else is left to it.
func TestDirect_answersAsHumaDoes(t *testing.T) {
	t.Parallel()
	byHuma, byUs, _ := bothWays(t, echoRequest)
	request := func(change func(*api.KeyRequest)) string {
		r := fullRequest()
		change(&r)
		return string(bodyOf(t, r))
	}
	good := request(func(*api.KeyRequest) {})
	machine := []string{"X-Machine", "m", "Idempotency-Key", "k"}
	with := func(more ...string) []string { return append(append([]string{}, machine...), more...) }
	for name, c := range map[string]struct {
		path, body string
		headers    []string
		status     int
	}{
		"usual":                   {"", good, machine, 200},
		"as the client asks":      {"", good, with("Accept", "application/json, application/problem+json", "User-Agent", "keyward-agent"), 200},
		"without a key":           {"", good, []string{"X-Machine", "m"}, 200},
		"nobody":                  {"", good, nil, 401},
		"nobody, and nonsense":    {"", "nonsense", nil, 401},
		"no body":                 {"", "", machine, 400},
		"no JSON":                 {"", "nonsense", machine, 400},
		"a member too many":       {"", strings.Replace(good, "{", `{"x":1,`, 1), machine, 422},
		"a member too few":        {"", strings.Replace(good, `"device_id":"d",`, "", 1), machine, 422},
		"a member twice":          {"", strings.Replace(good, "{", `{"device_id":"e",`, 1), machine, 200},
		"a name in capitals":      {"", strings.Replace(good, "device_id", "DEVICE_ID", 1), machine, 200},
		"text too long":           {"", request(func(r *api.KeyRequest) { r.Run.ID = strings.Repeat("x", 65) }), machine, 422},
		"null":                    {"", strings.Replace(good, `"nonce":"n"`, `"nonce":null`, 1), machine, 422},
		"a query":                 {"?x=1", good, machine, 422},
		"another type":            {"", good, with("Content-Type", "text/plain"), 415},
		"the type, said with set": {"", good, with("Content-Type", "application/json; charset=utf-8"), 200},
		"another type wanted":     {"", good, with("Accept", "text/html"), 200},
		"weights":                 {"", good, with("Accept", "application/json;q=0.5"), 200},
		"compressed":              {"", good, with("Content-Encoding", "gzip"), 415},
		"too large":               {"", good + strings.Repeat(" ", BodyLimit-len(good)), machine, 413},
		"large":                   {"", good + strings.Repeat(" ", BodyLimit-len(good)-1), machine, 200},
		"a refusal":               {"", request(func(r *api.KeyRequest) { r.DeviceID = "gone" }), machine, 404},
		"a fault":                 {"", request(func(r *api.KeyRequest) { r.DeviceID = "broken" }), machine, 500},
		"slowed down":             {"", request(func(r *api.KeyRequest) { r.DeviceID = "busy" }), machine, 429},
	} {
		answers := make([]string, 2)
		for i, app := range []*fiber.App{byHuma, byUs} {
			res, body := call(t, app, "POST", "/agent/v1/ask"+c.path, c.body, c.headers...)
			if res.StatusCode != c.status {
				t.Errorf("%s: %d %s, want %d", name, res.StatusCode, body, c.status)
			}
			answers[i] = alike(t, res, body)
		}
		if answers[0] != answers[1] {
			t.Errorf("%s: answered\n%s\nwant, as huma does\n%s", name, answers[1], answers[0])
		}
	}
}

// alike is an answer without what differs each time. Problems are compared by what they say.
func alike(t *testing.T, res *http.Response, body string) string {
	t.Helper()
	if res.StatusCode >= 400 {
		var p problem.Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil || p.RequestID != "" && p.RequestID != res.Header.Get("X-Request-Id") {
			t.Errorf("%s: %v", body, err)
		}
		p.RequestID = ""
		body = string(bodyOf(t, p))
		res.Header.Del("Content-Length") // of the same text in JSON, written by another writer
	}
	for _, h := range []string{"X-Request-Id", "Date"} {
		res.Header.Del(h)
	}
	var b strings.Builder
	if err := res.Header.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n" + body
}

// A call that is left to huma was let in already: it counts once.
func TestDirect_letsACallInOnce(t *testing.T) {
	t.Parallel()
	_, byUs, door := bothWays(t, echoRequest)
	for want, body := range map[int]string{1: string(bodyOf(t, fullRequest())), 2: "nonsense"} {
		door.asked = want - 1
		call(t, byUs, "POST", "/agent/v1/ask", body, "X-Machine", "m")
		if door.asked != want {
			t.Errorf("the door was asked %d times for one call", door.asked-want+1)
		}
	}
}

func TestDirect_slowsMachinesDown(t *testing.T) {
	t.Parallel()
	app := NewApp(AppOptions{Logger: slog.New(slog.DiscardHandler)})
	r := NewRouter(app, "/agent/v1", "test", "1", &doorman{}, nil)
	r.limitMachines(newLimiter(2, time.Hour, time.Now))
	direct(r, Route{Method: "POST", Path: "/agent/v1/ask", Machine: true, Summary: "Ask"}, echoRequest)
	for i, want := range []int{200, 422, 429, 429} {
		body := string(bodyOf(t, fullRequest()))
		if i%2 == 1 {
			body = "{}"
		}
		if res, text := call(t, app, "POST", "/agent/v1/ask", body, "X-Machine", "m"); res.StatusCode != want {
			t.Errorf("call %d: %d %s, want %d", i+1, res.StatusCode, text, want)
		}
	}
}

// What was stored is what is sent; without a key nothing is stored.
func TestDirect_sendsTheAnswerThatWasStored(t *testing.T) {
	t.Parallel()
	stored := `{"id":"` + rand.Text() + `"}`
	_, app, _ := bothWays(t, func(_ context.Context, p tenant.Principal, in *AgentCall[api.KeyRequest]) (*answer[api.KeyRequestStatus], error) {
		var c idempotency.Call = in.call(p, "ask")
		if c.Key != "" {
			*c.Answer = []byte(stored)
		}
		return &answer[api.KeyRequestStatus]{Body: api.KeyRequestStatus{ID: "fresh"}}, nil
	})
	body := string(bodyOf(t, fullRequest()))
	if res, got := call(t, app, "POST", "/agent/v1/ask", body, "X-Machine", "m", "Idempotency-Key", "k"); got != stored || res.Header.Get("Content-Type") != "application/json" {
		t.Errorf("sent %q as %q, stored was %q", got, res.Header.Get("Content-Type"), stored)
	}
	if _, got := call(t, app, "POST", "/agent/v1/ask", body, "X-Machine", "m"); !strings.Contains(got, `"id":"fresh"`) {
		t.Errorf("sent %q without a key", got)
	}
}
