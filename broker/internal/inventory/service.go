// Package inventory keeps what an account has: images, enrolled machines, devices and RAID sets, and the states that
// devices go through. The states change only through the table of machine.go.
package inventory

import (
	"crypto/x509"
	"log/slog"
	"sync"
	"time"

	"keyward/broker/internal/feed"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// Issuer signs client certificates for machines.
type Issuer interface {
	// IssueClient signs the key of a PEM certificate request for an instance of an account and returns PEM.
	IssueClient(csr []byte, instanceID, accountID string, life time.Duration) ([]byte, error)
	// CACert is the PEM chain that both sides trust.
	CACert() []byte
}

// Deps is what the service works with.
type Deps struct {
	Store  *store.Store
	Feed   *feed.Hub
	Root   keystore.Root
	Issuer Issuer
	// AgentURL is the agents' interface as machines reach it; it names the broker in enrolments and volume records.
	AgentURL string
	// TPMRoots are the makers' roots that endorsement certificates must lead to. Without any, the first endorsement key of
	// a machine is pinned.
	TPMRoots *x509.CertPool
	// CertLife is how long a client certificate is valid; 0 means a year.
	CertLife time.Duration
	Clock    func() time.Time
	Logger   *slog.Logger
}

// Service reads and changes the inventory.
type Service struct {
	Deps
	refused throttle
}

// New makes the service.
func New(d Deps) *Service {
	if d.CertLife == 0 {
		d.CertLife = 365 * 24 * time.Hour
	}
	if d.Clock == nil {
		d.Clock = time.Now
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	return &Service{Deps: d, refused: throttle{last: map[string]time.Time{}}}
}

// throttle lets one event a minute through per name, so that strangers cannot fill an account's log.
type throttle struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (r *throttle) allow(name string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, at := range r.last {
		if now.Sub(at) >= time.Minute {
			delete(r.last, n)
		}
	}
	if _, recent := r.last[name]; recent || len(name) > 64 || len(r.last) >= 10000 {
		return false
	}
	r.last[name] = now
	return true
}
