package preview

import (
	"context"
	"errors"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

const (
	// maxRows is how many rows an answer lists.
	maxRows = 200
	// batch is how many devices or requests one transaction reads, so that a preview of a large account never holds up the
	// database, nor all of it in memory.
	batch = 200
	// margin is how long before the caller's own deadline a preview stops and says what it has not seen.
	margin = 1500 * time.Millisecond
)

// DefaultLimit is how long a preview or replay may take before it answers with what it has.
const DefaultLimit = 8 * time.Second

// Service previews policies of an account from the broker's records. It only reads.
type Service struct {
	store *store.Store
	// Limit bounds the time of one preview or replay.
	Limit time.Duration
}

// New makes the service.
func New(st *store.Store) *Service { return &Service{store: st, Limit: DefaultLimit} }

// Change is one policy as it would be saved, or, with Delete, the policy with this ID as it would be deleted.
type Change struct {
	Policy api.Policy
	Delete bool
}

// Policy previews saving one policy. A draft without ID is a new one; nil lists of members leave them as they are.
func (s *Service) Policy(ctx context.Context, p tenant.Principal, draft api.Policy) (api.PolicyPreview, error) {
	if err := policyset.Check(draft); err != nil {
		return api.PolicyPreview{}, err
	}
	return s.Changes(ctx, p, []Change{{Policy: draft}})
}

// Changes previews several changes at once.
func (s *Service) Changes(ctx context.Context, p tenant.Principal, changes []Change) (api.PolicyPreview, error) {
	out := api.PolicyPreview{Rows: []api.PreviewRow{}}
	before, after, err := s.worlds(ctx, p, changes)
	if err != nil {
		return out, err
	}
	var ids []string
	err = s.store.View(ctx, func(tx *store.Tx) error {
		out.At = tx.Now()
		ids, err = volumes(tx.Tenant(p.AccountID), func(device string) bool { return after.Affects(before, device) })
		return err
	})
	if err != nil {
		return out, err
	}
	over := s.deadline(ctx)
	rows := &ranked[api.PreviewRow]{most: maxRows}
	for len(ids) > 0 && !over() {
		n := min(batch, len(ids))
		err := s.store.View(ctx, func(tx *store.Tx) error {
			subjects, err := subjects(tx.Tenant(p.AccountID), ids[:n])
			for _, sub := range subjects {
				row := rowOf(sub, before.Judge(sub, out.At), after.Judge(sub, out.At))
				out.Before.Add(row.Before.Outcome)
				out.After.Add(row.After.Outcome)
				if row.Before.Outcome != row.After.Outcome {
					out.Changed++
				}
				rows.add(rank(row), row)
			}
			return err
		})
		if err != nil {
			return out, err
		}
		ids = ids[n:]
	}
	out.Unseen = int64(len(ids))
	out.Rows, out.Omitted = rows.list()
	return out, nil
}

// worlds are the account's policies before and after changes. What a change names must exist.
func (s *Service) worlds(ctx context.Context, p tenant.Principal, changes []Change) (before, after World, err error) {
	err = s.store.View(ctx, func(tx *store.Tx) error {
		policies, err := policyset.All(tx.Tenant(p.AccountID))
		if err != nil {
			return err
		}
		sets, err := inventory.FirstMembers(tx.Tenant(p.AccountID))
		if err != nil {
			return err
		}
		before = NewWorld(policies).Striped(sets)
		after, err = before.after(changes)
		return err
	})
	return before, after, err
}

// after is the world after changes; what they name must exist.
func (w World) after(changes []Change) (World, error) {
	for _, c := range changes {
		if _, known := w.policies[c.Policy.ID]; !known && c.Policy.ID != "" {
			return w, problem.NotFound("policy")
		}
		if c.Delete {
			w = w.Without(c.Policy.ID)
			continue
		}
		if c.Policy.ID == "" {
			c.Policy.ID = draftID + c.Policy.Name
		}
		w = w.With(c.Policy)
	}
	return w, nil
}

// draftID begins the ID of a policy that is not saved yet; no stored ID begins so.
const draftID = "draft:"

// deadline says when to stop: at the service's limit, and before the caller's own deadline.
func (s *Service) deadline(ctx context.Context) func() bool {
	end := time.Now().Add(s.Limit)
	if d, ok := ctx.Deadline(); ok && d.Add(-margin).Before(end) {
		end = d.Add(-margin)
	}
	return func() bool { return time.Now().After(end) }
}

func rowOf(s Subject, before, after api.Judgment) api.PreviewRow {
	row := api.PreviewRow{DeviceID: s.Device.ID, DeviceName: s.Device.Name, InstanceID: s.Instance.ID, InstanceName: s.Instance.HostName,
		Missing: s.Instance.Missing, Before: before, After: after}
	if r := s.Request; r != nil {
		row.RequestID, row.Number, row.Status = r.ID, r.Number, r.Status
	}
	if e, _, known := s.facts(time.Time{}); known {
		at := e.CollectedAt
		row.FactsAt = &at
	}
	return row
}

// rank orders rows: what would change first, and of that what takes most away.
func rank(row api.PreviewRow) int {
	order := map[api.Outcome]int{api.OutcomeRevoked: 0, api.OutcomeRevokedLater: 1, api.OutcomeDenied: 2, api.OutcomeWaits: 3,
		api.OutcomeUnknown: 4, api.OutcomeApproved: 5, api.OutcomeKeeps: 6}
	n := order[row.After.Outcome]
	if row.Before.Outcome == row.After.Outcome {
		n += len(order)
	}
	return n
}

// notFound is nil for a row that is not there.
func notFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
