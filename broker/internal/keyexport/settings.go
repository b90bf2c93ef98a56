package keyexport

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// maxPeople is the most that can be asked to agree.
const maxPeople = 10

// Settings are how many people an export takes.
func (s *Service) Settings(ctx context.Context, p tenant.Principal) (out api.ExportSettings, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		out.People, err = inventory.ExportPeople(tx.Tenant(p.AccountID))
		return err
	})
	return out, err
}

// SetSettings changes that. What waits already needs at least as many people as before. More people than the account has
// who could agree are refused: nothing could leave the broker any more.
func (s *Service) SetSettings(ctx context.Context, p tenant.Principal, in api.ExportSettings) error {
	if in.People < 1 || in.People > maxPeople {
		return problem.Invalid("people", fmt.Sprintf("is between 1 and %d", maxPeople))
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		if err := stepup.Require(t, p); err != nil {
			return err
		}
		can, err := store.In[store.User](t).Count(store.OneOf("role", approvers))
		if err != nil {
			return err
		}
		if in.People > max(can, 1) {
			return problem.Invalid("people", fmt.Sprintf("is more than the %d Security Administrators of the account: add others first", can))
		}
		accounts := store.Global[store.Account](tx)
		row, err := accounts.Get(p.AccountID)
		if errors.Is(err, store.ErrNotFound) {
			return problem.NotFound("account")
		}
		if err != nil {
			return err
		}
		before := max(row.ExportPeople, 1)
		row.ExportPeople = in.People
		if err := accounts.Update(&row); err != nil {
			return fmt.Errorf("saving how many people an export takes: %w", err)
		}
		return audit.Append(t, audit.Entry{Category: audit.Server, Event: "settings.export-changed", Actor: p.Actor(), Subject: row.ID,
			Detail: map[string]string{"before": strconv.FormatInt(before, 10), "after": strconv.FormatInt(in.People, 10)}})
	})
}
