package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// copySource is the file that nbdcopy writes to servers.
const copySource = "source.img"

// copies are the sequential cases with nbdcopy as the client: unlike fio's NBD engine it has a thread and a connection for
// each processor where the server allows several.
var copies = []workload{
	{name: "seq-read", copied: true, mode: "read", block: "1048576", depth: 8},
	{name: "seq-write", copied: true, mode: "write", block: "1048576", depth: 8},
}

// nbdcopy copies the whole export away, or a file to it, once, and returns also how many bytes that were. Zeroes are not
// looked for.
func nbdcopy(ctx context.Context, w workload, uri, file string) (m measured, bytes float64, err error) {
	args := []string{"--no-extents", "--allocated", "--sparse=0", "--request-size=" + w.block, fmt.Sprintf("--requests=%d", w.depth)}
	if w.mode == "read" {
		out, err := exec.CommandContext(ctx, "nbdinfo", "--size", uri).Output()
		if err != nil {
			return m, 0, fmt.Errorf("ask %s for its size: %w", uri, describe(err))
		}
		if bytes, err = strconv.ParseFloat(strings.TrimSpace(string(out)), 64); err != nil {
			return m, 0, fmt.Errorf("read the size of %s: %w", uri, err)
		}
		args = append(args, uri, "null:")
	} else {
		bytes = float64(imageSize - payloadSlack)
		args = append(args, file, uri)
	}
	started := time.Now()
	if _, err := exec.CommandContext(ctx, "nbdcopy", args...).Output(); err != nil {
		return m, 0, fmt.Errorf("nbdcopy %v: %w", args, describe(err))
	}
	m.mibs = bytes / (1 << 20) / time.Since(started).Seconds()
	m.iops = m.mibs // requests are of 1 MiB
	return m, bytes, nil
}
