package main

import (
	"cmp"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// busyTime is what all processors have spent on anything since the machine was started, from the first line of /proc/stat:
// user, nice, system, idle, iowait, irq, softirq, steal. It is 0 where there is no such file.
func busyTime() (busy time.Duration) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	for i, field := range strings.Fields(line) {
		if n, err := strconv.ParseInt(field, 10, 64); err == nil && i != 4 && i != 5 && i <= 8 {
			busy += time.Duration(n) * userHZ
		}
	}
	return busy
}

// childrenTime is what this process's clients have used, those that have ended.
func childrenTime() time.Duration {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_CHILDREN, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// quietest returns the half of the windows in which other programs used the least: on a shared machine the rest says more
// about the neighbours than about the server.
func quietest(windows []measured) []measured {
	sorted := slices.SortedFunc(slices.Values(windows), func(a, b measured) int { return cmp.Compare(a.others, b.others) })
	return sorted[:(len(sorted)+1)/2]
}
