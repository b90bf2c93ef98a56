package console_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"keyward/broker/internal/feed"
	"keyward/broker/internal/httpapi"
)

// listen serves the site on a real connection, since a stream does not end by itself.
func (s *site) listen() string {
	s.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.app.Listener(listener) }()
	s.t.Cleanup(func() {
		if err := s.app.ShutdownWithTimeout(100 * time.Millisecond); err != nil && err != context.DeadlineExceeded {
			s.t.Error(err)
		}
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	return "http://" + listener.Addr().String()
}

func (p *person) stream(address, topic string) (*http.Response, *bufio.Reader) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	p.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/events/rows?topic="+url.QueryEscape(topic), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	r.AddCookie(&http.Cookie{Name: httpapi.SessionCookie, Value: p.token})
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { response.Body.Close() })
	return response, bufio.NewReader(response.Body)
}

// next reads one message of a stream, without its comments.
func next(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return "end"
		}
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "event: "); ok {
			return name
		}
	}
}

func TestStream_tellsOfChangesUntilTheSessionEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	address := s.listen()
	p := s.as("key-approver")
	response, events := p.stream(address, "key-requests")
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("the stream answers %d %v", response.StatusCode, response.Header)
	}
	for deadline := time.Now().Add(10 * time.Second); s.broker.Hub.Listeners() == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	s.as("account-administrator").post("/key-requests/request-1/approve", url.Values{"version": {"1"}}).leadsTo(t, "approve", "/instances")
	if got := next(t, events); got != "changed" {
		t.Fatalf("after an approval the stream says %q", got)
	}
	p.post("/logoff", nil).leadsTo(t, "log-off", "/logon")
	s.broker.Hub.Publish("bf2ce005-f482-4d95-aa2a-6a3e94d4780c", feed.TopicKeyRequests)
	if got := next(t, events); got != "end" {
		t.Errorf("after log-off the stream says %q", got)
	}
	for deadline := time.Now().Add(10 * time.Second); s.broker.Hub.Listeners() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the subscription stays open")
		}
	}
}

func TestStream_onlyTopicsThatTheRoleMayRead(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.as("data-analyst")
	for _, topic := range []string{"key-requests", "devices", "key-requests devices", "instance:instance-1", "changed", "policies"} {
		p.get("/events/rows?topic="+url.QueryEscape(topic)).wants(t, topic, http.StatusForbidden)
	}
	s.as("account-administrator").get("/events/rows?topic=instance:instance-1").wants(t, "another's work", http.StatusForbidden)
}

func TestStream_limitOfOneSession(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	address := s.listen()
	p := s.as("auditor")
	for range 16 {
		if response, _ := p.stream(address, "devices"); response.StatusCode != http.StatusOK {
			t.Fatalf("status %d", response.StatusCode)
		}
	}
	if response, _ := p.stream(address, "devices"); response.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a seventeenth stream answers %d", response.StatusCode)
	}
}
