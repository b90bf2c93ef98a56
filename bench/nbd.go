package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// payloadSlack is more than any header takes of an encrypted image, bytes.
const payloadSlack = 32 << 20

// imageSize is the export's size in bytes for every server.
var imageSize int64 = 1 << 30

// nbdRow is one server under one workload. CPU is the server's processor time per GB moved.
type nbdRow struct {
	Bench     string  `json:"bench"`
	Server    string  `json:"server"`
	Encrypted bool    `json:"encrypted"`
	Backing   string  `json:"backing"`
	Case      string  `json:"case"`
	Client    string  `json:"client"` // fio or nbdcopy
	MiBs      float64 `json:"mib_s"`
	IOPS      float64 `json:"iops"`
	Latency   float64 `json:"lat_us"`
	CPU       float64 `json:"cpu_s_per_gb"`
}

var nbdHeader = []string{"backing", "case", "client", "server", "encrypted", "MiB/s", "IOPS", "latency us", "CPU s/GB"}

// benchNBD runs every server over a Unix socket, on tmpfs and on disk. All servers of a backing run at once, idle while
// another is measured, and windows go round among them, so that what slows the machine slows all. Figures are medians of the
// quieter half of each server's windows.
func benchNBD(ctx context.Context, o options) error {
	backings := []struct{ name, dir string }{{"tmpfs", "/dev/shm"}, {"disk", "/var/tmp"}}
	rounds, window := 9, time.Second
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
	loads := workloads
	if missing := notInstalled([]string{"nbdcopy", "nbdinfo"}); missing != "" {
		o.out.missing("nbd", "nbdcopy", missing+" is not installed")
	} else {
		if err := makeImage(ctx, filepath.Join(dir, copySource), imageSize-payloadSlack); err != nil {
			return err
		}
		loads = slices.Concat(loads, copies)
	}
	var others []float64
	for _, w := range loads {
		if o.cases != nil && !o.cases.MatchString(w.name) {
			continue
		}
		results := make([][]measured, len(servers))
		for range rounds {
			for i, s := range servers {
				m, err := s.window(ctx, w, window)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, w.name, err)
				}
				results[i] = append(results[i], m)
				others = append(others, m.others)
			}
		}
		for i, s := range servers {
			results[i] = quietest(results[i])
			nbdRow{"nbd", s.name, s.encrypted, backing, w.name, w.client(),
				medianOf(results[i], func(m measured) float64 { return m.mibs }),
				medianOf(results[i], func(m measured) float64 { return m.iops }),
				medianOf(results[i], func(m measured) float64 { return m.latency }),
				medianOf(results[i], func(m measured) float64 { return m.cpuPerGB })}.print(o.out)
		}
	}
	fmt.Fprintf(os.Stderr, "%s: other programs kept %.2f processors busy (median of all windows)\n", backing, median(others))
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
	out.row(nbdHeader, r, r.Backing, r.Case, r.Client, r.Server, encrypted, fmt.Sprintf("%.0f", r.MiBs), fmt.Sprintf("%.0f", r.IOPS),
		fmt.Sprintf("%.1f", r.Latency), fmt.Sprintf("%.2f", r.CPU))
}
