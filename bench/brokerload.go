package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hpke"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
)

// fleetMachine is one line of the seed program's output, with what is made of it once.
type fleetMachine struct {
	AccountID  string `json:"account_id"`
	InstanceID string `json:"instance_id"`
	DeviceID   string `json:"device_id"`
	Cert       string `json:"cert"`
	Key        string `json:"key"`

	tls tls.Certificate
}

// caller asks one contender for one key in the name of a machine.
type caller func(ctx context.Context, m *fleetMachine) error

// dialTLS connects as the machine. Nothing is resumed: every machine of a storm comes for the first time.
func dialTLS(ctx context.Context, address string, roots *x509.CertPool, m *fleetMachine) (*tls.Conn, error) {
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: "127.0.0.1", Certificates: []tls.Certificate{m.tls}}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil
}

// askBroker is a machine's whole way to its key: handshake, evidence for a nonce of the connection, judged by the policy,
// delivery, and the delivery opened. The HTTP is written by hand, so that the same cores that serve are not busy with a
// large client.
func askBroker(address string, roots *x509.CertPool) caller {
	return func(ctx context.Context, m *fleetMachine) error {
		private, err := client.NewDeliveryKey()
		if err != nil {
			return err
		}
		conn, err := dialTLS(ctx, address, roots, m)
		if err != nil {
			return err
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		state := conn.ConnectionState()
		nonce, err := api.ConnectionNonce(&state, [api.ConnectionNonceRandom]byte(uuid.New()))
		if err != nil {
			return err
		}
		// What opens the key, and not all that the console's programs read too.
		var status struct {
			ID       string           `json:"id"`
			Status   api.KeyStatus    `json:"status"`
			Reason   string           `json:"reason"`
			Delivery *api.KeyDelivery `json:"delivery"`
		}
		if err := post(conn, in, address, api.PathKeyRequests, api.KeyRequest{DeviceID: m.DeviceID, Nonce: nonce,
			Evidence: fleetEvidence(m, nonce), PublicKey: private.PublicKey(), Time: time.Now(), Deliver: true}, &status); err != nil {
			return err
		}
		if status.Delivery == nil {
			return fmt.Errorf("the request is %s: %s", status.Status, status.Reason)
		}
		_, err = private.Open(*status.Delivery, api.DeliveryBinding{Purpose: "key-request", AccountID: m.AccountID, RequestID: status.ID,
			DeviceID: m.DeviceID, InstanceID: m.InstanceID, Nonce: nonce})
		return err
	}
}

// fleetEvidence is what a machine of the fleet says of itself; the fleet's policy judges it by three rules.
func fleetEvidence(m *fleetMachine, nonce string) api.Evidence {
	now := time.Now().UTC()
	fact := func(name api.FactName, values ...string) api.Fact {
		return api.Fact{Name: name, Values: values, Source: "bench", Grade: api.GradeSelfReported, At: now}
	}
	return api.Evidence{Nonce: nonce, CollectedAt: now, Facts: []api.Fact{
		fact(api.FactHostName, "fleet-"+m.InstanceID), fact(api.FactGuestOS, "linux"), fact(api.FactArchitecture, "64"),
		fact(api.FactKernelVersion, "6.1.0"), fact(api.FactOSName, "Debian GNU/Linux 12 (bookworm)"), fact(api.FactOSVersion, "12"),
		fact(api.FactTCPPorts, "22", "80", "443"), fact(api.FactUDPPorts, "68", "123"), fact(api.FactAgentVersion, "1.0.0"),
	}}
}

// attempts is how often a call is made that the broker is too busy for, as agents make it: again with the same key, after
// a growing pause.
const attempts = 6

// post makes one call with an idempotency key, as agents do.
func post(conn io.Writer, in *bufio.Reader, host, path string, body, out any) error {
	key := uuid.NewString()
	for attempt := 1; ; attempt++ {
		busy, err := postOnce(conn, in, host, path, key, body, out)
		if !busy || attempt == attempts {
			return err
		}
		time.Sleep(time.Duration(attempt) * (500*time.Millisecond + rand.N(500*time.Millisecond)))
	}
}

// postOnce makes it once; busy says that the broker wants it to be made again.
func postOnce(conn io.Writer, in *bufio.Reader, host, path, key string, body, out any) (busy bool, err error) {
	var raw []byte
	if body != nil {
		if raw, err = json.Marshal(body); err != nil {
			return false, err
		}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n", path, host, key, len(raw))
	b.Write(raw)
	if _, err := conn.Write(b.Bytes()); err != nil {
		return false, err
	}
	code, answer, err := readAnswer(in)
	if err != nil {
		return false, err
	}
	if code >= 300 {
		return code == http.StatusServiceUnavailable, fmt.Errorf("POST %s: %d: %s", path, code, answer)
	}
	if out == nil {
		return false, nil
	}
	return false, json.Unmarshal(answer, out)
}

// readAnswer reads an answer whose header says how long it is, as this broker's do.
func readAnswer(in *bufio.Reader) (code int, body []byte, err error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return 0, nil, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, nil, fmt.Errorf("an answer begins with %q", line)
	}
	if code, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, nil, fmt.Errorf("an answer begins with %q", line)
	}
	length := -1
	for {
		if line, err = in.ReadSlice('\n'); err != nil {
			return 0, nil, err
		}
		name, value, found := bytes.Cut(bytes.TrimSpace(line), []byte(":"))
		if !found {
			break
		}
		if bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, nil, fmt.Errorf("an answer of length %q", value)
			}
		}
	}
	if length < 0 || length > 1<<20 {
		return 0, nil, fmt.Errorf("an answer of %d bytes", length)
	}
	body = make([]byte, length)
	_, err = io.ReadFull(in, body)
	return code, body, err
}

// load is the result of one window.
type load struct {
	done     int
	took     time.Duration
	latency  []time.Duration
	cpu      time.Duration // of the server
	failures int
	failed   error // one of the failures
}

func (l load) rate() float64 { return float64(l.done) / l.took.Seconds() }

// storm has each machine call once, at most workers of them at a time.
func storm(ctx context.Context, machines []*fleetMachine, workers int, call caller) load {
	var next, failures atomic.Int64
	var mu sync.Mutex
	out := load{latency: make([]time.Duration, 0, len(machines))}
	began := time.Now()
	var wg sync.WaitGroup
	for range min(workers, len(machines)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(machines) {
					return
				}
				at := time.Now()
				err := call(ctx, machines[i])
				took := time.Since(at)
				mu.Lock()
				if err != nil {
					failures.Add(1)
					out.failed = err
				} else {
					out.latency = append(out.latency, took)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	out.took, out.done, out.failures = time.Since(began), len(out.latency), int(failures.Load())
	return out
}

// exchange writes a message and reads an answer of the length; what bare servers speak.
func exchange(address string, roots *x509.CertPool, check func(private hpke.PrivateKey, answer []byte) error, length int) caller {
	return func(ctx context.Context, m *fleetMachine) error {
		kem, _, _ := client.DeliverySuite()
		private, err := kem.GenerateKey()
		if err != nil {
			return err
		}
		conn, err := dialTLS(ctx, address, roots, m)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write(private.PublicKey().Bytes()); err != nil {
			return err
		}
		answer := make([]byte, length)
		if _, err := io.ReadFull(conn, answer); err != nil {
			return err
		}
		if check == nil {
			return nil
		}
		return check(private, answer)
	}
}

// percentile of latencies that are sorted.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(float64(len(sorted))*p), len(sorted)-1)]
}

var errNoAddress = errors.New("the server did not say where it listens")

func loopback() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
