package keyring

import (
	"context"
	"time"

	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// RootKey is a root key as operators see it.
type RootKey struct {
	ID       string `json:"id"`
	Provider string `json:"provider"`
	Active   bool   `json:"active"`
	// Accounts is how many accounts have a key that it wraps.
	Accounts int `json:"accounts"`
	// Here says that this broker has it.
	Here      bool       `json:"here"`
	CreatedAt time.Time  `json:"created_at"`
	RetiredAt *time.Time `json:"retired_at,omitempty"`
	// Version is the oldest version of the key that wraps something still, Newest the one that wraps from now on; 0 where
	// the key has no versions, or wraps nothing. NewerWaits says that a rotation would wrap with a newer one.
	Version    int  `json:"version,omitempty"`
	Newest     int  `json:"newest_version,omitempty"`
	NewerWaits bool `json:"newer_version_waits,omitempty"`
	// Trouble is why its newest version is not known.
	Trouble string `json:"trouble,omitempty"`
}

// versions is a root key in a place that gives it newer versions.
type versions interface {
	// Version is the one that wrapped something, 0 when there is none.
	Version(wrapped []byte) int
	// Newest is the one that wraps now; it asks the place.
	Newest() (int, error)
}

// List returns the root keys that the database knows, oldest first.
func (s *Service) List(ctx context.Context) ([]RootKey, error) {
	var out []RootKey
	err := s.store.View(ctx, func(tx *store.Tx) error {
		out = []RootKey{}
		accounts, err := store.Global[store.Account](tx).List()
		if err != nil {
			return err
		}
		uses, oldest := map[string]int{}, map[string]int{}
		for _, a := range accounts {
			for _, key := range KeysOf(a) {
				if n := s.versionOf(key); n > 0 && (oldest[key.RootKeyID] == 0 || n < oldest[key.RootKeyID]) {
					oldest[key.RootKeyID] = n
				}
			}
			seen := map[string]bool{}
			for _, id := range rootsOf(a) {
				if !seen[id] {
					uses[id]++
				}
				seen[id] = true
			}
		}
		rows, err := store.Global[store.RootKey](tx).List(store.Asc("created_at"))
		for _, r := range rows {
			_, here := s.ring.ByID(r.ID)
			out = append(out, RootKey{ID: r.ID, Provider: r.Provider, Active: r.Active, Accounts: uses[r.ID], Here: here, CreatedAt: r.CreatedAt, RetiredAt: r.RetiredAt,
				Version: oldest[r.ID]})
		}
		return err
	})
	for i := range out { // outside of the transaction: they are calls to other machines
		s.lookForNewer(&out[i])
	}
	return out, err
}

// versionOf is the version of the root key that wraps an account's key; 0 when it is not known here.
func (s *Service) versionOf(key keystore.AccountKey) int {
	root, _ := s.ring.ByID(key.RootKeyID)
	if place, ok := root.(versions); ok {
		return place.Version(key.Wrapped)
	}
	return 0
}

// lookForNewer asks where the key is kept whether there is a newer version than those that wrap.
func (s *Service) lookForNewer(k *RootKey) {
	root, _ := s.ring.ByID(k.ID)
	place, ok := root.(versions)
	if !ok {
		return
	}
	var err error
	if k.Newest, err = place.Newest(); err != nil {
		k.Trouble = err.Error()
	}
	k.NewerWaits = k.Active && k.Version > 0 && k.Newest > k.Version
}
