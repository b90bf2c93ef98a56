package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	running "runtime/metrics"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/fleet"
	"keyward/broker/internal/store/storetest"
)

// BenchmarkStorm has as many machines come at once as it is run times (-benchtime 3000x), and measures what memory the
// broker needs for each.
func BenchmarkStorm(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { deliveriesOverTLS(b, storetest.SQLite(b), b.N) })
	b.Run("postgres", func(b *testing.B) { deliveriesOverTLS(b, storetest.Postgres(b), b.N) })
}

// BenchmarkDeliveryOverTLS measures all that the broker does for one key: a new connection with the machine's certificate,
// and the request that brings the key, 32 machines at once. The machines are a process of their own, so time on the
// processor, memory and profiles are the broker's alone. Give -benchtime as a number (2000x): each machine asks once.
func BenchmarkDeliveryOverTLS(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { deliveriesOverTLS(b, storetest.SQLite(b), 32) })
	b.Run("postgres", func(b *testing.B) { deliveriesOverTLS(b, storetest.Postgres(b), 32) })
}

// clientsPlan is what the process of the machines reads.
type clientsPlan struct {
	URL      string
	CA       []byte
	Machines []fleet.Machine
	// AtOnce is how many of them call at the same time.
	AtOnce int
}

func deliveriesOverTLS(b *testing.B, dsn string, atOnce int) {
	c, setup := newConfig(b, dsn)
	plan := clientsPlan{Machines: newFleet(b, c, setup.AccountID, b.N), AtOnce: atOnce}
	r := start(b, c)
	plan.URL, plan.CA = r.agents, r.b.CACert()
	working, stop := context.WithCancel(b.Context())
	loops := r.b.loops(working)
	defer loops.Wait()
	defer stop()

	clients := exec.Command(os.Args[0])
	clients.Env = append(os.Environ(), "KEYWARD_TEST_CLIENTS=1")
	clients.Stderr = os.Stderr
	in, err1 := clients.StdinPipe()
	out, err2 := clients.StdoutPipe()
	if err := errors.Join(err1, err2, clients.Start()); err != nil {
		b.Fatal(err)
	}
	said := bufio.NewReader(out)
	answer := func() string {
		line, err := said.ReadString('\n')
		if err != nil {
			b.Fatal(err)
		}
		return line
	}
	if err := json.NewEncoder(in).Encode(plan); err != nil {
		b.Fatal(err)
	}
	answer() // they have read their keys
	peak := watchMemory(working)
	before := processorTime(b)
	b.ResetTimer()
	b.ReportAllocs()
	if _, err := io.WriteString(in, "go\n"); err != nil {
		b.Fatal(err)
	}
	if line := answer(); line != "done\n" {
		b.Error(line)
	}
	b.StopTimer()
	b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-us/op")
	b.ReportMetric(float64(peak())/(1<<10)/float64(min(b.N, atOnce)), "KiB/machine")
	in.Close()
	if err := clients.Wait(); err != nil {
		b.Error(err)
	}
}

// watchMemory says by how much the memory of this process grew at most since it was called, in bytes.
func watchMemory(ctx context.Context) (peak func() uint64) {
	runtime.GC()
	samples := []running.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	now := func() uint64 {
		running.Read(samples)
		return samples[0].Value.Uint64() - samples[1].Value.Uint64()
	}
	debug.FreeOSMemory()
	began := now()
	most := make(chan uint64)
	ended, end := context.WithCancel(ctx)
	go func() {
		var top uint64
		for ended.Err() == nil {
			top = max(top, now())
			time.Sleep(10 * time.Millisecond)
		}
		most <- top
	}()
	return func() uint64 {
		end()
		return max(<-most, began) - began
	}
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// beClients is the process of the machines.
func beClients(in io.Reader, out io.Writer) error {
	lines := json.NewDecoder(in)
	var plan clientsPlan
	if err := lines.Decode(&plan); err != nil {
		return err
	}
	certs := make([]tls.Certificate, len(plan.Machines))
	for i, m := range plan.Machines {
		var err error
		if certs[i], err = tls.X509KeyPair([]byte(m.Cert), []byte(m.Key)); err != nil {
			return err
		}
	}
	fmt.Fprintln(out, "ready")
	if _, err := bufio.NewReader(io.MultiReader(lines.Buffered(), in)).ReadString('g'); err != nil {
		return err
	}
	var next atomic.Int64
	var failed atomic.Value
	var wg sync.WaitGroup
	for range plan.AtOnce {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(certs) {
					return
				}
				if err := fetchKey(plan, plan.Machines[i], certs[i]); err != nil {
					failed.Store(err.Error())
				}
			}
		})
	}
	wg.Wait()
	if text := failed.Load(); text != nil {
		_, err := fmt.Fprintf(out, "%q\n", text)
		return err
	}
	_, err := fmt.Fprintln(out, "done")
	return err
}

// fetchKey is a machine's way to its key.
func fetchKey(plan clientsPlan, m fleet.Machine, cert tls.Certificate) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	agent, err := client.NewAgent(client.AgentOptions{URL: plan.URL, CA: plan.CA, Cert: cert})
	if err != nil {
		return err
	}
	defer agent.Close()
	now := time.Now().UTC()
	fact := func(name api.FactName, values ...string) api.Fact {
		return api.Fact{Name: name, Values: values, Source: "bench", Grade: api.GradeSelfReported, At: now}
	}
	var private *client.DeliveryKey
	var answered string
	got, err := agent.Ask(ctx, func(nonce string) (in api.KeyRequest, err error) {
		answered = nonce
		if private, err = client.NewDeliveryKey(); err != nil {
			return in, err
		}
		return api.KeyRequest{DeviceID: m.DeviceID, Nonce: nonce, PublicKey: private.PublicKey(), Time: now, Deliver: true,
			Evidence: api.Evidence{Nonce: nonce, CollectedAt: now, Facts: []api.Fact{
				fact(api.FactHostName, "fleet-"+m.InstanceID), fact(api.FactGuestOS, "linux"), fact(api.FactArchitecture, "64"),
				fact(api.FactKernelVersion, "6.1.0"), fact(api.FactOSName, "Debian GNU/Linux 12 (bookworm)"), fact(api.FactOSVersion, "12"),
				fact(api.FactTCPPorts, "22", "80", "443"), fact(api.FactUDPPorts, "68", "123"), fact(api.FactAgentVersion, "1.0.0")}}}, nil
	})
	if err != nil {
		return err
	}
	if got.Delivery == nil {
		return fmt.Errorf("the request is %s: %s", got.Status, got.Reason)
	}
	_, err = private.Open(*got.Delivery, api.DeliveryBinding{Purpose: "key-request", AccountID: m.AccountID, RequestID: got.ID, DeviceID: m.DeviceID,
		InstanceID: m.InstanceID, Nonce: answered})
	return err
}
