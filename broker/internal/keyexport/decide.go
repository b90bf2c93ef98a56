package keyexport

import (
	"context"
	"fmt"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// Approve records that the caller agrees. The export is approved once as many people agree as the account wants; who asked
// cannot be one of those who approve.
func (s *Service) Approve(ctx context.Context, p tenant.Principal, id string, in api.Decision) (api.KeyExport, error) {
	return s.decide(ctx, p, id, in, func(t *store.Tenant, e *store.KeyExport, reason string) error {
		if p.UserID == "" {
			return problem.Forbidden(string(rbac.KeyExportsDecide))
		}
		if p.UserID == e.AskedByID {
			return problem.New(http.StatusForbidden, "own-request", "Somebody else has to approve this export",
				"This person asked for it, and counts as one who agrees already.", "Ask another Security Administrator.")
		}
		if err := stepup.Require(t, p); err != nil {
			return err
		}
		if Open(e.Status) { // else the machine refuses, and says why
			st, err := standingOf(t, *e)
			if err != nil {
				return err
			}
			if err := approval.Give[store.KeyExportApproval](t, p, e.ID, reason, fmt.Sprintf("The export needs %d people", st.needed),
				"Ask another Security Administrator to approve it too."); err != nil {
				return err
			}
		}
		st, err := standingOf(t, *e)
		if err != nil {
			return err
		}
		return s.move(t, p, e, EventAgreed, Ctx{Enough: st.enough()}, reason, nil)
	})
}

// Deny ends an export that another person asked for.
func (s *Service) Deny(ctx context.Context, p tenant.Principal, id string, in api.Decision) (api.KeyExport, error) {
	return s.decide(ctx, p, id, in, func(t *store.Tenant, e *store.KeyExport, reason string) error {
		return s.move(t, p, e, EventDenied, Ctx{}, reason, nil)
	})
}

// Cancel ends an export that the caller asked for.
func (s *Service) Cancel(ctx context.Context, p tenant.Principal, id string, in api.Decision) (api.KeyExport, error) {
	return s.decide(ctx, p, id, in, func(t *store.Tenant, e *store.KeyExport, reason string) error {
		return s.move(t, p, e, EventCancelled, Ctx{}, reason, nil)
	})
}

// decide carries a decision out on the version that the person saw.
func (s *Service) decide(ctx context.Context, p tenant.Principal, id string, in api.Decision, carry func(*store.Tenant, *store.KeyExport, string) error) (out api.KeyExport, err error) {
	reason, err := approval.Reason(in.Reason)
	if err != nil {
		return out, err
	}
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		e, err := current(t, id, in.Version)
		if err != nil {
			return err
		}
		if err := carry(t, &e, reason); err != nil {
			return err
		}
		out, err = view(t, p, e)
		return err
	})
	return out, err
}
