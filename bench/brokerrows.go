package main

import (
	"context"
	"fmt"
	"time"

	"keyward/e2e/lab"
)

var brokerHeader = []string{"server", "database", "case", "devices", "per s", "of floor", "p50 ms", "p99 ms", "server CPU ms each", "MiB", "failed"}

// brokerRow is one line of `bench broker -json`, documented in docs/performance.md.
type brokerRow struct {
	Bench    string `json:"bench"`
	Server   string `json:"server"`
	Database string `json:"database,omitempty"`
	Case     string `json:"case"`
	Devices  int    `json:"devices,omitempty"`
	// PerSecond counts keys that were opened by the machine that asked; OfFloor is its share of the bare server's.
	PerSecond float64 `json:"per_s"`
	OfFloor   float64 `json:"of_floor,omitempty"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
	// CPU is the server's processor time for one, the database's included.
	CPU float64 `json:"server_cpu_ms"`
	// Memory is the broker's resident memory afterwards, in MiB.
	Memory float64 `json:"mib,omitempty"`
	Failed int     `json:"failed,omitempty"`
}

func (s *brokerSite) row(r brokerRow) {
	r.Bench = "broker"
	cell := func(v float64, format string) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(format, v)
	}
	s.out.row(brokerHeader, r, r.Server, r.Database, r.Case, cell(float64(r.Devices), "%.0f"), cell(r.PerSecond, "%.0f"), cell(r.OfFloor, "%.2f"),
		cell(r.P50, "%.1f"), cell(r.P99, "%.1f"), cell(r.CPU, "%.2f"), cell(r.Memory, "%.0f"), cell(float64(r.Failed), "%.0f"))
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// windows has all contenders take turns.
func (s *brokerSite) windows(ctx context.Context) error {
	for round := range s.plan.rounds + 1 {
		for _, c := range s.all {
			l, err := c.run(ctx, s.plan.window, s.plan.workers)
			if err != nil {
				return err
			}
			if round > 0 { // the first is for warming up
				c.windows = append(c.windows, l)
			}
		}
	}
	of := func(c *contender, f func(load) float64) float64 {
		var values []float64
		for _, l := range c.windows {
			values = append(values, f(l))
		}
		return median(values)
	}
	floor := 0.0
	for _, c := range s.all {
		if c.name == "tls-seal" {
			floor = of(c, load.rate)
		}
	}
	for _, c := range s.all {
		r := brokerRow{Server: c.name, Database: c.database, Case: fmt.Sprintf("%d at once", s.plan.workers), PerSecond: of(c, load.rate),
			P50: of(c, func(l load) float64 { return ms(percentile(l.latency, 0.5)) }),
			P99: of(c, func(l load) float64 { return ms(percentile(l.latency, 0.99)) }),
			CPU: of(c, func(l load) float64 { return ms(l.cpu) / float64(max(l.done, 1)) })}
		if floor > 0 {
			r.OfFloor = r.PerSecond / floor
		}
		s.row(r)
	}
	return nil
}

// lone asks for one key after the other, as on a quiet day.
func (s *brokerSite) lone(ctx context.Context, b *benchedBroker) error {
	return s.single(ctx, b, "one at a time", b.size, s.plan.lone, 1)
}

// storm has all machines ask at the same moment.
func (s *brokerSite) storm(ctx context.Context, b *benchedBroker) error {
	return s.single(ctx, b, fmt.Sprintf("storm of %d", s.plan.storm), b.size, s.plan.storm, s.plan.storm)
}

func (s *brokerSite) single(ctx context.Context, b *benchedBroker, what string, size, n, workers int) error {
	l, err := b.run(ctx, n, workers)
	if err != nil {
		return err
	}
	memory, err := lab.ResidentMiB(b.lab.PID())
	if err != nil {
		return err
	}
	s.row(brokerRow{Server: b.name, Database: b.database, Case: what, Devices: size, PerSecond: l.rate(), P50: ms(percentile(l.latency, 0.5)),
		P99: ms(percentile(l.latency, 0.99)), CPU: ms(l.cpu) / float64(max(l.done, 1)), Memory: memory, Failed: l.failures})
	return nil
}

// grow fills the inventory and measures what a request costs then.
func (s *brokerSite) grow(ctx context.Context, b *benchedBroker) error {
	for _, size := range s.plan.fill {
		if size > b.size {
			if _, err := b.seed(ctx, size-b.size, true); err != nil {
				return err
			}
			b.size = size
		}
		if err := s.single(ctx, b, fmt.Sprintf("%d at once", s.plan.workers), b.size, s.plan.lone, s.plan.workers); err != nil {
			return err
		}
	}
	return nil
}
