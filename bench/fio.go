package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"time"
)

// workload is one case of the NBD and mount benchmarks, as fio runs it.
type workload struct {
	name, mode, block string
	depth             int
	// copied is a workload for nbdcopy.
	copied bool
}

// client is the program that makes the load.
func (w workload) client() string {
	if w.copied {
		return "nbdcopy"
	}
	return "fio"
}

var workloads = []workload{
	{name: "seq-read", mode: "read", block: "1m", depth: 8},
	{name: "seq-write", mode: "write", block: "1m", depth: 8},
	{name: "rand-read-32", mode: "randread", block: "4k", depth: 32},
	{name: "rand-write-32", mode: "randwrite", block: "4k", depth: 32},
	{name: "rand-read-1", mode: "randread", block: "4k", depth: 1},
}

// fioRamp is how long fio runs before it measures.
const fioRamp = 200 * time.Millisecond

// measured is what one window of a workload gave.
type measured struct {
	mibs, iops, latency, cpuPerGB float64
	// others is how many processors programs that have nothing to do with the benchmark kept busy.
	others float64
}

// fio runs one workload over size bytes for the time given and returns what it measured; extra are further arguments,
// among them the engine.
func fio(ctx context.Context, w workload, size int64, runtime time.Duration, extra ...string) (measured, error) {
	args := append([]string{"--name=bench", "--output-format=json", "--rw=" + w.mode, "--bs=" + w.block,
		fmt.Sprintf("--iodepth=%d", w.depth), fmt.Sprintf("--size=%d", size), "--time_based",
		fmt.Sprintf("--runtime=%dms", runtime.Milliseconds()), fmt.Sprintf("--ramp_time=%dms", fioRamp.Milliseconds()), "--randrepeat=0", "--norandommap"}, extra...)
	out, err := exec.CommandContext(ctx, "fio", args...).Output()
	if err != nil {
		return measured{}, fmt.Errorf("fio %v: %w", args, describe(err))
	}
	var result struct {
		Jobs []struct {
			Read, Write struct {
				BW   float64 `json:"bw_bytes"`
				IOPS float64 `json:"iops"`
				Lat  struct {
					Mean float64 `json:"mean"`
				} `json:"lat_ns"`
			}
		} `json:"jobs"`
	}
	// fio may print notes before the document.
	if at := bytes.IndexByte(out, '{'); at > 0 {
		out = out[at:]
	}
	if err := json.Unmarshal(out, &result); err != nil || len(result.Jobs) != 1 {
		return measured{}, fmt.Errorf("read fio's result: %w", err)
	}
	side := result.Jobs[0].Read
	if side.IOPS == 0 {
		side = result.Jobs[0].Write
	}
	return measured{mibs: side.BW / (1 << 20), iops: side.IOPS, latency: side.Lat.Mean / 1e3}, nil
}

// describe adds a failed command's own words to its error.
func describe(err error) error {
	if exit, ok := err.(*exec.ExitError); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, exit.Stderr[:min(len(exit.Stderr), 400)])
	}
	return err
}
