package facts

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"keyward/broker/api"
)

// Values of api.FactSecurityState and api.FactAVRealTime.
const (
	running  = "running"
	impaired = "impaired" // works, but says of itself that something is wrong, or has lost its manager
	stopped  = "stopped"
	on, off  = "on", "off"
)

// product is a security product that can be recognised and asked.
type product struct {
	name      string
	installed func(Sources) bool
	// examine asks it. It reports what could not be found out as well, with the reason.
	examine func(context.Context, Sources) report
}

// report is what a product says. What it has no notion of stays empty.
type report struct {
	source string
	// err says why the product gave no answer; then it counts as stopped, and everything else is missing.
	err                                       error
	version, state, engine, pattern, realTime string
	patternDate                               time.Time
	// scanner says that the product looks for viruses: engine, pattern, its date and real time are facts, known or not.
	scanner bool
}

var products = []product{clamAV, defender, deepSecurity, serverProtect, wazuh, ossec}

// softwareFacts are the set of products, and what each that is installed says of itself.
func softwareFacts(ctx context.Context, s Sources) []api.Fact {
	names := []string{}
	var present []product
	for _, p := range products {
		if p.installed(s) {
			names, present = append(names, p.name), append(present, p)
		}
	}
	reports := make([]report, len(present))
	var asking sync.WaitGroup
	for i, p := range present {
		asking.Go(func() { reports[i] = p.examine(ctx, s) })
	}
	asking.Wait()
	out := []api.Fact{s.fact(ctx, api.FactSecuritySoftware, "", "installed programs", names, nil)}
	for i, p := range present {
		out = append(out, reports[i].facts(ctx, s, p.name)...)
	}
	return out
}

var errNotTold = errors.New("the product does not tell")

func (r report) facts(ctx context.Context, s Sources, product string) []api.Fact {
	add := func(out []api.Fact, name api.FactName, value string) []api.Fact {
		values, err := scalar(value, errNotTold)
		if value == "" && r.err != nil {
			err = r.err
		}
		return append(out, s.fact(ctx, name, product, r.source, values, err))
	}
	if r.err != nil && r.state == "" {
		r.state = stopped
	}
	out := add(nil, api.FactSecurityVersion, r.version)
	out = add(out, api.FactSecurityState, r.state)
	if !r.scanner {
		return out
	}
	out = add(out, api.FactAVEngine, r.engine)
	out = add(out, api.FactAVPattern, r.pattern)
	date := ""
	if !r.patternDate.IsZero() {
		date = r.patternDate.UTC().Format(time.RFC3339)
	}
	out = add(out, api.FactAVPatternDate, date)
	return add(out, api.FactAVRealTime, r.realTime)
}

// anyFile says whether one of some files exists.
func (s Sources) anyFile(paths ...string) bool {
	for _, p := range paths {
		if _, err := os.Stat(s.path(p)); err == nil {
			return true
		}
	}
	return false
}

// process says whether a process runs whose name, as the kernel has it (15 bytes at most), is one of these.
func (s Sources) process(names ...string) bool {
	tasks, err := filepath.Glob(s.path("proc/[0-9]*/comm"))
	if err != nil {
		return false
	}
	for _, path := range tasks {
		text, err := read(path)
		for _, name := range names {
			if err == nil && strings.TrimSuffix(text, "\n") == name[:min(len(name), 15)] {
				return true
			}
		}
	}
	return false
}

// alive says whether the process of a file NAME-PID.pid exists, and bears the name.
func (s Sources) alive(folder, name string) bool {
	files, err := filepath.Glob(s.path(folder, name+"-*.pid"))
	if err != nil {
		return false
	}
	for _, f := range files {
		pid := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), name+"-"), ".pid")
		if _, err := strconv.ParseUint(pid, 10, 31); err != nil {
			continue
		}
		comm, err := read(s.path("proc", pid, "comm"))
		if err == nil && strings.TrimSuffix(comm, "\n") == name[:min(len(name), 15)] {
			return true
		}
	}
	return false
}
