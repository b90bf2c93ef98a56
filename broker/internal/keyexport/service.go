// Package keyexport lets keys out of the broker only when as many Security Administrators agree as the account wants: one
// asks with a reason, others approve, and then the one who asked fetches, once. What leaves is keys of devices under a
// passphrase; or, by a new recovery key, every key of the account to that key's holders.
package keyexport

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/recovery"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// Life is how long an export that was asked for waits to be fetched.
const Life = 72 * time.Hour

// approvers are the roles that may agree.
var approvers = approval.Roles(rbac.KeyExportsDecide)

// Deps is what the service works with.
type Deps struct {
	Store *store.Store
	Feed  *feed.Hub
	Root  keystore.Root
	// Recovery sets the recovery key of an export of that kind.
	Recovery *recovery.Service
}

// Service is the exports that several people agree on.
type Service struct {
	Deps
	// archive is inventory.Archive; deriving a key takes a quarter second, which tests of thousands of steps have no use for.
	archive func(keystore.Root, time.Time, keystore.AccountKey, []inventory.Chosen, string) ([]byte, error)
}

// New makes the service.
func New(d Deps) *Service { return &Service{d, inventory.Archive} }

// export reads an export of the account.
func export(t *store.Tenant, id string) (store.KeyExport, error) {
	e, err := store.In[store.KeyExport](t).Get(id)
	if errors.Is(err, store.ErrNotFound) {
		return e, problem.NotFound("export")
	}
	return e, err
}

// standing is who agrees to an export, and how many must.
type standing struct {
	approvals []api.Approval
	agreed    int64 // the one who asked among them
	needed    int64 // the stricter of what the account wanted when it was asked and what it wants now
}

func (s standing) enough() bool { return s.agreed >= s.needed }

func standingOf(t *store.Tenant, e store.KeyExport) (s standing, err error) {
	if s.needed, err = inventory.ExportPeople(t); err != nil {
		return s, err
	}
	s.needed = max(s.needed, e.PeopleNeeded)
	s.approvals, err = approval.List[store.KeyExportApproval](t, e.ID, Open(e.Status), approval.Rules{Roles: approvers,
		Against: func(userID string) (string, error) {
			if userID == e.AskedByID {
				return "the user asked for it", nil
			}
			return "", nil
		}})
	s.agreed = 1 + int64(len(approval.Counting(s.approvals)))
	return s, err
}

// move applies an event to an export, stores the row and leaves the audit records. hand is called for what leaves the
// broker; it may be nil where the event hands nothing over.
func (s *Service) move(t *store.Tenant, p tenant.Principal, e *store.KeyExport, event Event, c Ctx, reason string, hand func() error) error {
	c.Own, c.Other = p.UserID != "" && p.UserID == e.AskedByID, p.UserID != "" && p.UserID != e.AskedByID
	from := e.Status
	res, err := Apply(from, event, c)
	if err != nil {
		return refusal(err)
	}
	e.Status = res.Next
	fresh := from == absent
	if fresh { // the audit record names it
		if err := store.In[store.KeyExport](t).Insert(e); err != nil {
			return fmt.Errorf("keeping the export that was asked for: %w", err)
		}
	}
	for _, f := range res.Effects {
		switch f.Kind {
		case EffectHandOver:
			err = hand()
		case EffectClose:
			now := t.Now()
			e.EndedAt, e.EndedBy, e.EndReason = &now, p.UserName, reason
		case "audit":
			err = audit.Append(t, audit.Entry{Category: audit.Key, Event: f.Name, Actor: p.Actor(), Subject: e.ID, Detail: details(p, *e, reason)})
		}
		if err != nil {
			return err
		}
	}
	account := t.AccountID()
	t.AfterCommit(func() { s.Feed.Publish(account, feed.TopicExports, feed.TopicKeyRequests) }) // notices of exports stand above key requests
	if fresh {
		return nil
	}
	err = store.In[store.KeyExport](t).Update(e)
	if errors.Is(err, store.ErrStale) {
		return problem.Stale("export")
	}
	return err
}

// details are what the log says with each change of an export.
func details(p tenant.Principal, e store.KeyExport, reason string) map[string]string {
	names := make([]string, len(e.Devices))
	for i, d := range e.Devices {
		names[i] = d.Name
	}
	out := map[string]string{"kind": string(e.Kind), "asked_by": e.AskedBy, "people_needed": strconv.FormatInt(e.PeopleNeeded, 10), "status": string(e.Status)}
	for name, text := range map[string]string{"reason": reason, "devices": strings.Join(names, ", "), "address": p.Address} {
		if text != "" {
			out[name] = text
		}
	}
	return out
}

// refusal turns a refusal of the machine into a problem.
func refusal(err error) error {
	var r *Refused
	if !errors.As(err, &r) {
		return err
	}
	return problem.Conflict("This export: "+r.Error()+".", "Look at its status; nothing was changed.")
}

// Tick ends the exports that nobody fetched in time. Several brokers may do this at once.
func (s *Service) Tick(ctx context.Context) error {
	type due struct{ account, id string }
	var found []due
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		return tx.EachTenant(func(t *store.Tenant) error {
			rows, err := store.In[store.KeyExport](t).List(store.IsNull("ended_at"), store.Before("expires_at", t.Now()))
			for _, e := range rows {
				found = append(found, due{t.AccountID(), e.ID})
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("looking for exports that are over: %w", err)
	}
	var errs []error
	for _, f := range found {
		err := s.Store.Tx(ctx, func(tx *store.Tx) error { return s.expire(tx.Tenant(f.account), f.id) })
		if err != nil && !errors.Is(err, store.ErrStale) {
			errs = append(errs, fmt.Errorf("ending export %s: %w", f.id, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) expire(t *store.Tenant, id string) error {
	e, err := store.In[store.KeyExport](t).Get(id)
	if err != nil || !Open(e.Status) || e.ExpiresAt.After(t.Now()) {
		return err
	}
	return s.move(t, tenant.Broker(t.AccountID()), &e, EventTimeOver, Ctx{}, "", nil)
}

// current reads an export that is not over by time; one that is, is ended by the next Tick and refused until then.
func current(t *store.Tenant, id string, version int64) (store.KeyExport, error) {
	e, err := export(t, id)
	if err != nil {
		return e, err
	}
	if version != 0 && version != e.Version {
		return e, problem.Stale("export")
	}
	if Open(e.Status) && !e.ExpiresAt.After(t.Now()) {
		return e, problem.Conflict("This export expired on "+e.ExpiresAt.UTC().Format(time.RFC3339)+".", "Ask for it anew.")
	}
	return e, nil
}
