package consoletest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// auditKey signs the site's log.
var auditKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// signed are the sequences at which the site's log was signed.
var signed = []int64{8, 24, 40}

// PublicKey verifies what auditKey signs.
func (b *Broker) PublicKey() ed25519.PublicKey { return auditKey.Public().(ed25519.PublicKey) }

// log is the site's log as a broker would have chained it.
func (b *Broker) log() ([]api.AuditRecord, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var head chain.Head
	out := slices.Clone(b.records)
	for i, r := range out {
		sealed, err := chain.Seal(b.account.ID, head, r)
		if err != nil {
			return nil, err
		}
		out[i], head = sealed, chain.HeadOf(sealed)
	}
	return out, nil
}

func (b *Broker) checkpoint(log []api.AuditRecord, at int64) (chain.Checkpoint, error) {
	if at < 1 || at > int64(len(log)) {
		return chain.Checkpoint{}, problem.NotFound("checkpoint")
	}
	tree, err := chain.NewTree(0, nil)
	for i := range log[:at] {
		if err == nil {
			err = tree.Append(log[i].Hash, nil)
		}
	}
	if err != nil {
		return chain.Checkpoint{}, err
	}
	root, err := tree.Root()
	if err != nil {
		return chain.Checkpoint{}, err
	}
	return chain.SignTree(auditKey, b.account.ID, chain.HeadOf(log[at-1]), root, log[at-1].At.Add(time.Second))
}

// Prove proves from the records in memory.
func (b *Broker) Prove(_ context.Context, _ tenant.Principal, q audit.Question) ([]byte, error) {
	log, err := b.log()
	if err != nil {
		return nil, err
	}
	out := chain.Proof{Key: b.PublicKey()}
	last := int64(len(log))
	var plan chain.ProofPlan
	switch {
	case q.Record > last || q.From > last:
		return nil, problem.NotFound("record")
	case q.Record > 0:
		out.Record = &log[q.Record-1]
		plan, err = chain.PlanInclusion(q.Record, last)
	case q.From > 0:
		var earlier chain.Checkpoint
		if earlier, err = b.checkpoint(log, q.From); err == nil {
			out.From = &earlier
			plan, err = chain.PlanConsistency(q.From, last)
		}
	default:
		return nil, problem.Invalid("record", "name record, or from and perhaps to")
	}
	if err != nil {
		return nil, err
	}
	if out.Checkpoint, err = b.checkpoint(log, last); err != nil {
		return nil, err
	}
	var nodes [][]byte
	for _, n := range plan.Nodes {
		from, to := n.Covers()
		var hashes [][]byte
		for _, r := range log[from-1 : to-1] {
			hashes = append(hashes, r.Hash)
		}
		node, err := chain.Subtree(hashes)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, node)
	}
	if out.Hashes, err = plan.Hashes(nodes); err != nil {
		return nil, err
	}
	return out.Encode()
}

// SignedHead signs the log as it is.
func (b *Broker) SignedHead(context.Context, tenant.Principal) (chain.Checkpoint, error) {
	log, err := b.log()
	if err != nil {
		return chain.Checkpoint{}, err
	}
	return b.checkpoint(log, int64(len(log)))
}

// Checkpoints lists what was signed, newest first.
func (b *Broker) Checkpoints(_ context.Context, _ tenant.Principal, _, _ int) (api.AuditCheckpoints, error) {
	log, err := b.log()
	out := api.AuditCheckpoints{Checkpoints: []api.AuditCheckpointInfo{}, Total: int64(len(signed))}
	for _, at := range slices.Backward(signed) {
		c, err := b.checkpoint(log, at)
		if err != nil {
			return out, err
		}
		out.Checkpoints = append(out.Checkpoints, api.AuditCheckpointInfo{Sequence: c.Sequence, At: c.At, Hash: c.Hash, Root: c.Root, KeyID: c.KeyID})
	}
	return out, err
}

// Archives are two archived months, of which the older one may go, and one that went.
func (b *Broker) Archives(context.Context, tenant.Principal) (api.AuditArchives, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.Clock()
	month := func(ago int) time.Time {
		return time.Date(now.Year(), now.Month()-time.Month(ago), 1, 0, 0, 0, 0, time.UTC)
	}
	archive := func(ago int, first, last int64) api.AuditArchive {
		kept := month(ago - 25)
		return api.AuditArchive{Month: month(ago).Format("2006-01"), From: month(ago), To: month(ago - 1), First: first, Last: last, Records: last - first + 1,
			DeletableFrom: kept, Deletable: !now.Before(kept)}
	}
	return api.AuditArchives{Archives: []api.AuditArchive{archive(14, 61_240, 88_012), archive(26, 40_113, 61_239)}, Deleted: []api.AuditDeletion{{First: 1, Last: 40_112,
		Since: month(30), Until: month(26).Add(-time.Minute), At: now.Add(-50 * time.Hour), Actor: "user:otto", Reason: b.deletedFor, Hash: bytes.Repeat([]byte{0xc4}, 32),
		KeyID: chain.KeyID(b.PublicKey())}}}, nil
}

// DeleteArchives refuses what the form must confirm.
func (b *Broker) DeleteArchives(_ context.Context, p tenant.Principal, in api.AuditDelete) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.Month == "" || in.Confirm != in.Month {
		return problem.Invalid("confirm", "is not the month; type it exactly to say that you mean it")
	}
	return b.write(p, "server", "log.deleted", in.Month)
}
