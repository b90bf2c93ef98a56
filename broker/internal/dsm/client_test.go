package dsm

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"keyward/broker/internal/dsm/dsmtest"
)

func manager(t *testing.T, computers ...dsmtest.Computer) (*dsmtest.Server, *Client) {
	t.Helper()
	s := dsmtest.New(computers...)
	t.Cleanup(s.Close)
	host, port := s.Address()
	c, err := NewClient(host, port, dsmtest.Key, s.Authority())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return s, c
}

func TestClient_listsAllPages(t *testing.T) {
	t.Parallel()
	var all []dsmtest.Computer
	for i := range 2*pageSize + 3 {
		all = append(all, dsmtest.Protected(10+3*i, fmt.Sprintf("host-%d", i), "", ""))
	}
	s, c := manager(t, all...)
	got, err := c.Computers(t.Context())
	if err != nil || len(got) != len(all) || s.Calls() != 3 {
		t.Fatalf("%d computers in %d calls, %v", len(got), s.Calls(), err)
	}
	for i, computer := range got {
		if computer.HostName != fmt.Sprintf("host-%d", i) {
			t.Fatalf("computer %d is %+v", i, computer)
		}
	}
}

func TestClient_saysWhatIsWrong(t *testing.T) {
	t.Parallel()
	reply := func(status int, body string) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool {
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return true
		}
	}
	for _, tc := range []struct {
		name   string
		answer func(http.ResponseWriter) bool
		is     error
		says   string
	}{
		{"key refused", reply(403, `{"message":"Authentication failed"}`), ErrRefused, "API key"},
		{"another program", reply(200, "<html>welcome</html>"), ErrNotManager, "not a Deep Security Manager"},
		{"an older manager", reply(404, ""), ErrNotManager, "404"},
		{"no list in the answer", reply(200, `{"hosts":[]}`), ErrNotManager, "no computers"},
		{"a list that goes backwards", reply(200, `{"computers":[{"ID":2},{"ID":2}]}`), ErrNotManager, "computer 2 behind 2"},
		{"redirected", func(w http.ResponseWriter) bool {
			w.Header().Set("Location", "https://elsewhere.example.org/")
			w.WriteHeader(302)
			return true
		}, ErrNotManager, "302"},
		{"broken", reply(502, ""), nil, "502"},
		{"endless", func(w http.ResponseWriter) bool {
			fmt.Fprint(w, `{"computers":[`+strings.Repeat(" ", mostBody))
			return true
		}, ErrNotManager, "longer than"},
	} {
		s, c := manager(t)
		s.Answer(tc.answer)
		_, err := c.Computers(t.Context())
		if err == nil || !strings.Contains(err.Error(), tc.says) || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err != nil && strings.Contains(err.Error(), dsmtest.Key) {
			t.Errorf("%s: the key is told: %v", tc.name, err)
		}
	}
}

func TestClient_waitsAsLongAsIsAsked(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{"30": 30 * time.Second, "": time.Minute, "soon": time.Minute, "0": shortestWait, "-5": shortestWait, "999999": longestWait} {
		s, c := manager(t)
		s.Answer(func(w http.ResponseWriter) bool {
			w.Header().Set("Retry-After", header)
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		})
		var busy *BusyError
		if err := c.Test(t.Context()); !errors.As(err, &busy) || busy.After != want {
			t.Errorf("Retry-After %q: %v, want %s", header, err, want)
		}
	}
}

func TestClient_trustsNobodyElse(t *testing.T) {
	t.Parallel()
	s := dsmtest.New()
	defer s.Close()
	host, port := s.Address()
	c, err := NewClient(host, port, dsmtest.Key, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Test(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") || s.Calls() != 0 {
		t.Errorf("%v after %d calls", err, s.Calls())
	}
}

func TestNewClient_takesAHostAndNothingElse(t *testing.T) {
	t.Parallel()
	for server, ok := range map[string]bool{
		"dsm.example.org": true, "192.0.2.7": true, "2001:db8::7": true, "[2001:db8::7]": true,
		"": false, "https://dsm.example.org": false, "dsm.example.org/api": false, "user@dsm.example.org": false,
		"dsm.example.org?x": false, "a b": false, strings.Repeat("a", 300): false, "dsm.example.org:4119": false,
	} {
		c, err := NewClient(server, 4119, "k", "")
		if (err == nil) != ok {
			t.Errorf("%q: %v", server, err)
		}
		if ok && c.base.Port() != "4119" {
			t.Errorf("%q: %s", server, c.base)
		}
	}
	for _, port := range []int{0, -1, 65536} {
		if _, err := NewClient("dsm", port, "k", ""); err == nil {
			t.Errorf("port %d is taken", port)
		}
	}
	if _, err := NewClient("dsm", 4119, "k", "not a certificate"); err == nil {
		t.Error("an authority without a certificate is taken")
	}
}

func FuzzParseComputers(f *testing.F) {
	f.Add([]byte(`{"computers":[{"ID":1,"hostName":"a","biosUUID":"4c4c4544-0032-4410-8035-b2c04f4b5931","computerStatus":{"agentStatus":"active"}}]}`))
	f.Add([]byte(`{"computers":[{"ID":1e3,"antiMalware":{"state":"on","moduleStatus":null}}]}`))
	f.Add([]byte(`{"computers":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		all, err := parseComputers(raw)
		if err != nil {
			return
		}
		w := NewWatch(nil, time.Now)
		w.computers, w.at = all, time.Now()
		m := Machine{UUID: "4c4c4544-0032-4410-8035-b2c04f4b5931", HostName: "a", Address: "192.0.2.1"}
		facts := w.Facts("i", m)
		if len(facts) != len(Names()) {
			t.Fatalf("%d facts", len(facts))
		}
		for i, fact := range facts {
			if fact.Name != Names()[i] || (len(fact.Values) == 0) == (fact.Missing == "") || len(fact.Values) > 1 {
				t.Errorf("%+v", fact)
			}
		}
	})
}
