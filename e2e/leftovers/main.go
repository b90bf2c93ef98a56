// Command leftovers fails when a test run left a mount, loop device, network namespace or Keyward process behind:
//
//	leftovers -record FILE    before the run: write down what is there
//	leftovers -compare FILE   after it: exit 1 and name what is new
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// traces are names of what a run can leave behind, sorted.
type traces struct {
	Mounts     []string `json:"mounts"`
	Loops      []string `json:"loops"`
	Namespaces []string `json:"namespaces"`
	Processes  []string `json:"processes"`
}

func main() {
	record := flag.String("record", "", "write what is there to this file")
	compare := flag.String("compare", "", "fail on what is not in this file")
	flag.Parse()
	if err := run(*record, *compare); err != nil {
		fmt.Fprintln(os.Stderr, "leftovers:", err)
		os.Exit(1)
	}
}

func run(record, compare string) error {
	if record != "" {
		raw, err := json.MarshalIndent(look(), "", " ")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(record), 0o755); err != nil {
			return err
		}
		return os.WriteFile(record, raw, 0o644)
	}
	raw, err := os.ReadFile(compare)
	if err != nil {
		return fmt.Errorf("read the record of before the run: %w (run with -record first)", err)
	}
	var before traces
	if err := json.Unmarshal(raw, &before); err != nil {
		return fmt.Errorf("parse %s: %w", compare, err)
	}
	var left []string
	// A process that was told to stop may need a moment; a leak stays.
	for range 40 {
		after := look()
		left = slices.Concat(added("mount", before.Mounts, after.Mounts), added("loop device", before.Loops, after.Loops),
			added("network namespace", before.Namespaces, after.Namespaces), added("process", before.Processes, after.Processes))
		if len(left) == 0 {
			return nil
		}
		time.Sleep(500 * time.Millisecond)
	}
	return fmt.Errorf("the run left behind:\n  %s", strings.Join(left, "\n  "))
}

func added(kind string, before, after []string) []string {
	var out []string
	for _, name := range after {
		if !slices.Contains(before, name) {
			out = append(out, kind+" "+name)
		}
	}
	return out
}

func look() traces {
	return traces{Mounts: mounts(), Loops: loops(), Namespaces: namespaces(), Processes: processes()}
}

func mounts() []string {
	raw, _ := os.ReadFile("/proc/self/mountinfo")
	var out []string
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			out = append(out, fields[4])
		}
	}
	slices.Sort(out)
	return out
}

func loops() []string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var out []string
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err == nil {
			out = append(out, strings.Split(file, "/")[3]+" "+strings.TrimSpace(string(raw)))
		}
	}
	return out
}

func namespaces() []string {
	files, _ := filepath.Glob("/run/netns/*")
	return files
}

func processes() []string {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []string
	for _, file := range files {
		raw, _ := os.ReadFile(file)
		command := strings.TrimSpace(strings.ReplaceAll(string(raw), "\x00", " "))
		program := filepath.Base(strings.SplitN(command, " ", 2)[0])
		for _, ours := range []string{"keyward-", "qemu-system", "postgres", "nbdkit", "chromium", "chrome"} {
			if strings.HasPrefix(program, ours) {
				out = append(out, strings.Split(file, "/")[2]+" "+command)
			}
		}
	}
	slices.Sort(out)
	return out
}
