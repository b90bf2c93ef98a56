package keyring

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Progress is told how far a rotation is.
type Progress func(done, total int)

// RotateRoot makes another root key the one that wraps, and rewraps every account's keys with it. rewrapOwn rewraps the
// secrets in this broker's data folder. Called again it goes on where it was cut off. The root before stays in the ring and
// is never touched: backups of before need it.
func (s *Service) RotateRoot(ctx context.Context, to keystore.Root, rewrapOwn func() error, progress Progress) error {
	if err := s.begin(ctx, to); err != nil {
		return fmt.Errorf("rotating to root key %s: %w", to.ID(), err)
	}
	if err := s.step("activated"); err != nil {
		return err
	}
	if err := s.ring.Use(to.ID()); err != nil {
		return err
	}
	if err := s.rewrapEach(ctx, to, false, progress); err != nil {
		return fmt.Errorf("rotating to root key %s: %w: repeat the command, it goes on from here", to.ID(), err)
	}
	if err := rewrapOwn(); err != nil {
		return fmt.Errorf("rotating to root key %s: %w: repeat the command, it goes on from here", to.ID(), err)
	}
	if err := s.step("own secrets"); err != nil {
		return err
	}
	return s.finish(ctx, to)
}

// Renew wraps every account's keys, and by rewrapOwn the broker's own secrets, once more with the root key that wraps them
// already. A key that is kept in another place and has a newer version there wraps everything with that one afterwards.
func (s *Service) Renew(ctx context.Context, rewrapOwn func() error, progress Progress) error {
	root := keystore.Active(s.ring)
	err := try(root)
	if err == nil {
		err = s.rewrapEach(ctx, root, true, progress)
	}
	if err == nil {
		err = rewrapOwn()
	}
	if err != nil {
		return fmt.Errorf("wrapping with root key %s anew: %w: repeat the command", root.ID(), err)
	}
	return nil
}

// begin tries the new root and makes it the active one, unless a running broker does not have it.
func (s *Service) begin(ctx context.Context, to keystore.Root) error {
	if err := try(to); err != nil {
		return err
	}
	return s.store.Tx(ctx, func(tx *store.Tx) error {
		s.ring.Add(to)
		missing, err := s.missing(tx)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return errors.New(strings.Join(missing, "; ") + ": name it with --root-key")
		}
		lacking, err := without(tx, to.ID())
		if err != nil {
			return err
		}
		if len(lacking) > 0 {
			return fmt.Errorf("the brokers on %s run without it and could open nothing afterwards: set root-key-next on each and restart it, or stop them", strings.Join(lacking, ", "))
		}
		return activate(tx, to)
	})
}

// try wraps something with a root and unwraps it again.
func try(root keystore.Root) error {
	const purpose = "trial"
	secret := keystore.KeyOf([]byte("what a new root key gives back must be what it took"))
	wrapped, err := keystore.WrapSecret(root, purpose, secret)
	if err != nil {
		return err
	}
	back, err := keystore.UnwrapSecret(root, purpose, wrapped)
	if err != nil {
		return fmt.Errorf("it does not give back what it takes: %w", err)
	}
	if string(back.Bytes()) != string(secret.Bytes()) {
		return errors.New("it gives back something else than it takes: do not use it")
	}
	return nil
}

// rewrapEach rewraps the keys of every account that another root wraps; again, those that the root itself wraps too.
func (s *Service) rewrapEach(ctx context.Context, to keystore.Root, again bool, progress Progress) error {
	var ids []string
	if err := s.store.View(ctx, func(tx *store.Tx) error {
		ids = ids[:0]
		accounts, err := store.Global[store.Account](tx).List()
		for _, a := range accounts {
			if again || wrappedBesides(a, to.ID()) {
				ids = append(ids, a.ID)
			}
		}
		return err
	}); err != nil {
		return err
	}
	for i, id := range ids {
		if progress != nil {
			progress(i, len(ids))
		}
		if err := s.store.Tx(ctx, func(tx *store.Tx) error { return s.rewrap(tx, id, to, again) }); err != nil {
			return fmt.Errorf("account %s: %w", id, err)
		}
		if err := s.step("account"); err != nil {
			return err
		}
	}
	if progress != nil {
		progress(len(ids), len(ids))
	}
	return nil
}

func wrappedBesides(a store.Account, id string) bool {
	for _, r := range rootsOf(a) {
		if r != id {
			return true
		}
	}
	return false
}

// rewrap moves one account's keys to another root, with a record in its log.
func (s *Service) rewrap(tx *store.Tx, id string, to keystore.Root, again bool) error {
	table := store.Global[store.Account](tx)
	row, err := table.Get(id)
	if err != nil || !again && !wrappedBesides(row, to.ID()) {
		return err
	}
	from := row.RootKeyID
	a := inventory.KeyOfAccount(row)
	if a, err = keystore.RewrapAccountKey(s.ring, to, a); err != nil {
		return err
	}
	for i, e := range a.Earlier {
		if a.Earlier[i], err = keystore.RewrapAccountKey(s.ring, to, e); err != nil {
			return err
		}
	}
	keep(&row, a)
	if err := table.Update(&row); err != nil {
		return err
	}
	event := "account-key.root-changed"
	if from == to.ID() {
		event = "account-key.root-renewed"
	}
	return audit.Append(tx.Tenant(id), audit.Entry{Category: audit.Key, Event: event, Actor: tenant.Principal{Operator: true}.Actor(), Subject: id,
		Detail: map[string]string{"from": from, "to": to.ID(), "provider": string(to.Provider())}})
}

// keep writes an account's keys into its row.
func keep(row *store.Account, a keystore.AccountKey) {
	row.WrappedKey, row.RootKeyID, row.KeyGeneration, row.EarlierKeys = a.Wrapped, a.RootKeyID, a.Generation, nil
	for _, e := range a.Earlier {
		row.EarlierKeys = append(row.EarlierKeys, store.EarlierKey{Generation: e.Generation, RootKeyID: e.RootKeyID, Wrapped: e.Wrapped})
	}
}

// finish notes the roots that wrap nothing any more. An account that was made meanwhile, by a broker that had not heard of
// the rotation, is rewrapped by the next call.
func (s *Service) finish(ctx context.Context, to keystore.Root) error {
	return s.store.Tx(ctx, func(tx *store.Tx) error {
		accounts, err := store.Global[store.Account](tx).List()
		if err != nil {
			return err
		}
		used := map[string]bool{}
		for _, a := range accounts {
			for _, id := range rootsOf(a) {
				used[id] = true
			}
			if wrappedBesides(a, to.ID()) {
				return errors.New("an account was made with the old root key meanwhile: repeat the command")
			}
		}
		table := store.Global[store.RootKey](tx)
		rows, err := table.List(store.IsNull("retired_at"))
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Active || used[r.ID] {
				continue
			}
			now := tx.Now()
			r.RetiredAt = &now
			if err := table.Update(&r); err != nil {
				return err
			}
		}
		return nil
	})
}

// KeysOf are all keys of an account, its present one first.
func KeysOf(a store.Account) []keystore.AccountKey {
	key := inventory.KeyOfAccount(a)
	return append([]keystore.AccountKey{key}, key.Earlier...)
}
