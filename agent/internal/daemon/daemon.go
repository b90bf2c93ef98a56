// Package daemon is the running agent: it shows the machine to its broker, asks for keys, carries out what the broker
// wants, and gives every key up when its lease ends.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"keyward/agent/facts"
	"keyward/agent/identity"
	"keyward/agent/internal/attach"
	"keyward/agent/internal/attach/handover"
	"keyward/agent/internal/config"
	"keyward/agent/internal/control"
	"keyward/agent/internal/harden"
	"keyward/agent/internal/script"
	"keyward/agent/internal/unlock"
	"keyward/agent/provider"
	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/broker/client"
)

// stopWait bounds the graceful stop: teardown scripts, unmounting, the last reports.
const stopWait = 5 * time.Minute

// Options of a daemon. Only Config, Version and Logger are needed; tests set the rest.
type Options struct {
	Config  config.Config
	Version string
	Logger  *slog.Logger
	// Harden applies process-wide measures. Tests leave it nil, because they are one process with many daemons.
	Harden func() []harden.Measure
	// Boottime, Now, LeaseCheck, Backoff, DeviceCheck, CertificateCheck: the clocks and paces; zero values mean the real ones.
	Boottime    func() time.Duration
	Now         func() time.Time
	LeaseCheck  time.Duration
	Backoff     func(n int) time.Duration
	DeviceCheck time.Duration
	// CertificateCheck is how often the certificate's end is looked at.
	CertificateCheck time.Duration
	// Stopping says whether the whole machine is going down, at the agent's stop; nil asks systemd.
	Stopping func(ctx context.Context) bool
	// Ready is called when the agent serves: after it, stopping is graceful.
	Ready func()
}

// Daemon is one running agent.
type Daemon struct {
	o         Options
	cfg       config.Config
	log       *slog.Logger
	id        *identity.Identity                // as it was at the start
	current   atomic.Pointer[identity.Identity] // with the newest certificate
	broker    Broker
	link      *link
	outbox    *outbox
	courier   *courier
	provider  provider.Provider
	attestor  *attestor
	cloud     *cloud
	memory    *facts.Memory
	platform  *unlock.Platform
	hardening []harden.Measure
	started   time.Time
	thisRun   api.Run
	stop      context.CancelFunc // what OpStop and a signal have in common

	complete script.Script
	settled  chan struct{} // a volume changed its state
	listed   chan struct{} // the broker's list of devices came

	inventory sync.Mutex    // one publication at a time
	scanning  chan struct{} // holds a token while the provider looks at the devices

	mu        sync.Mutex
	volumes   map[string]*volume.Volume // by device ID
	found     map[string]found          // by identity
	assigned  []api.AssignedDevice
	jobs      []*job
	stopping  bool
	upgrading bool
	// confirming are the requests of which a revoke is being looked at.
	confirming map[string]bool
	// answering are the challenges of checks that are being answered.
	answering map[string]bool
}

// Run is the agent from start to stop. It returns nil after a graceful stop, when ctx has ended or a stop was asked for.
func Run(ctx context.Context, o Options) error {
	o = o.withDefaults()
	cfg, log := o.Config, o.Logger
	ctx, stop := context.WithCancel(ctx)
	defer stop()

	var hardening []harden.Measure
	if o.Harden != nil {
		hardening = o.Harden()
		for _, m := range hardening {
			log.Info("hardening", "measure", m.Name, "holds", m.Holds, "detail", m.Detail)
		}
	}

	former, err := handover.Receive()
	if err != nil {
		log.Error("the former program's volumes wait for new keys", "error", err)
	}
	defer former.Discard() // what is not taken over below

	machine, err := openProvider(cfg)
	if err != nil {
		return err
	}
	store, err := OpenStore(cfg, log)
	if err != nil {
		return err
	}
	id, err := identify(ctx, o, store, machine)
	if err != nil {
		return fmt.Errorf("load the machine's identity: %w", err)
	}
	door, err := control.Listen(cfg.ControlSocket(), log)
	if err != nil {
		return err
	}
	defer door.Close()

	attachments := filepath.Join(cfg.RuntimeDir, "volumes")
	leftovers, err := attach.Stale(ctx, attachments, log)
	if err != nil {
		log.Warn("an earlier agent left something that could not be cleaned up", "error", err)
	}
	agent, err := connect(cfg, id)
	if err != nil {
		return err
	}
	defer agent.Close()

	d := &Daemon{o: o, cfg: cfg, log: log, id: id, broker: agent, provider: machine, hardening: hardening, started: o.Now(), stop: stop,
		settled: make(chan struct{}, 1), listed: make(chan struct{}, 1), volumes: map[string]*volume.Volume{}, found: map[string]found{}, scanning: make(chan struct{}, 1), confirming: map[string]bool{}, answering: map[string]bool{}}
	d.current.Store(id)
	d.memory = facts.NewMemory(ctx, time.Duration(max(cfg.Facts.RefreshSeconds, 1))*time.Second)
	d.thisRun = newRun(cfg.StateDir, log)
	d.link = &link{now: o.Now, sooner: make(chan struct{}, 1), last: control.Broker{URL: brokerURL(cfg, id), Name: id.Broker}}
	if d.attestor, err = newAttestor(store, id, agent, log); err != nil {
		return err
	}
	d.cloud = newCloud(cfg, log, o.Now)
	d.outbox = newOutbox(agent, d.link, o.Backoff, log)
	d.courier = &courier{broker: agent, link: d.link, outbox: d.outbox, id: id, evidence: d.evidence, attestor: d.attestor, boottime: o.Boottime, now: o.Now, run: &d.thisRun,
		instead: func(deviceID string) { d.askFor(api.Command{Kind: api.CommandRequest, DeviceID: deviceID}) }}
	d.complete = script.Script{Name: "mount_complete", Path: cfg.Scripts.MountComplete, Timeout: 10 * time.Minute, Logger: log}
	d.platform = unlock.New(unlock.Options{AccountID: id.AccountID, RuntimeDir: attachments, Connections: cfg.Connections,
		Grace: time.Duration(cfg.UnmountGraceSeconds) * time.Second, Leftovers: leftovers, Logger: log, Disk: d.whereIs,
		Teardown: script.Script{Name: "teardown", Path: cfg.Scripts.Teardown,
			Timeout: time.Duration(cfg.Scripts.TimeoutSeconds) * time.Second, Logger: log}})

	d.takeOver(ctx, former)
	record := life{book: d.book(), stateDir: cfg.StateDir, version: o.Version, run: d.thisRun, now: o.Now, boottime: o.Boottime, log: log}
	record.start(former != nil)

	reports, endReports := context.WithCancel(context.WithoutCancel(ctx))
	var background, sending sync.WaitGroup
	sending.Go(func() { d.outbox.run(reports) })
	background.Go(func() { door.Serve(ctx, d) })
	background.Go(func() { d.inventoryLoop(ctx) })
	background.Go(func() { d.heartbeatLoop(ctx) })
	background.Go(func() { d.renewLoop(ctx, store, agent) })
	background.Go(func() { d.commandLoop(ctx) })
	background.Go(func() { d.completeLoop(ctx) })
	background.Go(func() { d.watchdog(ctx) })
	background.Go(func() { trim(ctx) })
	background.Go(func() { d.recoveryLoop(ctx) })
	notify("READY=1", "STATUS=serving volumes of account "+id.AccountName)
	log.Info("agent started", "instance", id.InstanceID, "account", id.AccountID, "broker", brokerURL(cfg, id), "identity_key", id.Grade)
	o.Ready()

	<-ctx.Done()
	notify("STOPPING=1", "STATUS=unmounting volumes")
	log.Info("agent is stopping")
	err = d.lockAll()
	door.Close() // ends Serve
	background.Wait()
	d.memory.Wait()
	last, cancel := context.WithTimeout(reports, 10*time.Second)
	record.stop(o.Stopping(last))
	if d.outbox.drain(last) != nil {
		log.Warn("stopping with reports unsent; the broker will know by the missing heartbeats")
	} else if d.link.status().Error != "" {
		log.Warn("the broker is away: the record of this stop is sent by the next start")
	} else if err := d.sendRecords(last); err != nil {
		log.Warn("the record of this stop is sent by the next start", "error", err)
	}
	cancel()
	endReports()
	sending.Wait()
	log.Info("agent stopped")
	return err
}

func (o Options) withDefaults() Options {
	if o.Boottime == nil {
		o.Boottime = boottime
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Backoff == nil {
		o.Backoff = volume.Backoff
	}
	if o.DeviceCheck == 0 {
		o.DeviceCheck = time.Minute
	}
	if o.CertificateCheck == 0 {
		o.CertificateCheck = time.Hour
	}
	if o.Stopping == nil {
		o.Stopping = goingDown
	}
	if o.Ready == nil {
		o.Ready = func() {}
	}
	return o
}

func brokerURL(cfg config.Config, id *identity.Identity) string {
	if cfg.Broker != "" {
		return cfg.Broker
	}
	return id.URL
}

func connect(cfg config.Config, id *identity.Identity) (*client.Agent, error) {
	o := client.AgentOptions{URL: brokerURL(cfg, id), CA: id.CA, Cert: id.Certificate}
	proxy, err := config.ParseProxy(cfg.Proxy)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	if proxy != nil {
		o.Proxy = http.ProxyURL(proxy)
	}
	agent, err := client.NewAgent(o)
	if err != nil {
		return nil, fmt.Errorf("prepare the link to the broker: %w", err)
	}
	return agent, nil
}

// lockAll gives every key up. The teardown script has its say at each volume.
func (d *Daemon) lockAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopWait)
	defer cancel()
	d.mu.Lock()
	d.stopping = true
	volumes := make([]*volume.Volume, 0, len(d.volumes))
	for _, v := range d.volumes {
		volumes = append(volumes, v)
	}
	jobs := d.jobs
	d.mu.Unlock()
	for _, j := range jobs {
		j.end()
	}
	errs := make([]error, len(volumes))
	var all sync.WaitGroup
	for i, v := range volumes {
		all.Go(func() {
			errs[i] = v.Stop(ctx, "the agent stops")
			if v.Snapshot().State == volume.Suspended { // it was busy; nobody will resume it any more
				errs[i] = v.Stop(ctx, "the agent stops")
			}
			errs[i] = errors.Join(errs[i], v.Close(ctx, "the agent stops"))
		})
	}
	all.Wait()
	d.platform.Drop(ctx)
	return errors.Join(errs...)
}
