package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"keyward/agent/identity"
	"keyward/agent/identity/tpm"
	"keyward/agent/internal/config"
	"keyward/agent/provider/imds"
	"keyward/broker/api"
	"keyward/broker/client"
)

// OpenStore is the machine's identity with its TPM, where the configuration wants it and there is one.
func OpenStore(cfg config.Config, log *slog.Logger) (*identity.Store, error) {
	s := identity.NewStore(cfg.StateDir)
	if cfg.TPM == config.TPMOff {
		return s, nil
	}
	device, err := tpm.Open(cfg.TPMDevice)
	if err != nil {
		if cfg.TPM == config.TPMRequire {
			return nil, fmt.Errorf("tpm: require is set: %w", err)
		}
		if log != nil {
			log.Info("no TPM is used", "reason", err)
		}
		return s, nil
	}
	return s.WithTPM(device, cfg.TPM == config.TPMRequire), nil
}

// attestor answers challenges with quotes of the TPM, once the broker knows it. The zero value has no TPM.
type attestor struct {
	device *tpm.Device
	keys   tpm.Keys
	id     *identity.Identity
	broker *client.Agent
	log    *slog.Logger

	mu         sync.Mutex
	registered bool
	refused    bool // by the broker: it is not asked again before the next start
}

func newAttestor(store *identity.Store, id *identity.Identity, broker *client.Agent, log *slog.Logger) (*attestor, error) {
	device, keys, err := store.TPM()
	if err != nil {
		return nil, err
	}
	return &attestor{device: device, keys: keys, id: id, broker: broker, log: log}, nil
}

// quote is the TPM's word for one nonce and request key; nil where there is none, and rules on it fail.
func (a *attestor) quote(ctx context.Context, purpose, nonce string, publicKey []byte) *api.TPMEvidence {
	if a == nil || a.device == nil || !a.known(ctx) {
		return nil
	}
	q, err := a.device.Quote(a.keys, api.QuoteBinding{Purpose: purpose, AccountID: a.id.AccountID, InstanceID: a.id.InstanceID, Nonce: nonce, PublicKey: publicKey})
	if err != nil {
		a.log.Warn("the TPM gave no quote", "error", err)
		return nil
	}
	return q
}

// known registers the TPM at its first use.
func (a *attestor) known(ctx context.Context) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.registered || a.refused {
		return a.registered
	}
	info, err := register(ctx, a.device, a.keys, a.broker)
	if err != nil {
		a.refused = final(err)
		a.log.Warn("the TPM is not registered with the broker; rules on it fail", "error", err)
		return false
	}
	a.registered = true
	a.log.Info("the TPM is registered", "endorsement_key", info.EndorsementSHA256, "maker", info.Maker, "holds_key", info.HoldsKey)
	return true
}

// register shows the TPM to the broker and reads the secret that comes back.
func register(ctx context.Context, device *tpm.Device, keys tpm.Keys, broker *client.Agent) (api.TPMInfo, error) {
	in, err := device.Register(keys)
	if err != nil {
		return api.TPMInfo{}, err
	}
	challenge, err := broker.RegisterTPM(ctx, in)
	if err != nil {
		return api.TPMInfo{}, fmt.Errorf("register the TPM: %w", err)
	}
	secret, err := device.Activate(keys, challenge)
	if err != nil {
		return api.TPMInfo{}, err
	}
	defer clear(secret)
	info, err := broker.ActivateTPM(ctx, api.TPMActivation{Secret: secret})
	if err != nil {
		return info, fmt.Errorf("answer the TPM's challenge: %w", err)
	}
	return info, nil
}

// heartbeatQuote fetches a challenge of its own for a heartbeat's quote.
func (d *Daemon) heartbeatQuote(ctx context.Context) *api.TPMEvidence {
	if d.attestor == nil || d.attestor.device == nil || !d.attestor.known(ctx) {
		return nil
	}
	nonce, err := d.broker.Nonce(ctx)
	if d.link.saw(err) != nil {
		return nil
	}
	q := d.attestor.quote(ctx, api.QuoteForHeartbeat, nonce.Nonce, nil)
	if q != nil {
		q.Nonce = nonce.Nonce
	}
	return q
}

// documentLife is how long an instance identity document is used: it changes only when the instance is stopped.
const documentLife = 10 * time.Minute

// cloud keeps the instance identity document of this machine.
type cloud struct {
	service *imds.Client
	log     *slog.Logger
	now     func() time.Time

	mu   sync.Mutex
	last *api.CloudDocument
	next time.Time
}

// newCloud returns nil where no document is to be shown.
func newCloud(cfg config.Config, log *slog.Logger, now func() time.Time) *cloud {
	if cfg.EC2 == config.EC2Off || cfg.EC2 == config.EC2Auto && !imds.OnEC2("/sys") {
		return nil
	}
	return &cloud{service: imds.New(cfg.EC2Endpoint), log: log, now: now}
}

// document is the newest one; nil where the service does not answer.
func (c *cloud) document(ctx context.Context) *api.CloudDocument {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now().Before(c.next) {
		return c.last
	}
	c.next = c.now().Add(documentLife)
	d, err := c.service.Document(ctx)
	if err != nil {
		c.log.Warn("no instance identity document; rules on the cloud fail", "error", err)
		c.next = c.now().Add(documentLife / 20)
	}
	c.last = d
	return d
}
