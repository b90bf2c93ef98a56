package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"keyward/agent/internal/logbook"
	"keyward/broker/api"
)

func machineKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// told are the events in a log, each with how the former run ended.
func told(t *testing.T, book *logbook.Book) []string {
	t.Helper()
	records, _, err := book.Unsent(100)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range records {
		var e api.OfflineEntry
		if err := json.Unmarshal(r.Payload, &e); err != nil {
			t.Fatal(err)
		}
		line := string(e.Event)
		if how := e.Detail["former_end"]; how != "" {
			line += ": " + how
		}
		out = append(out, line)
	}
	return out
}

func TestLife_everyStartAndStopIsRecordedAndAMissingEndIsTold(t *testing.T) {
	t.Parallel()
	type run struct {
		boot              string
		upgraded, stopped bool
		down              bool
	}
	for name, c := range map[string]struct {
		runs []run
		want []string
	}{
		"one run": {[]run{{boot: "a", stopped: true}}, []string{"machine-booted", "agent-started", "agent-stopped"}},
		"a restart within a boot": {[]run{{boot: "a", stopped: true}, {boot: "a"}},
			[]string{"machine-booted", "agent-started", "agent-stopped", "agent-started: stopped in order"}},
		"a killed agent":    {[]run{{boot: "a"}, {boot: "a"}}, []string{"machine-booted", "agent-started", "agent-started: ended without a word"}},
		"an upgraded agent": {[]run{{boot: "a"}, {boot: "a", upgraded: true}}, []string{"machine-booted", "agent-started", "agent-started: went on as another program"}},
		"a machine that shuts down and boots": {[]run{{boot: "a", stopped: true, down: true}, {boot: "b"}},
			[]string{"machine-booted", "agent-started", "machine-stopping", "agent-stopped", "machine-booted: shut down in order", "agent-started: went down with its machine, in order"}},
		"a machine that loses its power": {[]run{{boot: "a"}, {boot: "b"}},
			[]string{"machine-booted", "agent-started", "machine-booted: ended without a word", "agent-started: ended without a word"}},
		"an agent that was stopped before the machine went down": {[]run{{boot: "a", stopped: true}, {boot: "b"}},
			[]string{"machine-booted", "agent-started", "agent-stopped", "machine-booted: ended without a word", "agent-started: stopped in order"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			book := logbook.New(dir, "account", "instance", machineKey(t))
			for i, r := range c.runs {
				l := life{book: book, stateDir: dir, version: "1.2.3", run: api.Run{ID: fmt.Sprint("run-", i), BootID: r.boot, Generation: int64(i + 1)},
					now: time.Now, boottime: func() time.Duration { return time.Minute }, log: slog.New(slog.DiscardHandler)}
				l.start(r.upgraded)
				if r.stopped {
					l.stop(r.down)
				}
			}
			if got := told(t, book); !slices.Equal(got, c.want) {
				t.Errorf("recorded %q, want %q", got, c.want)
			}
		})
	}
}

func TestLife_aDamagedFileIsWrittenAnew(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, lifeFile)
	if err := os.WriteFile(path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := life{book: logbook.New(dir, "account", "instance", machineKey(t)), stateDir: dir, run: api.Run{ID: "run", BootID: "boot"}, now: time.Now,
		boottime: func() time.Duration { return 0 }, log: slog.New(slog.DiscardHandler)}
	l.start(false)
	if got, want := told(t, l.book), []string{"machine-booted", "agent-started"}; !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
	if former, err := l.former(); err != nil || former.RunID != "run" {
		t.Errorf("the file holds %+v, %v", former, err)
	}
}

// A machine that stops while its broker is away tells of it at its next start, with the time at which it happened.
func TestDaemon_tellsOfStartsAndStopsAlsoThoseThatNobodyHeard(t *testing.T) {
	r := newRig(t)
	down := false
	r.o.Stopping = func(context.Context) bool { return down }
	r.image("data.img", imageSize)
	r.enrol()
	r.start()
	r.broker.OfflineRecords("the boot and the start", func(events []string) bool {
		return slices.Equal(events, []string{"machine-booted", "agent-started"})
	})
	r.broker.Stop()
	down = true
	r.stop()
	r.broker.Start()
	r.start()
	r.broker.OfflineRecords("the stop that nobody heard and the next start", func(events []string) bool {
		return slices.Equal(events, []string{"machine-booted", "agent-started", "machine-stopping", "agent-stopped", "agent-started"})
	})
	down = false
	r.stop()
	r.broker.OfflineRecords("the stop, before the agent is gone", func(events []string) bool {
		return len(events) == 6 && events[5] == "agent-stopped"
	})
}
