package policyfile

import (
	"context"
	"errors"
	"fmt"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/preview"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Service exports, plans and applies files.
type Service struct {
	store    *store.Store
	policies *policyset.Service
	previews *preview.Service
}

// New makes the service.
func New(st *store.Store, policies *policyset.Service, previews *preview.Service) *Service {
	return &Service{store: st, policies: policies, previews: previews}
}

// Export is the file of an account's policies as they are.
func (s *Service) Export(ctx context.Context, p tenant.Principal) (File, error) {
	var out File
	err := s.store.View(ctx, func(tx *store.Tx) error {
		account, err := store.Global[store.Account](tx).Get(p.AccountID)
		if err != nil {
			return err
		}
		policies, n, err := read(tx.Tenant(p.AccountID))
		out = Export(account.Name, policies, n)
		return err
	})
	return out, err
}

// Plan says what applying a file would change, and what that would do with today's machines.
func (s *Service) Plan(ctx context.Context, p tenant.Principal, f File, remove bool) (Plan, error) {
	var plan Plan
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		plan, err = s.plan(tx.Tenant(p.AccountID), f, remove)
		return err
	})
	if err != nil || plan.Empty() {
		return plan, err
	}
	seen, err := s.previews.Changes(ctx, p, plan.changes())
	plan.Preview = &seen
	return plan, err
}

func (s *Service) plan(t *store.Tenant, f File, remove bool) (Plan, error) {
	account, err := store.Global[store.Account](t.Tx()).Get(t.AccountID())
	if err != nil {
		return Plan{}, err
	}
	policies, n, err := read(t)
	if err != nil {
		return Plan{}, err
	}
	plan, err := Make(f, policies, n, remove)
	plan.Account, plan.At = account.Name, t.Now()
	return plan, err
}

func (p Plan) changes() []preview.Change {
	out := make([]preview.Change, len(p.Steps))
	for i, s := range p.Steps {
		out[i] = preview.Change{Policy: s.to, Delete: s.Action == Delete}
	}
	return out
}

// ErrOutdated says that a plan was made for other policies, or of another file.
var ErrOutdated = errors.New("the plan no longer fits")

// Apply applies a file as one transaction, whose changes are recorded one by one and together. With a saved plan it
// refuses (ErrOutdated) unless the file would do now exactly what the plan says.
func (s *Service) Apply(ctx context.Context, p tenant.Principal, f File, remove bool, saved *Plan) (Plan, error) {
	var plan Plan
	err := s.store.Tx(ctx, func(tx *store.Tx) (err error) {
		t := tx.Tenant(p.AccountID)
		if plan, err = s.plan(t, f, remove); err != nil {
			return err
		}
		if saved != nil && (saved.Base != plan.Base || saved.Target != plan.Target) {
			what := "the account's policies, images or devices changed since it was made"
			if saved.Base == plan.Base {
				what = "it was made of another file, or with another --delete"
			}
			return fmt.Errorf("%w: %s; look at a new plan", ErrOutdated, what)
		}
		for _, step := range plan.Steps {
			if err := s.carryOut(t, p, step); err != nil {
				return fmt.Errorf("policy %q: %w", step.Policy, err)
			}
		}
		if plan.Empty() {
			return nil
		}
		return audit.Append(t, audit.Entry{Category: audit.Policy, Event: "policy.file-applied", Actor: p.Actor(), Subject: t.AccountID(),
			Detail: map[string]string{"steps": fmt.Sprint(len(plan.Steps)), "base": plan.Base, "target": plan.Target}})
	})
	return plan, err
}

func (s *Service) carryOut(t *store.Tenant, p tenant.Principal, step Step) error {
	switch step.Action {
	case Create:
		_, err := s.policies.CreateIn(t, p, step.to)
		return err
	case Delete:
		return s.policies.DeleteIn(t, p, step.to.ID)
	}
	// A step before this one may have taken a device from this policy, which counts as a change of it.
	row, err := store.In[store.Policy](t).Get(step.to.ID)
	if err != nil {
		return err
	}
	step.to.Version = row.Version
	if row.IsDefault {
		step.to.ImageIDs, step.to.DeviceIDs = nil, nil
	}
	_, err = s.policies.UpdateIn(t, p, row.ID, step.to)
	return err
}

// read is the account's policies with the names of what they hold.
func read(t *store.Tenant) ([]api.Policy, Names, error) {
	n := Names{Images: Register{}, Devices: Register{}}
	policies, err := policyset.All(t)
	if err != nil {
		return nil, n, err
	}
	images, err := store.In[store.Image](t).List(store.Only("id", "name"))
	if err != nil {
		return nil, n, err
	}
	for _, i := range images {
		n.Images[i.ID] = i.Name
	}
	devices, err := store.In[store.Device](t).List(store.Only("id", "name"))
	if err != nil {
		return nil, n, err
	}
	for _, d := range devices {
		n.Devices[d.ID] = d.Name
	}
	sets, err := store.In[store.RAIDSet](t).List(store.Only("id", "name"))
	for _, r := range sets {
		n.Devices[r.ID] = r.Name
	}
	return policies, n, err
}
