// Package policyset keeps an account's policies: what they say, and which images and devices belong to them.
//
// Every account has one default policy. It receives every new image and device, cannot be renamed or deleted, and its
// lists are computed: a device is in it until another policy takes the device; an image stays in it for good, so that a
// machine's other devices do not lose their policy when one of them moves. A device is in exactly one policy.
package policyset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Service reads and writes policies.
type Service struct {
	store *store.Store
	feed  *feed.Hub
}

// New makes the service.
func New(st *store.Store, hub *feed.Hub) *Service { return &Service{store: st, feed: hub} }

// List returns every policy, the default policy first, then by name.
func (s *Service) List(ctx context.Context, p tenant.Principal) ([]api.Policy, error) {
	var out []api.Policy
	err := s.store.View(ctx, func(tx *store.Tx) error {
		var err error
		out, err = All(tx.Tenant(p.AccountID))
		return err
	})
	return out, err
}

// All reads every policy with its members, the default policy first, then by name.
func All(t *store.Tenant) ([]api.Policy, error) {
	rows, err := store.In[store.Policy](t).List(store.Desc("is_default"), store.Asc("name"))
	if err != nil {
		return nil, err
	}
	members, err := membersOf(t)
	if err != nil {
		return nil, err
	}
	out := make([]api.Policy, 0, len(rows))
	for _, r := range rows {
		out = append(out, members.view(r))
	}
	return out, nil
}

// Get returns one policy.
func (s *Service) Get(ctx context.Context, p tenant.Principal, id string) (api.Policy, error) {
	var out api.Policy
	err := s.store.View(ctx, func(tx *store.Tx) error {
		var err error
		out, err = read(tx.Tenant(p.AccountID), id)
		return err
	})
	return out, err
}

// Create makes a policy. A nil list of images or devices means none.
func (s *Service) Create(ctx context.Context, p tenant.Principal, in api.Policy) (out api.Policy, err error) {
	if err := Check(in); err != nil {
		return api.Policy{}, err
	}
	err = s.store.Tx(ctx, func(tx *store.Tx) (err error) {
		out, err = s.CreateIn(tx.Tenant(p.AccountID), p, in)
		return err
	})
	return out, err
}

// CreateIn is Create inside the caller's transaction, of a policy that passed Check.
func (s *Service) CreateIn(t *store.Tenant, p tenant.Principal, in api.Policy) (api.Policy, error) {
	row := store.Policy{}
	fill(&row, in)
	if err := store.In[store.Policy](t).Insert(&row); err != nil {
		return api.Policy{}, named(err, in.Name)
	}
	if err := s.assign(t, p, &row, in); err != nil {
		return api.Policy{}, err
	}
	if err := s.record(t, p, "policy.created", row); err != nil {
		return api.Policy{}, err
	}
	return read(t, row.ID)
}

// Update saves a policy. in.Version is the version that the person saw; a nil list leaves the members as they are.
func (s *Service) Update(ctx context.Context, p tenant.Principal, id string, in api.Policy) (out api.Policy, err error) {
	if err := Check(in); err != nil {
		return api.Policy{}, err
	}
	err = s.store.Tx(ctx, func(tx *store.Tx) (err error) {
		out, err = s.UpdateIn(tx.Tenant(p.AccountID), p, id, in)
		return err
	})
	return out, err
}

// UpdateIn is Update inside the caller's transaction, of a policy that passed Check.
func (s *Service) UpdateIn(t *store.Tenant, p tenant.Principal, id string, in api.Policy) (api.Policy, error) {
	row, err := store.In[store.Policy](t).Get(id)
	if err != nil {
		return api.Policy{}, missing(err)
	}
	if in.Version != row.Version {
		return api.Policy{}, problem.Stale("policy")
	}
	if row.IsDefault {
		if err := checkDefault(t, row, in); err != nil {
			return api.Policy{}, err
		}
		in.ImageIDs, in.DeviceIDs = nil, nil
	}
	fill(&row, in)
	if err := store.In[store.Policy](t).Update(&row); err != nil {
		return api.Policy{}, named(err, in.Name)
	}
	if err := s.assign(t, p, &row, in); err != nil {
		return api.Policy{}, err
	}
	if err := s.record(t, p, "policy.changed", row); err != nil {
		return api.Policy{}, err
	}
	return read(t, id)
}

// Delete removes policies, all or none. The default policy stays, and so does one that still holds devices.
func (s *Service) Delete(ctx context.Context, p tenant.Principal, ids ...string) error {
	return s.store.Tx(ctx, func(tx *store.Tx) error {
		return s.DeleteIn(tx.Tenant(p.AccountID), p, ids...)
	})
}

// DeleteIn is Delete inside the caller's transaction.
func (s *Service) DeleteIn(t *store.Tenant, p tenant.Principal, ids ...string) error {
	for _, id := range ids {
		row, err := store.In[store.Policy](t).Get(id)
		if err != nil {
			return missing(err)
		}
		if row.IsDefault {
			return problem.New(409, "policy-is-default", "The default policy cannot be deleted",
				"New images and devices need a policy to go to.", "Change its rules and actions instead.")
		}
		devices, err := devicesIn(t, id)
		if err != nil {
			return err
		}
		if len(devices) > 0 {
			return problem.New(409, "policy-in-use", "The policy still holds devices",
				fmt.Sprintf("%q holds %d device(s).", row.Name, len(devices)), "Move its devices to other policies first.")
		}
		if err := store.In[store.Policy](t).Delete(id); err != nil {
			return fmt.Errorf("deleting policy %q: %w", row.Name, err)
		}
		if err := s.record(t, p, "policy.deleted", row); err != nil {
			return err
		}
	}
	return nil
}

// Facts is the registry of what rules can judge.
func (s *Service) Facts() []policy.FactInfo { return policy.Facts() }

func (s *Service) record(t *store.Tenant, p tenant.Principal, event string, row store.Policy) error {
	account := t.AccountID()
	t.AfterCommit(func() { s.feed.Publish(account, feed.TopicPolicies, feed.TopicDevices, feed.TopicImages) })
	return audit.Append(t, audit.Entry{Category: "policy", Event: event, Actor: p.Actor(), Subject: row.ID,
		Detail: map[string]string{"name": row.Name, "version": fmt.Sprint(row.Version), "rules": fmt.Sprint(len(row.Rules)),
			"on_match": string(row.OnMatch), "on_failure": string(row.OnFailure), "approvals_needed": fmt.Sprint(row.ApprovalsNeeded),
			"separate_approver": fmt.Sprint(row.SeparateApprover), "resource_pool": fmt.Sprint(row.ResourcePool), "checks": checksText(row)}})
}

// checksText says for the audit log what happens after delivery.
func checksText(row store.Policy) string {
	if !row.CheckEnabled {
		return "off"
	}
	text := cmp.Or(string(row.OnCheckFailure), string(api.CheckNotify))
	if row.PostponeSeconds > 0 {
		text += fmt.Sprintf(" after %d s", row.PostponeSeconds)
	}
	if row.CheckEveryHeartbeat {
		text += ", every heartbeat"
	}
	return text
}

func fill(row *store.Policy, in api.Policy) {
	if !row.IsDefault {
		row.Name = in.Name
	}
	row.Description = in.Description
	row.Rules = slices.Clone(in.Rules)
	row.OnMatch, row.OnFailure = in.OnMatch, in.OnFailure
	row.ApproveAfterSeconds = in.ApproveAfterSeconds
	row.LeaseSeconds, row.HeartbeatSeconds = in.LeaseSeconds, in.HeartbeatSeconds
	row.ResourcePool, row.SeparateApprover = in.ResourcePool, in.SeparateApprover
	row.ApprovalsNeeded, row.RequestSeconds = max(in.ApprovalsNeeded, 1), in.RequestSeconds
	if row.RequestSeconds == 0 {
		row.RequestSeconds = defaultRequest
	}
	row.RevokeMode = policy.RevokeModeOf(in)
	row.CheckEnabled, row.CheckEveryHeartbeat = in.CheckEnabled, in.CheckEveryHeartbeat
	row.OnCheckFailure, row.PostponeSeconds = in.OnCheckFailure, in.PostponeSeconds
	row.MissingAfterSeconds = in.MissingAfterSeconds
}

// Stored is a policy as it reads once it is saved: with the values of what was left out.
func Stored(in api.Policy) api.Policy {
	row := store.Policy{}
	fill(&row, in)
	out := View(row)
	out.ID, out.Version, out.Default, out.ImageIDs, out.DeviceIDs = in.ID, in.Version, in.Default, in.ImageIDs, in.DeviceIDs
	return out
}

func named(err error, name string) error {
	if errors.Is(err, store.ErrDuplicate) {
		return problem.New(409, "name-taken", "The name is taken", fmt.Sprintf("There is a policy named %q already.", name), "Choose another name.")
	}
	if errors.Is(err, store.ErrStale) {
		return problem.Stale("policy")
	}
	return err
}

func missing(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return problem.NotFound("policy")
	}
	return err
}
