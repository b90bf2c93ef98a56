package account

import (
	"context"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Sessions lists the caller's own sessions, the newest first.
func (s *Service) Sessions(ctx context.Context, p tenant.Principal) ([]api.Session, error) {
	out := []api.Session{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		rows, err := store.In[store.Session](tx.Tenant(p.AccountID)).List(store.Eq("user_id", p.UserID), store.Desc("created_at"))
		for _, r := range rows {
			if ended(r, tx.Now()) {
				continue
			}
			out = append(out, api.Session{ID: r.ID, User: p.UserName, Address: r.Address, UserAgent: r.UserAgent, CreatedAt: r.CreatedAt,
				LastSeenAt: r.LastSeenAt, ExpiresAt: r.ExpiresAt, Current: r.ID == p.SessionID})
		}
		return err
	})
	return out, err
}

// LogOff ends the caller's session.
func (s *Service) LogOff(ctx context.Context, p tenant.Principal) error {
	return s.EndSession(ctx, p, p.SessionID)
}

// EndSession ends one of the caller's own sessions at once.
func (s *Service) EndSession(ctx context.Context, p tenant.Principal, id string) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		n, err := store.In[store.Session](t).DeleteWhere(store.Eq("id", id), store.Eq("user_id", p.UserID))
		if err != nil {
			return err
		}
		if n == 0 {
			return missing(store.ErrNotFound, "session")
		}
		event := "user.session-ended"
		if id == p.SessionID {
			event = "user.logged-off"
		}
		return audit.Append(t, audit.Entry{Category: audit.User, Event: event, Actor: p.Actor(), Subject: p.UserID,
			Detail: map[string]string{"address": p.Address, "session": id}})
	})
}

// endSessions ends a user's sessions but one; keep may be empty.
func endSessions(t *store.Tenant, userID, keep string) error {
	_, err := store.In[store.Session](t).DeleteWhere(store.Eq("user_id", userID), store.Ne("id", keep))
	return err
}

// Sweep removes sessions that have ended, of all accounts. It is the broker's own, hourly work.
func (s *Service) Sweep(ctx context.Context) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		return tx.EachTenant(func(t *store.Tenant) error {
			table := store.In[store.Session](t)
			if _, err := table.DeleteWhere(store.Before("expires_at", tx.Now())); err != nil {
				return err
			}
			_, err := table.DeleteWhere(store.Before("last_seen_at", tx.Now().Add(-SessionIdle)))
			return err
		})
	})
}
