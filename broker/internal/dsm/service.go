package dsm

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// Deps is what the service works with.
type Deps struct {
	Store  *store.Store
	Root   keystore.Root
	Clock  func() time.Time
	Logger *slog.Logger
	// AllowLoopback lets a manager be on this machine, which only tests want.
	AllowLoopback bool
}

// Service keeps a watch for every account that has enabled its connection.
type Service struct {
	Deps
	mu      sync.Mutex
	watches map[string]*watched // by account
	// disabled are the accounts that have switched their connection off.
	disabled map[string]bool
}

type watched struct {
	*Watch
	version int64
}

// New makes the service. Tick keeps it going.
func New(d Deps) *Service {
	if d.Clock == nil {
		d.Clock = time.Now
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	return &Service{Deps: d, watches: map[string]*watched{}}
}

// manyAtOnce bounds how many managers are asked at the same time.
const manyAtOnce = 8

// Tick follows the settings of all accounts and asks the managers whose time has come.
func (s *Service) Tick(ctx context.Context) error {
	if err := s.follow(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	due := make(map[string]*Watch, len(s.watches))
	for account, w := range s.watches {
		due[account] = w.Watch
	}
	s.mu.Unlock()
	slots := make(chan struct{}, manyAtOnce)
	var wg sync.WaitGroup
	for account, w := range due {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := w.Refresh(ctx); err != nil {
				s.Logger.Warn("a Deep Security Manager does not answer; rules that need it fail when what it said is too old", "account", account, "error", err)
			}
		})
	}
	wg.Wait()
	return nil
}

// follow makes the watches those of the settings.
func (s *Service) follow(ctx context.Context) error {
	type connection struct {
		row    store.DeepSecuritySettings
		secret string
	}
	wanted, disabled := map[string]connection{}, map[string]bool{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.DeepSecurityConnections()
		if err != nil {
			return err
		}
		for _, row := range rows {
			if !row.Enabled {
				disabled[row.AccountID] = true
				continue
			}
			c := connection{row: row}
			if !s.current(row.AccountID, row.Version) {
				if c.secret, err = s.secret(tx.Tenant(row.AccountID), row); err != nil {
					s.Logger.Error("the API key of a Deep Security Manager cannot be opened", "account", row.AccountID, "error", err)
					continue
				}
			}
			wanted[row.AccountID] = c
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the Deep Security settings: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disabled = disabled
	for account, w := range s.watches {
		if c, ok := wanted[account]; !ok || c.row.Version != w.version {
			w.Close()
			delete(s.watches, account)
		}
	}
	for account, c := range wanted {
		if s.watches[account] != nil {
			continue
		}
		client, err := s.client(c.row.Server, c.row.Port, c.secret, c.row.Authority)
		if err != nil {
			s.Logger.Error("a Deep Security Manager cannot be asked", "account", account, "error", err)
			continue
		}
		s.watches[account] = &watched{Watch: NewWatch(client, s.Clock), version: c.row.Version}
	}
	return nil
}

func (s *Service) current(account string, version int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watches[account]
	return w != nil && w.version == version
}

// Confirmed is what the manager of a machine's account says of it. unused are all its facts, with the reason, after a person has
// disabled the connection (G-12). Without a connection there are no facts, and rules on them fail.
func (s *Service) Confirmed(inst store.Instance, e api.Evidence, address string) (facts []api.Fact, unused map[api.FactName]string) {
	s.mu.Lock()
	w, off := s.watches[inst.AccountID], s.disabled[inst.AccountID]
	s.mu.Unlock()
	switch {
	case w != nil:
		return w.Facts(inst.ID, machineOf(inst, e, address)), nil
	case off:
		unused = map[api.FactName]string{}
		for _, name := range Names() {
			unused[name] = "the connection to the Deep Security Manager is disabled"
		}
	}
	return nil, unused
}

// machineOf is what a machine is looked for by. Of its cloud's instance ID only a verified one counts.
func machineOf(inst store.Instance, e api.Evidence, address string) Machine {
	m := Machine{HostName: inst.HostName, Address: address}
	value := func(facts []api.Fact, name api.FactName) string {
		for _, f := range facts {
			if f.Name == name && f.Missing == "" && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
		return ""
	}
	m.InstanceID = value(e.Verified, api.FactCloudInstance)
	m.UUID = value(e.Facts, api.FactHardwareUUID)
	return m
}

// describe adds how the connection stands.
func (s *Service) describe(account string, out *api.DeepSecuritySettings) {
	s.mu.Lock()
	w := s.watches[account]
	s.mu.Unlock()
	if w == nil {
		return
	}
	state := w.State()
	out.Computers = state.Computers
	if !state.At.IsZero() {
		at := state.At.UTC()
		out.AnsweredAt = &at
	}
	if state.Err != nil {
		out.Problem = sentence(state.Err.Error())
	}
}

// client makes a client that keeps away from addresses that no manager has but something of this machine's may.
func (s *Service) client(server string, port int, secret, authority string) (*Client, error) {
	c, err := NewClient(server, port, secret, authority)
	if err != nil {
		return nil, err
	}
	d := &net.Dialer{Timeout: 10 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		ip := ap.Addr().Unmap()
		if ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || ip.IsLoopback() && !s.AllowLoopback {
			return fmt.Errorf("%s is not an address at which a manager may be", ip)
		}
		return nil
	}}
	c.dial(d)
	return c, nil
}

func isPEM(text string) bool { return x509.NewCertPool().AppendCertsFromPEM([]byte(text)) }
