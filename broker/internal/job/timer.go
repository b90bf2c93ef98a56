package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyward/broker/internal/inventory"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Tick ends the jobs whose time is over: queued ones that no machine took, running ones that fell silent. Several
// brokers may do this at once.
func (s *Service) Tick(ctx context.Context) error {
	type due struct{ account, id string }
	var found []due
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		return tx.EachTenant(func(t *store.Tenant) error {
			jobs, err := store.In[store.Job](t).List(store.OneOf("status", []string{queued, running}))
			for _, j := range jobs {
				if overdue(t, j) {
					found = append(found, due{t.AccountID(), j.ID})
				}
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("looking for jobs that are over: %w", err)
	}
	var errs []error
	for _, f := range found {
		err := s.Store.Tx(ctx, func(tx *store.Tx) error { return s.expire(tx.Tenant(f.account), f.id) })
		if err != nil && !errors.Is(err, store.ErrStale) {
			errs = append(errs, fmt.Errorf("ending job %s: %w", f.id, err))
		}
	}
	return errors.Join(errs...)
}

func overdue(t *store.Tenant, j store.Job) bool {
	if j.Kind != kindEncrypt {
		return false // a rotation waits until a machine can do it, or a person cancels it
	}
	switch j.Status {
	case queued:
		return !j.ExpiresAt.After(t.Now())
	case running:
		return !j.UpdatedAt.Add(silentLife).After(t.Now())
	}
	return false
}

func (s *Service) expire(t *store.Tenant, id string) error {
	j, err := store.In[store.Job](t).Get(id)
	if err != nil || !overdue(t, j) {
		return err
	}
	u, err := unitOf(t, j)
	if err != nil {
		return err
	}
	p := tenant.Broker(t.AccountID())
	s.announce(t, *u.First())
	if j.Status == running {
		return s.fail(t, p, &j, &u, "The machine has not reported for 15 minutes.")
	}
	if _, err := u.Move(t, p, inventory.WaitOver, inventory.Ctx{}, "No machine began the encryption within "+span(j.ExpiresAt.Sub(j.CreatedAt).Round(time.Second))+"."); err != nil {
		return err
	}
	s.announceNotice(t)
	return end(t, &j, cancelled, "no machine took it in time")
}
