package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Service signs, queries and exports the logs.
type Service struct {
	store *store.Store
	key   ed25519.PrivateKey
	clock func() time.Time
	// rotations are the changes of key that led to key; known are the IDs of all keys.
	rotations []chain.Rotation
	known     []string
}

// New makes the service. key signs checkpoints and exports; brokers on one database share it.
func New(st *store.Store, key ed25519.PrivateKey, clock func() time.Time) *Service {
	if clock == nil {
		clock = time.Now
	}
	return &Service{store: st, key: key, clock: clock, known: []string{chain.KeyID(key.Public().(ed25519.PublicKey))}}
}

// Rotated tells the service of the changes of key that led to its key, so that it exports what the keys before it signed.
func (s *Service) Rotated(rotations []chain.Rotation) error {
	keys, err := chain.Keys(s.PublicKey(), rotations)
	if err != nil {
		return fmt.Errorf("the changes of the key of audit logs: %w; restore the data folder from a backup", err)
	}
	s.rotations, s.known = rotations, slices.Sorted(maps.Keys(keys))
	return nil
}

// PublicKey verifies what the service signs.
func (s *Service) PublicKey() ed25519.PublicKey { return s.key.Public().(ed25519.PublicKey) }

// Filter selects records. Zero values select all; To is exclusive.
type Filter struct {
	Category string
	From, To time.Time
	// Page counts from 1; Size is 1 to 100, 0 means 25.
	Page, Size int
	// OldestFirst turns the order round.
	OldestFirst bool
}

// maxPage is the last page that can be asked for; older records are found by their time.
const maxPage = 1_000_000

func (f Filter) check() error {
	fields := map[string]string{}
	if f.Category != "" && !slices.Contains(Categories(), f.Category) {
		fields["category"] = "one of agent, key, policy, user and server"
	}
	if !f.From.IsZero() && !f.To.IsZero() && f.To.Before(f.From) {
		fields["to"] = "not before from"
	}
	if f.Size < 0 || f.Size > 100 {
		fields["size"] = "1 to 100 records on a page"
	}
	if f.Page < 0 || f.Page > maxPage {
		fields["page"] = "1 to " + strconv.Itoa(maxPage)
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	return nil
}

func (f Filter) where() []store.Filter {
	var out []store.Filter
	if f.Category != "" {
		out = append(out, store.Eq("category", f.Category))
	}
	if !f.From.IsZero() {
		out = append(out, store.After("at", f.From))
	}
	if !f.To.IsZero() {
		out = append(out, store.Before("at", f.To))
	}
	return out
}

// Query returns a page of the log, newest first unless asked otherwise.
func (s *Service) Query(ctx context.Context, p tenant.Principal, f Filter) (api.AuditPage, error) {
	if err := f.check(); err != nil {
		return api.AuditPage{}, err
	}
	size := f.Size
	if size == 0 {
		size = 25
	}
	order := store.Desc("sequence")
	if f.OldestFirst {
		order = store.Asc("sequence")
	}
	out := api.AuditPage{Records: []api.AuditRecord{}}
	err := s.store.View(ctx, func(tx *store.Tx) error {
		table := store.In[store.AuditRecord](tx.Tenant(p.AccountID))
		var err error
		if out.Total, err = table.Count(f.where()...); err != nil {
			return err
		}
		rows, err := table.List(append(f.where(), order, store.Limit(size), store.Offset((max(f.Page, 1)-1)*size))...)
		for _, r := range rows {
			out.Records = append(out.Records, view(r))
		}
		return err
	})
	return out, err
}

// Record appends one record in a transaction of its own, for events that change nothing else.
func (s *Service) Record(ctx context.Context, p tenant.Principal, e Entry) error {
	return s.store.Tx(ctx, func(tx *store.Tx) error { return Append(tx.Tenant(p.AccountID), e) })
}

// RecordAll appends one record to the log of every account: start and stop of the broker.
func (s *Service) RecordAll(ctx context.Context, e Entry) error {
	return s.eachAccount(ctx, func(t *store.Tenant) error { return Append(t, e) })
}

// Checkpoint signs the head of every account whose log has grown by at least records since its last checkpoint.
func (s *Service) Checkpoint(ctx context.Context, records int64) error {
	return s.each(ctx, func(id string) error { return s.checkpoint(ctx, id, max(records, 1)) })
}

// eachAccount runs f for each account in a transaction of its own, so that many accounts do not make a long one.
func (s *Service) eachAccount(ctx context.Context, f func(*store.Tenant) error) error {
	return s.each(ctx, func(id string) error {
		return s.store.Tx(ctx, func(tx *store.Tx) error { return f(tx.Tenant(id)) })
	})
}

// each runs f for each account; the failure of one does not keep the others from it.
func (s *Service) each(ctx context.Context, f func(accountID string) error) error {
	var ids []string
	if err := s.store.View(ctx, func(tx *store.Tx) error {
		ids = ids[:0]
		return tx.EachTenant(func(t *store.Tenant) error { ids = append(ids, t.AccountID()); return nil })
	}); err != nil {
		return err
	}
	var all error
	for _, id := range ids {
		if err := f(id); err != nil {
			all = errors.Join(all, fmt.Errorf("account %s: %w", id, err))
		}
	}
	return all
}

func (s *Service) sign(t *store.Tenant, records int64) error {
	last, err := store.In[store.AuditRecord](t).First(store.Desc("sequence"))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	table := store.In[store.AuditCheckpoint](t)
	signed, err := table.First(store.Desc("sequence"))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if last.Sequence-signed.Sequence < records {
		return nil
	}
	tree, err := treeOf(t, last.Sequence)
	if err != nil {
		return err
	}
	root, err := tree.Root()
	if err != nil {
		return err
	}
	c, err := chain.SignTree(s.key, t.AccountID(), chain.Head{Sequence: last.Sequence, Hash: last.Hash}, root, t.Now())
	if err != nil {
		return err
	}
	return table.Insert(&store.AuditCheckpoint{Sequence: c.Sequence, At: c.At, Hash: c.Hash, KeyID: c.KeyID, Signature: c.Signature, Root: c.Root})
}

// Head is the sequence of an account's last record; 0 when there is none.
func (s *Service) Head(ctx context.Context, accountID string) (int64, error) {
	var last store.AuditRecord
	err := s.store.View(ctx, func(tx *store.Tx) error {
		var err error
		last, err = store.In[store.AuditRecord](tx.Tenant(accountID)).First(store.Desc("sequence"))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	return last.Sequence, err
}
