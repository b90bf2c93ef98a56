package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/gofiber/fiber/v2"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/httpapi"
)

// stopWithin is how long running requests have when the broker stops.
const stopWithin = 10 * time.Second

// Run runs a broker until ctx ends, then stops it in order.
func Run(ctx context.Context, c Config) error {
	b, err := New(ctx, c)
	if err != nil {
		return err
	}
	return errors.Join(b.Serve(ctx), b.Close())
}

// Serve listens and works until ctx ends or a listener fails.
func (b *Broker) Serve(ctx context.Context) error {
	log := b.config.Logger
	people, err := listen(b.config.PeopleListen)
	if err != nil {
		return fmt.Errorf("listening for people: %w", err)
	}
	agents, err := listen(b.config.AgentListen)
	if err != nil {
		people.Close()
		return fmt.Errorf("listening for agents: %w", err)
	}
	if err := b.Audit.RecordAll(ctx, b.lifeEvent("server.started")); err != nil {
		people.Close()
		agents.Close()
		return fmt.Errorf("recording the start: %w", err)
	}
	if err := b.keys.Hold(ctx); err != nil {
		people.Close()
		agents.Close()
		return err
	}
	ended := make(chan error, 3)
	serve := func(app *fiber.App, ln net.Listener) { ended <- app.Listener(ln) }
	go serve(b.people, httpapi.Secure(people, b.peopleTLS, b.config.Clock))
	go serve(b.agents, httpapi.Secure(agents, b.agentsTLS, b.config.Clock))
	stopMetrics, err := b.serveMetrics(ended)
	if err != nil {
		return errors.Join(err, b.stop(func() {}))
	}
	working, stopWorking := context.WithCancel(context.WithoutCancel(ctx))
	loops := b.loops(working)
	log.Info("the broker is ready", "people", "https://"+reachable(people.Addr().String()), "agents", b.config.ServiceURL, "version", b.config.Version)
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)

	var failed error
	select {
	case <-ctx.Done():
		log.Info("the broker stops")
	case failed = <-ended:
		failed = fmt.Errorf("a listener failed: %w", failed)
	}
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	stopMetrics()
	return errors.Join(failed, b.stop(func() {
		stopWorking()
		loops.Wait()
	}))
}

// stop ends requests first, then the background work, and signs the logs last.
func (b *Broker) stop(work func()) error {
	b.endRequests()
	var errs []error
	for _, app := range []*fiber.App{b.people, b.agents} {
		if err := app.ShutdownWithTimeout(stopWithin); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			errs = append(errs, fmt.Errorf("ending requests: %w", err))
		}
	}
	work()
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	if err := b.keys.Leave(ctx); err != nil {
		errs = append(errs, fmt.Errorf("leaving the list of brokers: %w", err))
	}
	if err := b.Audit.RecordAll(ctx, b.lifeEvent("server.stopped")); err != nil {
		errs = append(errs, fmt.Errorf("recording the stop: %w", err))
	}
	if err := b.Audit.Checkpoint(ctx, 1); err != nil {
		errs = append(errs, fmt.Errorf("signing the audit logs: %w", err))
	}
	return errors.Join(errs...)
}

func (b *Broker) lifeEvent(event string) audit.Entry {
	return audit.Entry{Category: audit.Server, Event: event, Actor: "broker", Detail: map[string]string{"version": b.config.Version}}
}

func listen(address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w; choose a free address of this machine", err)
	}
	return ln, nil
}

// serveMetrics serves /metrics on an address of its own, over plain HTTP and without log-on: it tells of the whole
// broker, not of one tenant, so it does not belong on the listener that people of all tenants reach.
func (b *Broker) serveMetrics(ended chan<- error) (stop func(), err error) {
	if b.config.MetricsListen == "" {
		return func() {}, nil
	}
	ln, err := listen(b.config.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	if a, ok := ln.Addr().(*net.TCPAddr); ok && !a.IP.IsLoopback() {
		b.config.Logger.Warn("metrics are served to other machines without log-on; put a firewall in front", "address", a.String())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(b.metrics.registry, promhttp.HandlerOpts{}))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	go func() {
		if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			ended <- err
		}
	}()
	return func() { s.Close() }, nil
}
