package server

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"keyward/broker/api"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/store/storetest"
)

// process is a broker in a process of its own.
type process struct {
	cmd *exec.Cmd
	log *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func spawn(t *testing.T, c Config) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0], "-test.run=^$"), log: &lockedBuffer{}}
	p.cmd.Env = append(os.Environ(), "KEYWARD_TEST_BROKER="+encode(t, c))
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		if t.Failed() {
			t.Logf("a broker's log:\n%s", p.log)
		}
	})
	return p
}

// A broker is killed with SIGKILL while people add users. Every user whose creation was answered is there after the
// restart, and the audit log is whole and has a record of each.
func TestBroker_killedUnderLoadKeepsWhatItAcknowledged(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		c, setup := newConfig(t, dsn)
		c.PeopleListen, c.AgentListen = freePort(t), freePort(t)
		ca, err := os.ReadFile(c.Data + "/" + fileCA)
		if err != nil {
			t.Fatal(err)
		}
		first := spawn(t, c)
		ann := &person{t: t, http: clientOf(t, ca), url: "https://" + c.PeopleListen}
		await(t, func() bool { return ann.call("GET", "/readyz", nil, nil).Status == 200 })
		ann.logOn("acme", setup.Admin)
		var mu sync.Mutex
		var killed atomic.Bool
		acknowledged := map[string]bool{}
		var wg sync.WaitGroup
		for w := range 4 {
			wg.Go(func() {
				for i := 0; ; i++ {
					var token api.EnrolmentTokenInfo
					p := ann.call("POST", "/api/v1/enrolment-tokens", api.EnrolmentTokenWrite{Description: fmt.Sprintf("%d-%d", w, i), Uses: 1, ExpireSeconds: 600}, &token)
					if p.Status != 201 {
						if !killed.Load() {
							t.Errorf("before the broker was killed: %+v", p)
						}
						return
					}
					mu.Lock()
					acknowledged[token.ID] = true
					mu.Unlock()
				}
			})
		}
		await(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) > 40 })
		killed.Store(true)
		if err := first.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		first.cmd.Wait()
		wg.Wait()

		// Elsewhere: its ports are free for everybody once it is gone.
		c.PeopleListen, c.AgentListen = freePort(t), freePort(t)
		ann.url = "https://" + c.PeopleListen
		second := spawn(t, c)
		await(t, func() bool { return ann.call("GET", "/readyz", nil, nil).Status == 200 })
		var tokens []api.EnrolmentTokenInfo
		if p := ann.call("GET", "/api/v1/enrolment-tokens", nil, &tokens); p.Status != 200 {
			t.Fatalf("the session did not survive: %+v", p)
		}
		for _, token := range tokens {
			delete(acknowledged, token.ID)
		}
		if len(acknowledged) != 0 {
			t.Errorf("%d acknowledged tokens are lost", len(acknowledged))
		}
		var log []byte
		ann.call("GET", "/api/v1/audit/export", nil, &log)
		if _, err := chain.Verify(strings.NewReader(string(log)), chain.Options{}); err != nil {
			t.Errorf("the log after the kill: %v", err)
		}
		if n := strings.Count(string(log), `"enrolment-token.created"`); n != len(tokens) {
			t.Errorf("%d records for %d tokens", n, len(tokens))
		}
		if err := second.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	})
}

// The promise is 80 MiB for an idle broker; the test binary is a little larger than the broker.
func TestBroker_idleStaysSmall(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("the race detector multiplies memory")
	}
	c, setup := newConfig(t, "")
	c.PeopleListen, c.AgentListen = freePort(t), freePort(t)
	ca, err := os.ReadFile(c.Data + "/" + fileCA)
	if err != nil {
		t.Fatal(err)
	}
	p := spawn(t, c)
	ann := &person{t: t, http: clientOf(t, ca), url: "https://" + c.PeopleListen}
	await(t, func() bool { return ann.call("GET", "/readyz", nil, nil).Status == 200 })
	for range 5 {
		ann.logOn("acme", setup.Admin)
	}
	resident := func() (kib int) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		if err != nil {
			t.Skipf("no /proc: %v", err)
		}
		for line := range strings.Lines(string(status)) {
			fmt.Sscanf(line, "VmRSS: %d kB", &kib)
		}
		return kib
	}
	// Memory of the log-ons is given back a moment after the last.
	await(t, func() bool { return resident() <= 80<<10 })
	kib := resident()
	t.Logf("resident: %d KiB", kib)
	if kib == 0 || kib > 80<<10 {
		t.Errorf("an idle broker has %d KiB resident, want at most 80 MiB", kib)
	}
}
