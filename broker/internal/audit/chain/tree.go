package chain

import (
	"errors"
	"fmt"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// The records of an account are the leaves of a Merkle tree as RFC 6962 (section 2.1) and RFC 9162 hash it: leaf i, counted
// from 0, is the hash of record i+1. Its root is signed with the head of the chain in every checkpoint, so that one record
// can be shown to be in the log, and an earlier log to be the beginning of a later one, without the records between.

var ranges = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// Leaf is the hash of a record's leaf.
func Leaf(recordHash []byte) []byte { return rfc6962.DefaultHasher.HashLeaf(recordHash) }

// Tree is the right edge of the tree of a log's first records: what is needed to go on. It holds at most 63 hashes.
type Tree struct{ edge *compact.Range }

// NewTree continues a tree of so many records from the roots of the perfect subtrees that cover it, left to right; none
// begin a new one.
func NewTree(records int64, edge [][]byte) (*Tree, error) {
	if records < 0 {
		return nil, errors.New("audit: a tree has no negative size")
	}
	for _, h := range edge {
		if len(h) != 32 {
			return nil, fmt.Errorf("audit: a node of the tree has %d bytes, not 32", len(h))
		}
	}
	r, err := ranges.NewRange(0, uint64(records), edge)
	if err != nil {
		return nil, fmt.Errorf("audit: continuing the tree: %w", err)
	}
	return &Tree{r}, nil
}

// Size is the number of records in the tree.
func (t *Tree) Size() int64 { return int64(t.edge.End()) }

// Append adds the record with the hash. visit, which may be nil, is told of every node that is complete now.
func (t *Tree) Append(recordHash []byte, visit func(level int, position int64, hash []byte)) error {
	var v compact.VisitFn
	if visit != nil {
		v = func(id compact.NodeID, hash []byte) { visit(int(id.Level), int64(id.Index), hash) }
	}
	return t.edge.Append(Leaf(recordHash), v)
}

// Edge is what NewTree takes.
func (t *Tree) Edge() [][]byte { return t.edge.Hashes() }

// Root is the tree's root; that of no records is the hash of nothing.
func (t *Tree) Root() ([]byte, error) {
	if t.Size() == 0 {
		return rfc6962.DefaultHasher.EmptyRoot(), nil
	}
	return t.edge.GetRootHash(nil)
}

// Node names a perfect subtree: level 0 are leaves, and Position counts from 0 within the level.
type Node struct {
	Level    int
	Position int64
}

// Covers are the first record under the node and the one behind its last.
func (n Node) Covers() (from, to int64) {
	return n.Position<<n.Level + 1, (n.Position+1)<<n.Level + 1
}

// EdgeNodes are the nodes that cover the first records, left to right.
func EdgeNodes(records int64) []Node { return nodesOf(compact.RangeNodes(0, uint64(records), nil)) }

func nodesOf(ids []compact.NodeID) []Node {
	out := make([]Node, len(ids))
	for i, id := range ids {
		out[i] = Node{int(id.Level), int64(id.Index)}
	}
	return out
}

// Subtree is the root of the perfect subtree over records with the hashes; their number is a power of two.
func Subtree(recordHashes [][]byte) ([]byte, error) {
	t, err := NewTree(0, nil)
	if err != nil {
		return nil, err
	}
	for _, h := range recordHashes {
		if err := t.Append(h, nil); err != nil {
			return nil, err
		}
	}
	if len(t.Edge()) != 1 {
		return nil, fmt.Errorf("audit: %d records are no perfect subtree: the log lacks records; verify it", len(recordHashes))
	}
	return t.Edge()[0], nil
}
