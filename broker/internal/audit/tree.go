package audit

import (
	"context"
	"errors"
	"fmt"

	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/store"
)

// Nodes of the tree are kept from this level on: of complete blocks of 256 records. What is below follows from reading
// one block.
const (
	keptLevel = 8
	blockSize = 1 << keptLevel
	// growBlocks is how many blocks are added in one transaction.
	growBlocks = 16
)

// checkpoint signs the head of an account's log when it has grown by at least records since its last checkpoint.
func (s *Service) checkpoint(ctx context.Context, accountID string, records int64) error {
	if err := s.grow(ctx, accountID); err != nil {
		return err
	}
	return s.store.Tx(ctx, func(tx *store.Tx) error { return s.sign(tx.Tenant(accountID), records) })
}

// grow stores the nodes of the blocks that are complete by now. The records are append-only, so what is read needs no
// transaction with what is written; of two brokers that do it at once one finds it done.
func (s *Service) grow(ctx context.Context, accountID string) error {
	for {
		var nodes []store.AuditNode
		var blocks int64
		err := s.store.View(ctx, func(tx *store.Tx) error {
			var err error
			nodes, blocks, err = missingNodes(tx.Tenant(accountID))
			return err
		})
		if err != nil {
			return fmt.Errorf("growing the tree of the audit log: %w", err)
		}
		if len(nodes) == 0 {
			return nil
		}
		err = s.store.Tx(ctx, func(tx *store.Tx) error {
			t := tx.Tenant(accountID)
			if n, err := keptBlocks(t); err != nil || n != blocks {
				return err
			}
			for _, n := range nodes {
				if err := store.In[store.AuditNode](t).Insert(&n); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("storing the tree of the audit log: %w", err)
		}
	}
}

// keptBlocks counts the blocks whose nodes are stored.
func keptBlocks(t *store.Tenant) (int64, error) {
	last, err := store.In[store.AuditNode](t).First(store.Eq("level", keptLevel), store.Desc("position"))
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	return last.Position + 1, err
}

// missingNodes makes the nodes of the next complete blocks, and counts the blocks before them.
func missingNodes(t *store.Tenant) ([]store.AuditNode, int64, error) {
	blocks, err := keptBlocks(t)
	if err != nil {
		return nil, 0, err
	}
	hashes, err := hashesOf(t, blocks*blockSize+1, growBlocks*blockSize)
	if err != nil {
		return nil, 0, err
	}
	hashes = hashes[:len(hashes)/blockSize*blockSize]
	if len(hashes) == 0 {
		return nil, blocks, nil
	}
	tree, err := keptTree(t, blocks)
	if err != nil {
		return nil, 0, err
	}
	var nodes []store.AuditNode
	for _, h := range hashes {
		if err := tree.Append(h, func(level int, position int64, hash []byte) {
			if level >= keptLevel {
				nodes = append(nodes, store.AuditNode{Level: level, Position: position, Hash: hash})
			}
		}); err != nil {
			return nil, 0, err
		}
	}
	return nodes, blocks, nil
}

// hashesOf reads the hashes of at most limit records from number first on.
func hashesOf(t *store.Tenant, first int64, limit int) ([][]byte, error) {
	rows, err := store.In[store.AuditRecord](t).List(store.AtLeast("sequence", first), store.Asc("sequence"), store.Limit(limit),
		store.Only("sequence", "hash"))
	if err != nil {
		return nil, err
	}
	var out [][]byte
	if len(rows) == 0 || rows[0].Sequence != first {
		if out, err = buriedHashes(t, first, limit); err != nil {
			return nil, err
		}
	}
	for _, r := range rows[:min(len(rows), limit-len(out))] {
		if due := first + int64(len(out)); r.Sequence != due {
			return nil, fmt.Errorf("record %d of the audit log is missing: verify the log, and restore it from a backup", due)
		}
		out = append(out, r.Hash)
	}
	return out, nil
}

// keptTree is the tree of the first blocks.
func keptTree(t *store.Tenant, blocks int64) (*chain.Tree, error) {
	var edge [][]byte
	for _, n := range chain.EdgeNodes(blocks * blockSize) {
		h, err := nodeHash(t, n)
		if err != nil {
			return nil, err
		}
		edge = append(edge, h)
	}
	return chain.NewTree(blocks*blockSize, edge)
}

// treeOf is the tree of the first records.
func treeOf(t *store.Tenant, records int64) (*chain.Tree, error) {
	blocks, err := keptBlocks(t)
	if err != nil {
		return nil, err
	}
	blocks = min(blocks, records/blockSize)
	tree, err := keptTree(t, blocks)
	if err != nil {
		return nil, err
	}
	for tree.Size() < records {
		hashes, err := hashesOf(t, tree.Size()+1, int(min(records-tree.Size(), growBlocks*blockSize)))
		if err != nil {
			return nil, err
		}
		if len(hashes) == 0 {
			return nil, fmt.Errorf("the audit log ends before record %d: verify it, and restore it from a backup", records)
		}
		for _, h := range hashes {
			if err := tree.Append(h, nil); err != nil {
				return nil, err
			}
		}
	}
	return tree, nil
}

// nodeHash is the hash of a complete node: a stored one, or one made of the records below it.
func nodeHash(t *store.Tenant, n chain.Node) ([]byte, error) {
	if n.Level >= keptLevel {
		row, err := store.In[store.AuditNode](t).First(store.Eq("level", n.Level), store.Eq("position", n.Position))
		if err != nil {
			return nil, fmt.Errorf("reading node %d of level %d of the audit log's tree: %w", n.Position, n.Level, err)
		}
		return row.Hash, nil
	}
	from, to := n.Covers()
	hashes, err := hashesOf(t, from, int(to-from))
	if err != nil {
		return nil, err
	}
	return chain.Subtree(hashes)
}
