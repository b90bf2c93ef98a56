// Package keyring keeps the keys above the devices' in order: which root key wraps, which brokers have it, and the rotation
// of root and account keys. A rotation rewraps keys and touches no volume. It goes in small steps, each one transaction; what
// is not rewrapped yet opens as before, so one that was cut off anywhere goes on where it stopped.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// silentAfter is when a broker that has said nothing is taken for stopped. It speaks every HoldEvery.
const (
	silentAfter = 2 * time.Minute
	HoldEvery   = 30 * time.Second
)

// Service knows the root keys of this broker and of the database.
type Service struct {
	store *store.Store
	ring  *keystore.Ring
	// id names this process among the brokers on the database; host is what people call its machine.
	id, host string
	// step is called between the steps of a rotation; tests end it there.
	step func(string) error
}

// New makes the service.
func New(st *store.Store, ring *keystore.Ring) *Service {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &Service{store: st, ring: ring, id: uuid.NewString(), host: host, step: func(string) error { return nil }}
}

// Settle compares the root keys of this broker with those of the database and makes the right one wrap. It refuses a broker
// that could not open every account's key: it would fail at the first key request.
func (s *Service) Settle(ctx context.Context) error {
	return s.store.Tx(ctx, func(tx *store.Tx) error {
		active, err := activeRow(tx)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		missing, err := s.missing(tx)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return fmt.Errorf("%s: start the broker with that root key as --root-key, or as --root-key-next beside the new one until keyward-broker key rotate root has ended",
				strings.Join(missing, "; "))
		}
		if _, has := s.ring.ByID(active.ID); has {
			return s.ring.Use(active.ID)
		}
		// Nothing is wrapped by the active one, or there is none: the database is new, or older than this table.
		return activate(tx, s.ring.Roots()[0])
	})
}

// missing says which root keys wrap account keys that this broker could not open, and how many.
func (s *Service) missing(tx *store.Tx) ([]string, error) {
	accounts, err := store.Global[store.Account](tx).List()
	if err != nil {
		return nil, err
	}
	n := map[string]int{}
	for _, a := range accounts {
		for _, id := range rootsOf(a) {
			if _, has := s.ring.ByID(id); !has {
				n[id]++
			}
		}
	}
	var out []string
	for id, count := range n {
		kind := ""
		if row, err := store.Global[store.RootKey](tx).Get(id); err == nil {
			kind = " (" + keystore.Provider(row.Provider).Text() + ")"
		}
		out = append(out, fmt.Sprintf("root key %s%s wraps %d keys of accounts, and this broker was not given it", id, kind, count))
	}
	slices.Sort(out)
	return out, nil
}

// rootsOf are the IDs of the root keys that wrap an account's keys.
func rootsOf(a store.Account) []string {
	out := []string{a.RootKeyID}
	for _, e := range a.EarlierKeys {
		out = append(out, e.RootKeyID)
	}
	return out
}

func activeRow(tx *store.Tx) (store.RootKey, error) {
	return store.Global[store.RootKey](tx).First(store.Eq("active", true))
}

// activate makes a root key the one that wraps.
func activate(tx *store.Tx, root keystore.Root) error {
	table := store.Global[store.RootKey](tx)
	before, err := activeRow(tx)
	if err == nil && before.ID == root.ID() {
		return nil
	}
	if err == nil {
		before.Active = false
		err = table.Update(&before)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	row, err := table.Get(root.ID())
	if errors.Is(err, store.ErrNotFound) {
		return table.Insert(&store.RootKey{ID: root.ID(), Provider: string(root.Provider()), Active: true})
	}
	if err != nil {
		return err
	}
	row.Active, row.RetiredAt, row.Provider = true, nil, string(root.Provider())
	return table.Update(&row)
}

// Hold says to the other brokers which root keys this one has, and follows a rotation that another one began. Call it every
// HoldEvery while the broker runs.
func (s *Service) Hold(ctx context.Context) error {
	var holds []string
	for _, r := range s.ring.Roots() {
		holds = append(holds, r.ID())
	}
	return s.store.Tx(ctx, func(tx *store.Tx) error {
		table := store.Global[store.RootKeyHolder](tx)
		row, err := table.Get(s.id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			row = store.RootKeyHolder{ID: s.id, Host: s.host, Holds: holds, SeenAt: tx.Now()}
			err = table.Insert(&row)
		case err == nil:
			row.Holds, row.SeenAt = holds, tx.Now()
			err = table.Update(&row)
		}
		if err != nil {
			return fmt.Errorf("telling which root keys this broker has: %w", err)
		}
		active, err := activeRow(tx)
		if err != nil {
			return fmt.Errorf("reading which root key wraps: %w", err)
		}
		tx.AfterCommit(func() { _ = s.ring.Use(active.ID) }) // Settle refused a broker without it, and rotations wait for one
		return nil
	})
}

// Leave takes this broker off the list: it stops.
func (s *Service) Leave(ctx context.Context) error {
	return s.store.Tx(ctx, func(tx *store.Tx) error {
		if _, err := store.Global[store.RootKeyHolder](tx).DeleteWhere(store.Before("seen_at", tx.Now().Add(-silentAfter))); err != nil {
			return err
		}
		_, err := store.Global[store.RootKeyHolder](tx).DeleteWhere(store.Eq("id", s.id))
		return err
	})
}

// without names the running brokers that lack a root key.
func without(tx *store.Tx, id string) ([]string, error) {
	rows, err := store.Global[store.RootKeyHolder](tx).List(store.After("seen_at", tx.Now().Add(-silentAfter)))
	var out []string
	for _, r := range rows {
		if !slices.Contains(r.Holds, id) {
			out = append(out, r.Host)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), err
}
