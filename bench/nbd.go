package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// imageSize is the export's size in bytes for every server.
var imageSize int64 = 1 << 30

// nbdRow is one server under one workload. CPU is the server's processor time per GB moved.
type nbdRow struct {
	Bench     string  `json:"bench"`
	Server    string  `json:"server"`
	Encrypted bool    `json:"encrypted"`
	Backing   string  `json:"backing"`
	Case      string  `json:"case"`
	MiBs      float64 `json:"mib_s"`
	IOPS      float64 `json:"iops"`
	Latency   float64 `json:"lat_us"`
	CPU       float64 `json:"cpu_s_per_gb"`
}

var nbdHeader = []string{"backing", "case", "server", "encrypted", "MiB/s", "IOPS", "latency us", "CPU s/GB"}

// benchNBD runs every server over a Unix socket, on tmpfs and on disk. All servers of a backing run at once, idle while
// another is measured, and windows go round among them, so that what slows the machine slows all.
func benchNBD(ctx context.Context, o options) error {
	backings := []struct{ name, dir string }{{"tmpfs", "/dev/shm"}, {"disk", "/var/tmp"}}
	rounds, window := 5, 2*time.Second
	if o.quick {
		backings, rounds, window = backings[:1], 1, 500*time.Millisecond
		imageSize = 256 << 20
	}
	for _, backing := range backings {
		if err := benchBacking(ctx, o, backing.name, backing.dir, rounds, window); err != nil {
			return err
		}
	}
	return nil
}

func benchBacking(ctx context.Context, o options, backing, parent string, rounds int, window time.Duration) error {
	dir, err := os.MkdirTemp(parent, "keyward-bench-")
	if err != nil {
		return fmt.Errorf("make a folder on %s: %w", backing, err)
	}
	defer os.RemoveAll(dir)
	var servers []*running
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	for _, p := range peers() {
		s, err := p.start(ctx, dir)
		if err != nil {
			if p.program == "nbdkit" || p.program == "qemu-nbd" {
				o.out.missing("nbd", p.name, err.Error())
				continue
			}
			return err
		}
		servers = append(servers, s)
	}
	for _, w := range workloads {
		results := make([][]measured, len(servers))
		for range rounds {
			for i, s := range servers {
				m, err := s.window(ctx, w, window)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, w.name, err)
				}
				results[i] = append(results[i], m)
			}
		}
		for i, s := range servers {
			nbdRow{"nbd", s.name, s.encrypted, backing, w.name,
				medianOf(results[i], func(m measured) float64 { return m.mibs }),
				medianOf(results[i], func(m measured) float64 { return m.iops }),
				medianOf(results[i], func(m measured) float64 { return m.latency }),
				medianOf(results[i], func(m measured) float64 { return m.cpuPerGB })}.print(o.out)
		}
	}
	return nil
}

func medianOf(all []measured, value func(measured) float64) float64 {
	var values []float64
	for _, m := range all {
		values = append(values, value(m))
	}
	return median(values)
}

func (r nbdRow) print(out *report) {
	encrypted := "no"
	if r.Encrypted {
		encrypted = "yes"
	}
	out.row(nbdHeader, r, r.Backing, r.Case, r.Server, encrypted, fmt.Sprintf("%.0f", r.MiBs), fmt.Sprintf("%.0f", r.IOPS),
		fmt.Sprintf("%.1f", r.Latency), fmt.Sprintf("%.2f", r.CPU))
}
