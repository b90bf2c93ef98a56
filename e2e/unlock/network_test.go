package unlock

import (
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// Broker, people and agent meet over IPv6, and rules look at the address.
func TestIPv6_agentAndPeople(t *testing.T) {
	needs(t)
	t.Parallel()
	probe, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	probe.Close()
	kinds[0].ready(t)
	s, err := kinds[0].start(t.Context(), lab.BrokerOptions{Host: "::1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.stop(t) })
	if !strings.HasPrefix(s.broker.AgentURL, "https://[::1]:") {
		t.Fatalf("the agents' interface is %s", s.broker.AgentURL)
	}
	m := newAccount(t, s).machine(1, "")
	p := auto()
	p.Rules = append(p.Rules, api.Rule{Fact: api.FactSourceIPv6, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpIn, Value: "::1/128"}}})
	m.policy(m.device(0), p)
	d := m.encrypt(0, api.DeviceWrite{})
	m.mounted(0)
	if r := m.request(d.ID, api.KeyDelivered); r.Integrity != api.IntegrityGood {
		t.Errorf("judged %s: %+v", r.Integrity, r.Verdict.Findings)
	}
}

// tunnel is an HTTP proxy that wants a name and a password and carries CONNECT only.
type tunnel struct {
	*httptest.Server
	carried, refused atomic.Int64
}

func newTunnel(t *testing.T) *tunnel {
	p := &tunnel{}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *tunnel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("agent:hunter2"))
	if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != want {
		p.refused.Add(1)
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	far, err := net.DialTimeout("tcp", r.Host, 10*time.Second)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	p.carried.Add(1)
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		far.Close()
		return
	}
	io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() { io.Copy(far, near); far.Close() }()
	go func() { io.Copy(near, far); near.Close() }()
}

// An agent behind a proxy enrols, encrypts and mounts through it; without the password it does not get out.
func TestProxy_withNameAndPassword(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		proxy := newTunnel(t)
		address, err := url.Parse(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		a := newAccount(t, s)
		dir := tempDir(t)
		if _, err := s.broker.Enrol(t.Context(), lab.AgentOptions{Bin: program("keyward-agent"), Dir: dir + "/x", Token: a.token(),
			AccountID: a.setup.AccountID, Extra: "proxy: " + proxy.URL + "\n"}); err == nil || proxy.refused.Load() == 0 {
			t.Errorf("without a password the proxy let the agent through: %v", err)
		}
		address.User = url.UserPassword("agent", "hunter2")
		m := a.machine(1, "proxy: "+address.String()+"\n")
		m.policy(m.device(0), auto())
		m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		if proxy.carried.Load() == 0 {
			t.Error("the agent went around the proxy")
		}
		if strings.Contains(m.LogTail(10000), "hunter2") {
			t.Error("the agent's log holds the proxy's password")
		}
		if out, err := m.Run(t.Context(), "config", "-y", "test"); err != nil {
			t.Errorf("config -y test: %v: %s", err, out)
		}
	})
}
