package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/internal/account"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/challenge"
	"keyward/broker/internal/console"
	"keyward/broker/internal/dsm"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/httpapi"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/job"
	"keyward/broker/internal/keyexport"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/keyring"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/preview"
	"keyward/broker/internal/recovery"
	"keyward/broker/internal/rootkey"
	"keyward/broker/internal/store"
	"keyward/rbac"
)

// Broker is one running broker.
type Broker struct {
	config   Config
	identity Identity
	store    *store.Store
	metrics  *metrics
	lock     *dataLock
	roots    *keystore.Ring
	keys     *keyring.Service

	Accounts  *httpapi.Accounts
	Audit     *audit.Service
	Inventory *inventory.Service
	Policies  *policyset.Service
	Previews  *preview.Service
	Requests  *keyrequest.Service
	Recovery  *recovery.Service
	Exports   *keyexport.Service
	Jobs      *job.Service
	Feed      *feed.Hub
	DSM       *dsm.Service

	people, agents             *fiber.App
	peopleRouter, agentsRouter *httpapi.Router
	peopleTLS, agentsTLS       *tls.Config
	// requests is the parent of every request's context; endRequests ends long polls and streams.
	requests    context.Context
	endRequests context.CancelFunc
}

// New opens everything that a broker needs and listens nowhere yet. Close it, or Serve it to its end.
func New(ctx context.Context, c Config) (*Broker, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	b := &Broker{config: c, metrics: newMetrics(c.Version)}
	b.requests, b.endRequests = context.WithCancel(context.Background())
	if err := b.open(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// open is the start-up order.
func (b *Broker) open(ctx context.Context) error {
	c := b.config
	var err error
	if b.roots, err = openRoots(c, false); err != nil {
		return err
	}
	if b.identity, err = openIdentity(c.Data, b.roots, c.Clock); err != nil {
		return err
	}
	if b.lock, err = lockData(c); err != nil {
		return err
	}
	if b.store, err = store.Open(ctx, store.Options{DSN: c.DSN, Clock: c.Clock, Logger: c.Logger}); err != nil {
		return err
	}
	b.keys = keyring.New(b.store, b.roots)
	if err := b.keys.Settle(ctx); err != nil {
		return err
	}
	if err := rewrapIdentity(c.Data, b.roots, false); err != nil {
		return err
	}
	b.metrics.watchRoots(b.roots, c.Clock)
	if b.Audit, err = newAudit(c, b.identity, b.store); err != nil {
		return err
	}
	if err := b.services(); err != nil {
		return err
	}
	if err := b.apps(); err != nil {
		return err
	}
	return b.certificates()
}

func (b *Broker) services() error {
	c, id := b.config, b.identity
	roots, err := tpmRoots(c.TPMRoots)
	if err != nil {
		return err
	}
	signers, err := clouds(c.EC2Certificates)
	if err != nil {
		return err
	}
	b.Feed = &feed.Hub{}
	b.Policies = policyset.New(b.store, b.Feed)
	b.Previews = preview.New(b.store)
	b.Accounts = httpapi.LimitLogOn(newAccounts(c, id, b.store), c.Clock)
	b.Inventory = inventory.New(inventory.Deps{Store: b.store, Feed: b.Feed, Root: id.Root, Issuer: id.CA, AgentURL: c.ServiceURL,
		TPMRoots: roots, CertLife: time.Duration(c.MachineCertDays) * 24 * time.Hour, Clock: c.Clock, Logger: c.Logger})
	challenges := challenge.New(id.Audit.Seed())
	b.Jobs = job.New(job.Deps{Store: b.store, Feed: b.Feed, Root: id.Root, AgentURL: c.ServiceURL, Logger: c.Logger, Challenges: challenges})
	b.Recovery = recovery.New(recovery.Deps{Store: b.store, Feed: b.Feed, Root: id.Root, AgentURL: c.ServiceURL, Logger: c.Logger})
	b.Exports = keyexport.New(keyexport.Deps{Store: b.store, Feed: b.Feed, Root: id.Root, Recovery: b.Recovery})
	b.DSM = dsm.New(dsm.Deps{Store: b.store, Root: id.Root, Clock: c.Clock, Logger: c.Logger})
	b.Requests = keyrequest.New(keyrequest.Deps{Managers: b.DSM, Store: b.store, Feed: b.Feed, Root: id.Root, Jobs: b.Jobs, Logger: c.Logger,
		Challenges: challenges, Clouds: signers, Waiting: b.Exports, Observer: b.metrics})
	return nil
}

// newAccounts makes the account service; commands use it without the rest of a broker.
func newAccounts(c Config, id Identity, st *store.Store) *account.Service {
	d := account.Deps{Store: st, Root: id.Root, ServiceURL: c.ServiceURL, MaxPassword: c.PasswordMax, Clock: c.Clock, Logger: c.Logger,
		OnCreate: []func(*store.Tenant) error{func(t *store.Tenant) error { _, err := policyset.Default(t); return err }}}
	if id.CA != nil {
		d.CAPin = id.CA.Pin()
	}
	return account.New(d)
}

func (b *Broker) apps() error {
	c := b.config
	roles, err := rbac.New()
	if err != nil {
		return err
	}
	// Streams of live rows have no end, so answers to people have no time limit; a peer that is gone is found by TCP.
	b.people = httpapi.NewApp(httpapi.AppOptions{Name: "keyward people", Base: b.requests, TrustedProxies: c.TrustedProxies, Logger: c.Logger, Observe: b.metrics.observe("people")})
	b.agents = httpapi.NewApp(httpapi.AppOptions{Name: "keyward agents", Base: b.requests, WriteTimeout: 30 * time.Second, Patient: true, Logger: c.Logger, Observe: b.metrics.observe("agents")})

	desk := job.Desk{Service: b.Inventory, Jobs: b.Jobs}
	b.peopleRouter = httpapi.NewRouter(b.people, "/api/v1", "Keyward broker: people's interface", c.Version, &httpapi.PeopleGate{Sessions: b.Accounts, Roles: roles}, c.Logger)
	httpapi.RegisterAccount(b.peopleRouter, b.Accounts, b.Audit)
	httpapi.RegisterPeople(b.peopleRouter, httpapi.PeopleDeps{DeepSecurity: b.DSM, Inventory: desk, Policies: b.Policies, Previews: b.Previews, Requests: b.Requests, Feed: b.Feed, Sessions: b.Accounts, Roles: roles})
	b.agentsRouter = httpapi.NewRouter(b.agents, "/agent/v1", "Keyward broker: agents' interface", c.Version, &httpapi.MachineGate{Store: b.store, Clock: c.Clock}, c.Logger)
	httpapi.RegisterAgents(b.agentsRouter, httpapi.AgentDeps{Inventory: b.Inventory, Requests: b.Requests, Jobs: b.Jobs, Clock: c.Clock})
	httpapi.RegisterRecovery(b.peopleRouter, b.agentsRouter, b.Recovery)
	httpapi.RegisterExports(b.peopleRouter, b.Exports)

	for _, app := range []*fiber.App{b.people, b.agents} {
		app.Get("/healthz", func(c *fiber.Ctx) error { return c.JSON(fiber.Map{"status": "alive"}) })
		app.Get("/readyz", b.ready)
		app.Server().Logger = quietLogger{c.Logger}
	}
	b.people.Get("/ca.pem", func(f *fiber.Ctx) error {
		f.Set(fiber.HeaderContentType, "application/x-pem-file")
		return f.Send(b.identity.CA.CACert())
	})
	console.Mount(b.people, console.Deps{DeepSecurity: b.DSM, Accounts: b.Accounts, Inventory: desk, Policies: b.Policies, Previews: b.Previews, Requests: b.Requests, Audit: b.Audit, Exports: b.Exports, Recovery: b.Recovery,
		Feed: b.Feed, Access: roles, Clock: c.Clock, Logger: c.Logger})
	return nil
}

func (b *Broker) ready(c *fiber.Ctx) error {
	if b.requests.Err() != nil {
		return c.Status(http.StatusServiceUnavailable).JSON(fiber.Map{"status": "stopping"})
	}
	if err := b.store.Ping(c.UserContext()); err != nil {
		b.config.Logger.Error("not ready", "error", err)
		return c.Status(http.StatusServiceUnavailable).JSON(fiber.Map{"status": "the database does not answer"})
	}
	// Without its root key the broker goes on with the account keys that it has opened, so it stays ready until their time is
	// over: every broker on the database would be taken away at once otherwise.
	for _, h := range rootkey.Remotes(b.roots) {
		s := h.Status()
		if s.Err == nil {
			continue
		}
		if !b.config.Clock().Before(s.Until) {
			return c.Status(http.StatusServiceUnavailable).JSON(fiber.Map{"status": "the root key does not answer"})
		}
		return c.JSON(fiber.Map{"status": "ready", "root_key": "does not answer since " + s.AnsweredAt.UTC().Format(time.RFC3339),
			"keys_kept_until": s.Until.UTC().Format(time.RFC3339)})
	}
	return c.JSON(fiber.Map{"status": "ready"})
}

// PeopleApp serves people: console and /api/v1.
func (b *Broker) PeopleApp() *fiber.App { return b.people }

// AgentApp serves machines: /agent/v1.
func (b *Broker) AgentApp() *fiber.App { return b.agents }

// PeopleRoutes and AgentRoutes are the declared routes of both interfaces.
func (b *Broker) PeopleRoutes() []httpapi.Route { return b.peopleRouter.Routes() }

// AgentRoutes are the routes of the agents' interface.
func (b *Broker) AgentRoutes() []httpapi.Route { return b.agentsRouter.Routes() }

// Store is the broker's database.
func (b *Broker) Store() *store.Store { return b.store }

// CACert is the PEM certificate of the broker's CA.
func (b *Broker) CACert() []byte { return b.identity.CA.CACert() }

// Close releases everything. It may be called more than once.
func (b *Broker) Close() error {
	b.endRequests()
	var err error
	if b.store != nil {
		err = b.store.Close()
		b.store = nil
	}
	if b.lock != nil {
		err = errors.Join(err, b.lock.release())
		b.lock = nil
	}
	if b.roots != nil {
		err = errors.Join(err, rootkey.Close(b.roots))
		b.roots = nil
	}
	if err != nil {
		return fmt.Errorf("closing the broker: %w", err)
	}
	return nil
}
