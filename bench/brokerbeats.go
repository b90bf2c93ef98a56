package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// beats keeps many machines connected to a broker, each reporting once in every interval, and measures what the second half
// of it costs: the first is for connecting.
func (s *brokerSite) beats(ctx context.Context, b *benchedBroker) error {
	address := strings.TrimPrefix(b.lab.AgentURL, "https://")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(b.lab.CA)
	machines := b.machines[:min(s.plan.storm, len(b.machines))]
	interval := s.plan.interval
	began := time.Now()
	half, whole := began.Add(2*interval), began.Add(4*interval)
	var mu sync.Mutex
	var latency []time.Duration
	failed := 0
	var wg sync.WaitGroup
	for i, m := range machines {
		wg.Go(func() {
			first := began.Add(interval * time.Duration(i) / time.Duration(len(machines)))
			err := beat(ctx, address, roots, m, first, whole, interval, func(at time.Time, took time.Duration) {
				if at.After(half) && at.Add(took).Before(whole) {
					mu.Lock()
					latency = append(latency, took)
					mu.Unlock()
				}
			})
			if err != nil && ctx.Err() == nil {
				mu.Lock()
				failed++
				if failed == 1 {
					s.out.missing("broker", "a heartbeat", err.Error())
				}
				mu.Unlock()
			}
		})
	}
	time.Sleep(time.Until(half))
	before := cpuOf(b.pids)
	time.Sleep(time.Until(whole))
	cpu := cpuOf(b.pids) - before
	memory, err := lab.ResidentMiB(b.lab.PID())
	wg.Wait()
	if err != nil {
		return err
	}
	slices.Sort(latency)
	span := whole.Sub(half)
	s.row(brokerRow{Server: b.name, Database: b.database, Case: fmt.Sprintf("%d agents, a heartbeat each %s", len(machines), interval), Devices: b.size,
		PerSecond: float64(len(latency)) / span.Seconds(), P50: ms(percentile(latency, 0.5)), P99: ms(percentile(latency, 0.99)),
		CPU: ms(cpu) / float64(max(len(latency), 1)), Memory: memory, Failed: failed})
	return ctx.Err()
}

// beat is one machine: it connects once and reports every interval until the end.
func beat(ctx context.Context, address string, roots *x509.CertPool, m *fleetMachine, next, end time.Time, interval time.Duration, done func(time.Time, time.Duration)) error {
	time.Sleep(time.Until(next))
	conn, err := dialTLS(ctx, address, roots, m)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(end.Add(time.Minute)); err != nil {
		return err
	}
	in := bufio.NewReaderSize(conn, 1024)
	for ; next.Before(end) && ctx.Err() == nil; next = next.Add(interval) {
		time.Sleep(time.Until(next))
		at := time.Now()
		var out api.HeartbeatResponse
		if err := post(conn, in, address, api.PathHeartbeat, api.Heartbeat{Evidence: fleetEvidence(m, ""), Held: []api.HeldKey{}, Time: at}, &out); err != nil {
			return err
		}
		done(at, time.Since(at))
	}
	return nil
}
