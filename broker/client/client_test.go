package client

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/api"
)

func goodToken() api.EnrolmentToken {
	part := func(b byte) string {
		return base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(string(rune(b)), 32)))
	}
	return api.EnrolmentToken{ID: "0197f1f0-0000-7000-8000-000000000001", Secret: part('s'), Pin: part('p')}
}

func TestParseToken(t *testing.T) {
	t.Parallel()
	good := FormatToken(goodToken())
	for _, text := range []string{good, "  " + good + "\n"} {
		if got, err := ParseToken(text); err != nil || got != goodToken() {
			t.Errorf("ParseToken(%q) = %+v, %v", text, got, err)
		}
	}
	parts := strings.Split(good, ".")
	for name, text := range map[string]string{
		"empty":           "",
		"cut off":         good[:len(good)-1],
		"another version": "kw2" + good[3:],
		"three parts":     strings.Join(parts[:3], "."),
		"five parts":      good + ".x",
		"no ID":           strings.Join([]string{parts[0], "", parts[2], parts[3]}, "."),
		"path in the ID":  strings.Join([]string{parts[0], "../x", parts[2], parts[3]}, "."),
		"short secret":    strings.Join([]string{parts[0], parts[1], "AAAA", parts[3]}, "."),
		"standard base64": strings.Join([]string{parts[0], parts[1], strings.Repeat("+", 43), parts[3]}, "."),
		"trailing bits":   good[:len(good)-1] + "B",
		"endless":         good + strings.Repeat("x", 1000),
	} {
		_, err := ParseToken(text)
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), parts[2]) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(FormatToken(goodToken()))
	f.Add("kw1...")
	f.Add("kw1.a.AAAA.BBBB")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseToken(text)
		if err != nil {
			return
		}
		if FormatToken(got) != strings.TrimSpace(text) {
			t.Errorf("%q is read as %+v, which is written %q", text, got, FormatToken(got))
		}
	})
}

func FuzzReadProblem(f *testing.F) {
	f.Add("application/problem+json", []byte(`{"type":"urn:keyward:problem:stale","title":"x","hint":"y","fields":{"a":"b"}}`))
	f.Add("text/html", []byte("<html>"))
	f.Add("application/json", []byte(`[]`))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		p := readProblem(&http.Response{StatusCode: 502, Header: http.Header{"Content-Type": {kind}}}, body)
		if p.Status != 502 || p.Title == "" || p.Error() == "" {
			t.Errorf("problem %+v", p)
		}
	})
}

// broker is a fake that answers as handle says; calls count.
func broker(t *testing.T, handle http.HandlerFunc) (*Agent, *People, *atomic.Int64) {
	t.Helper()
	calls := &atomic.Int64{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		handle(w, r)
	}))
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	s.StartTLS()
	t.Cleanup(s.Close)
	newCall := func() *caller {
		k, err := newCaller(s.URL, s.Client().Transport.(*http.Transport).TLSClientConfig, nil, "test")
		if err != nil {
			t.Fatal(err)
		}
		k.pause = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
		t.Cleanup(k.http.CloseIdleConnections)
		return k
	}
	people := newCall()
	people.writeOnce = true
	p := &People{call: people}
	return &Agent{call: newCall()}, p, calls
}

func TestCall_repeatsWithOneIdempotencyKey(t *testing.T) {
	t.Parallel()
	keys := map[string]int{}
	agent, _, calls := broker(t, func(w http.ResponseWriter, r *http.Request) {
		keys[r.Header.Get(api.HeaderIdempotencyKey)]++
		if len(keys) == 1 && keys[r.Header.Get(api.HeaderIdempotencyKey)] < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(api.KeyRequestStatus{ID: "r"})
	})
	if got, err := agent.Request(t.Context(), api.KeyRequest{}); err != nil || got.ID != "r" || calls.Load() != 3 || len(keys) != 1 {
		t.Fatalf("%+v, %v after %d calls with keys %v", got, err, calls.Load(), keys)
	}
	if _, err := agent.Request(t.Context(), api.KeyRequest{}); err != nil || len(keys) != 2 || keys[""] != 0 {
		t.Fatalf("another call has no key of its own: %v, %v", keys, err)
	}
}

func TestCall_repeatsOnlyWhatCanPass(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]int64{400: 1, 401: 1, 403: 1, 404: 1, 409: 1, 413: 1, 422: 1, 302: 1,
		429: attempts, 500: attempts, 502: attempts, 503: attempts, 504: attempts, 507: attempts} {
		agent, _, calls := broker(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(status)
		})
		if err := agent.Report(t.Context(), "r", api.RequestEvent{}); StatusOf(err) != status || calls.Load() != want {
			t.Errorf("%d: %v after %d calls, want %d", status, err, calls.Load(), want)
		}
	}
}

// The people's interface stores no answers, so what may have been done is not repeated.
func TestPeople_doNotRepeatWritesThatMayHaveHappened(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]int64{500: 1, 502: 1, 503: 1, 504: 1, 429: attempts, 507: attempts} {
		_, people, calls := broker(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		if err := people.Do(t.Context(), "POST", "/api/v1/policies", nil, nil); err == nil || calls.Load() != want {
			t.Errorf("POST %d: %v after %d calls, want %d", status, err, calls.Load(), want)
		}
		if err := people.Do(t.Context(), "GET", "/api/v1/policies", nil, nil); err == nil || calls.Load() != want+attempts {
			t.Errorf("GET %d: %v after %d calls, want %d", status, err, calls.Load(), want+attempts)
		}
	}
	_, people, calls := broker(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if err := people.Do(t.Context(), "POST", "/api/v1/policies", nil, nil); err == nil || calls.Load() != 1 {
		t.Errorf("a connection that broke: %v after %d calls", err, calls.Load())
	}
}

func TestCall_errorsTellTitleDetailAndHint(t *testing.T) {
	t.Parallel()
	agent, _, _ := broker(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("X-Request-Id", "42")
		w.WriteHeader(409)
		_, _ = io.WriteString(w, `{"type":"urn:keyward:problem:device-in-use","title":"In use","detail":"By db2.","hint":"Stop it there.","fields":{"b":"2","a":"1"}}`)
	})
	err := agent.Report(t.Context(), "r", api.RequestEvent{})
	const want = "POST /agent/v1/key-requests/r/events: In use: By db2.; a: 1; b: 2; Stop it there. (HTTP 409)"
	var p *Problem
	if err == nil || err.Error() != want || !Is(err, "device-in-use") || !errors.As(err, &p) || p.RequestID != "42" {
		t.Fatalf("got %q (%+v), want %q", err, p, want)
	}
}

func TestCall_survivesAnswersThatAreNotTheBrokers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"a proxy's page": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(403)
			_, _ = io.WriteString(w, "<h1>blocked</h1>")
		}, "check the broker's URL"},
		"not JSON": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, "decode the answer"},
		"endless": {func(w http.ResponseWriter, _ *http.Request) {
			chunk := make([]byte, 1<<20)
			for range 20 {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, "larger than"},
	} {
		agent, _, _ := broker(t, c.handle)
		if _, err := agent.Devices(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestCall_endsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	agent, _, calls := broker(t, func(w http.ResponseWriter, r *http.Request) {
		cancel() // once the call has arrived, however long that takes
		<-r.Context().Done()
	})
	if _, err := agent.Devices(ctx); !errors.Is(err, context.Canceled) || calls.Load() != 1 {
		t.Errorf("%v after %d calls", err, calls.Load())
	}
}

func TestNew_refusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	if _, err := NewPeople("http://broker.example", nil); err == nil {
		t.Error("plain HTTP was accepted")
	}
	if _, err := NewPeople("https://user:secret@broker.example", nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("a password in the URL: %v", err)
	}
	if _, err := NewPeople("https://broker.example", []byte("not PEM")); err == nil {
		t.Error("a CA that is not PEM was accepted")
	}
	if _, err := NewAgent(AgentOptions{URL: "https://broker.example"}); err == nil {
		t.Error("an agent without CA and certificate was accepted")
	}
}
