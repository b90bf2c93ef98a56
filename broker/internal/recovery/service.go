// Package recovery keeps what outlives the broker: the public half of an account's recovery key, the envelopes of device keys
// that are sealed to it, and the records of what machines did while the broker was away.
package recovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"keyward/broker/api"
	"keyward/broker/client/recovery"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Deps is what the service works with.
type Deps struct {
	Store *store.Store
	Feed  *feed.Hub
	Root  keystore.Root
	// AgentURL names the broker in envelopes.
	AgentURL string
	Logger   *slog.Logger
}

// Service is break glass on the broker's side.
type Service struct{ Deps }

// New makes the service.
func New(d Deps) *Service {
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	return &Service{d}
}

// Key is the account's recovery key, or the problem "not-found".
func (s *Service) Key(ctx context.Context, p tenant.Principal) (api.RecoveryKey, error) {
	var row store.RecoveryKey
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		row, err = current(tx.Tenant(p.AccountID))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return api.RecoveryKey{}, problem.NotFound("recovery key")
	}
	return view(row), err
}

func current(t *store.Tenant) (store.RecoveryKey, error) {
	return store.In[store.RecoveryKey](t).First(store.IsNull("retired_at"))
}

func view(k store.RecoveryKey) api.RecoveryKey {
	return api.RecoveryKey{KeyID: k.KeyID, Threshold: k.Threshold, Holders: k.Holders, CreatedAt: k.CreatedAt, CreatedBy: k.CreatedBy}
}

func public(k store.RecoveryKey) recovery.PublicKey {
	return recovery.PublicKey{ID: k.KeyID, Bytes: k.PublicKey, Threshold: k.Threshold, Holders: k.Holders}
}

// SetKey makes a key that holders have made among themselves the account's. Envelopes that were sealed to the former one
// still open with the former shares; new ones are sealed to the new key. Where keys leave the broker only when several
// people agree, it is refused: see package keyexport.
func (s *Service) SetKey(ctx context.Context, p tenant.Principal, in api.RecoveryKeyWrite) (out api.RecoveryKey, err error) {
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		if err := inventory.Alone(t); err != nil {
			return err
		}
		if err := stepup.Require(t, p); err != nil {
			return err
		}
		out, err = s.Become(t, p, in.PublicKey)
		return err
	})
	return out, err
}

// MayBecome refuses a key that was the account's before.
func (s *Service) MayBecome(t *store.Tenant, key recovery.PublicKey) error {
	n, err := store.In[store.RecoveryKey](t).Count(store.Eq("key_id", key.ID))
	if err != nil || n == 0 {
		return err
	}
	return usedBefore()
}

func usedBefore() error {
	return problem.Conflict("This recovery key was the account's before.", "Make a new one, so that old and new shares cannot be mixed up.")
}

// Become makes the key of a public file the account's, in the caller's transaction; who may do so is the caller's to know.
func (s *Service) Become(t *store.Tenant, p tenant.Principal, file string) (api.RecoveryKey, error) {
	key, err := recovery.ParsePublicKey([]byte(file))
	if err != nil {
		return api.RecoveryKey{}, problem.Invalid("public_key", err.Error())
	}
	if err := retire(t); err != nil {
		return api.RecoveryKey{}, err
	}
	row := store.RecoveryKey{KeyID: key.ID, PublicKey: key.Bytes, Threshold: key.Threshold, Holders: key.Holders, CreatedBy: p.Actor()}
	if err := store.In[store.RecoveryKey](t).Insert(&row); errors.Is(err, store.ErrDuplicate) {
		return api.RecoveryKey{}, usedBefore()
	} else if err != nil {
		return api.RecoveryKey{}, fmt.Errorf("keeping the recovery key: %w", err)
	}
	s.announce(t)
	return view(row), audit.Append(t, audit.Entry{Category: audit.Key, Event: "recovery-key.set", Actor: p.Actor(), Subject: key.ID,
		Detail: map[string]string{"holders": fmt.Sprintf("%d of %q", key.Threshold, key.Holders), "address": p.Address}})
}

// retire ends the present key, if there is one.
func retire(t *store.Tenant) error {
	former, err := current(t)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	now := t.Now()
	former.RetiredAt = &now
	return store.In[store.RecoveryKey](t).Update(&former)
}

// RetireKey ends the recovery key: no envelopes are made from then on. Those that machines and people have stay good.
func (s *Service) RetireKey(ctx context.Context, p tenant.Principal) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		former, err := current(t)
		if errors.Is(err, store.ErrNotFound) {
			return problem.NotFound("recovery key")
		}
		if err != nil {
			return err
		}
		if err := retire(t); err != nil {
			return err
		}
		s.announce(t)
		return audit.Append(t, audit.Entry{Category: audit.Key, Event: "recovery-key.retired", Actor: p.Actor(), Subject: former.KeyID})
	})
}

func (s *Service) announce(t *store.Tenant) {
	account := t.AccountID()
	t.AfterCommit(func() { s.Feed.Publish(account, feed.TopicDevices) })
}
