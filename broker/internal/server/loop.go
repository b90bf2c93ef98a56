package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"keyward/broker/internal/keyring"
	"keyward/broker/internal/rootkey"
)

// How often the broker looks at what time has brought.
const (
	timersEvery = time.Second
	cleanEvery  = 5 * time.Minute
	signEvery   = time.Minute
	// exportsEvery is how soon an export that nobody fetched is closed; it is refused from its time on.
	exportsEvery = time.Minute
	hourly       = time.Hour
	watchEvery   = 2 * time.Second
	// analyzeEvery is how soon a database knows that tables have grown (store.Analyze).
	analyzeEvery = 2 * time.Second
	// managersEvery is how soon a changed connection counts; managers are asked less often.
	managersEvery = 5 * time.Second
	// signAfter is how many new records of a log are signed without waiting for the hour.
	signAfter = 256
)

// loops runs the background work until ctx ends.
func (b *Broker) loops(ctx context.Context) *sync.WaitGroup {
	var wg sync.WaitGroup
	every := func(interval time.Duration, name string, work func(context.Context) error) {
		wg.Go(func() { b.repeat(ctx, interval, name, work) })
	}
	every(timersEvery, "key request timers", b.Requests.Tick)
	if os.Getenv("GOGC") == "" {
		every(time.Second, "size of the heap", collect)
	}
	every(timersEvery, "job timers", b.Jobs.Tick)
	every(exportsEvery, "export timers", b.Exports.Tick)
	every(managersEvery, "questions to Deep Security Managers", b.DSM.Tick)
	every(cleanEvery, "clean-up of nonces and answers", b.Requests.Clean)
	every(cleanEvery, "clean-up of sessions", b.Accounts.Sweep)
	every(signEvery, "signing of long logs", func(ctx context.Context) error { return b.Audit.Checkpoint(ctx, signAfter) })
	every(hourly, "hourly signing of logs", func(ctx context.Context) error { return b.Audit.Checkpoint(ctx, 1) })
	every(keyring.HoldEvery, "root key", b.tendRoots)
	if !strings.HasPrefix(b.config.DSN, "sqlite:") {
		every(analyzeEvery, "statistics of tables that have grown", b.store.Analyze)
		wg.Go(func() { b.Feed.Watch(ctx, watchEvery, b.Audit.Head) })
	}
	if interval, err := daemon.SdWatchdogEnabled(false); err == nil && interval > 0 {
		every(interval/2, "sign of life for systemd", func(context.Context) error {
			_, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			return err
		})
	}
	return &wg
}

// tendRoots asks root keys in other places for a sign of life, tells the other brokers which ones this one has, and follows
// a rotation.
func (b *Broker) tendRoots(ctx context.Context) error {
	before := b.roots.ID()
	err := errors.Join(rootkey.Check(b.roots), b.keys.Hold(ctx))
	if b.roots.ID() != before {
		b.config.Logger.Info("another root key wraps now", "before", before, "now", b.roots.ID(), "provider", b.roots.Provider())
		err = errors.Join(err, rewrapIdentity(b.config.Data, b.roots, false))
	}
	return err
}

// repeat does work every interval. A failure is logged when it is new and once a minute while it lasts, and when it is
// over.
func (b *Broker) repeat(ctx context.Context, interval time.Duration, name string, work func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var said time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := guarded(ctx, work)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			b.metrics.work.WithLabelValues(name).Inc()
			if time.Since(said) >= time.Minute {
				said = time.Now()
				b.config.Logger.Error("background work failed; it is tried again", "work", name, "error", err)
			}
		case !said.IsZero():
			said = time.Time{}
			b.config.Logger.Info("background work goes on", "work", name)
		}
	}
}

// guarded turns a panic into an error: one tenant's odd row must not stop the timers of all others for ever.
func guarded(ctx context.Context, work func(context.Context) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	return work(ctx)
}

func formatted(format string, args ...any) string { return fmt.Sprintf(format, args...) }
