package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"keyward/broker/api"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// signedPart is a row as package chain signs and verifies it.
func signedPart(c store.AuditCheckpoint) chain.Checkpoint {
	return chain.Checkpoint{AccountID: c.AccountID, Sequence: c.Sequence, At: c.At, Hash: c.Hash, KeyID: c.KeyID, Signature: c.Signature, Root: c.Root}
}

// SignedHead is the head of the log as it is signed now: the newest checkpoint. Give it to whoever should be able to tell later that the
// log was not rewritten.
func (s *Service) SignedHead(ctx context.Context, p tenant.Principal) (chain.Checkpoint, error) {
	if err := s.checkpoint(ctx, p.AccountID, 1); err != nil {
		return chain.Checkpoint{}, err
	}
	var out chain.Checkpoint
	err := s.store.View(ctx, func(tx *store.Tx) error {
		c, err := s.signedAt(tx.Tenant(p.AccountID), 1, store.Desc("sequence"))
		out = signedPart(c)
		return err
	})
	return out, err
}

// Checkpoints lists the signatures over the log, newest first.
func (s *Service) Checkpoints(ctx context.Context, p tenant.Principal, page, size int) (api.AuditCheckpoints, error) {
	f := Filter{Page: page, Size: size}
	if err := f.check(); err != nil {
		return api.AuditCheckpoints{}, err
	}
	if size == 0 {
		size = 25
	}
	out := api.AuditCheckpoints{Checkpoints: []api.AuditCheckpointInfo{}}
	err := s.store.View(ctx, func(tx *store.Tx) error {
		table := store.In[store.AuditCheckpoint](tx.Tenant(p.AccountID))
		var err error
		if out.Total, err = table.Count(); err != nil {
			return err
		}
		rows, err := table.List(store.Desc("sequence"), store.Limit(size), store.Offset((max(page, 1)-1)*size))
		out.Checkpoints = out.Checkpoints[:0]
		for _, c := range rows {
			out.Checkpoints = append(out.Checkpoints, api.AuditCheckpointInfo{Sequence: c.Sequence, At: c.At, Hash: c.Hash, Root: c.Root, KeyID: c.KeyID})
		}
		return err
	})
	return out, err
}

// signedAt is the first checkpoint in the order with a tree of at least so many records.
func (s *Service) signedAt(t *store.Tenant, records int64, order store.Filter) (store.AuditCheckpoint, error) {
	c, err := store.In[store.AuditCheckpoint](t).First(store.AtLeast("sequence", records), store.NotNull("root"), store.OneOf("key_id", s.known), order)
	if errors.Is(err, store.ErrNotFound) {
		return c, problem.NotFound("checkpoint")
	}
	return c, err
}

// Question is what is to be proved: that the record is in the log; or that the log that was signed at record From is the
// beginning of the one that was signed at record To, 0 being the newest.
type Question struct{ Record, From, To int64 }

// Prove answers a question with a proof for package chain.
func (s *Service) Prove(ctx context.Context, p tenant.Principal, q Question) ([]byte, error) {
	if (q.Record == 0) == (q.From == 0) || q.To != 0 && q.From == 0 {
		return nil, problem.Invalid("record", "name record, or from and perhaps to")
	}
	if q.Record != 0 {
		return s.ProveRecord(ctx, p, q.Record)
	}
	return s.ProveConsistency(ctx, p, q.From, q.To)
}

// PEM is a public key of audit logs as audit verify takes it.
func PEM(key ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding the public key of audit logs: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ProveRecord proves that a record is in the log. Records that no checkpoint signs yet are signed now.
func (s *Service) ProveRecord(ctx context.Context, p tenant.Principal, sequence int64) ([]byte, error) {
	if sequence < 1 {
		return nil, problem.Invalid("record", "counts from 1")
	}
	if err := s.checkpoint(ctx, p.AccountID, 1); err != nil {
		return nil, err
	}
	return s.prove(ctx, p, func(t *store.Tenant, out *chain.Proof) (chain.ProofPlan, error) {
		row, err := store.In[store.AuditRecord](t).First(store.Eq("sequence", sequence))
		if errors.Is(err, store.ErrNotFound) {
			return chain.ProofPlan{}, problem.NotFound("record")
		}
		if err != nil {
			return chain.ProofPlan{}, err
		}
		c, err := s.signedAt(t, sequence, store.Asc("sequence"))
		if err != nil {
			return chain.ProofPlan{}, err
		}
		record := view(row)
		out.Record, out.Checkpoint = &record, signedPart(c)
		return chain.PlanInclusion(sequence, c.Sequence)
	})
}

// ProveConsistency proves that the log that was signed at record from is the beginning of the log that was signed at
// record to; 0 is the newest.
func (s *Service) ProveConsistency(ctx context.Context, p tenant.Principal, from, to int64) ([]byte, error) {
	if from < 1 || to != 0 && to < from {
		return nil, problem.Invalid("from", "is a checkpoint's record, and not behind the other one's")
	}
	if to == 0 {
		if err := s.checkpoint(ctx, p.AccountID, 1); err != nil {
			return nil, err
		}
	}
	return s.prove(ctx, p, func(t *store.Tenant, out *chain.Proof) (chain.ProofPlan, error) {
		a, err := s.signedAt(t, from, store.Asc("sequence"))
		if err != nil {
			return chain.ProofPlan{}, err
		}
		if a.Sequence != from {
			return chain.ProofPlan{}, problem.Invalid("from", fmt.Sprintf("is no signed record; the next one is %d", a.Sequence))
		}
		var b store.AuditCheckpoint
		if to == 0 {
			b, err = s.signedAt(t, from, store.Desc("sequence"))
		} else if b, err = s.signedAt(t, to, store.Asc("sequence")); err == nil && b.Sequence != to {
			err = problem.Invalid("to", fmt.Sprintf("is no signed record; the next one is %d", b.Sequence))
		}
		if err != nil {
			return chain.ProofPlan{}, err
		}
		earlier := signedPart(a)
		out.From, out.Checkpoint = &earlier, signedPart(b)
		return chain.PlanConsistency(a.Sequence, b.Sequence)
	})
}

func (s *Service) prove(ctx context.Context, p tenant.Principal, plan func(*store.Tenant, *chain.Proof) (chain.ProofPlan, error)) ([]byte, error) {
	out := chain.Proof{Key: s.PublicKey(), Keys: s.rotations}
	err := s.store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		todo, err := plan(t, &out)
		if err != nil {
			return err
		}
		nodes := make([][]byte, len(todo.Nodes))
		for i, n := range todo.Nodes {
			if nodes[i], err = nodeHash(t, n); err != nil {
				return err
			}
		}
		out.Hashes, err = todo.Hashes(nodes)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out.Encode()
}
