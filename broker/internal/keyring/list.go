package keyring

import (
	"context"
	"time"

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
		uses := map[string]int{}
		for _, a := range accounts {
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
			out = append(out, RootKey{ID: r.ID, Provider: r.Provider, Active: r.Active, Accounts: uses[r.ID], Here: here, CreatedAt: r.CreatedAt, RetiredAt: r.RetiredAt})
		}
		return err
	})
	return out, err
}
