package chain

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"keyward/broker/api"
)

// ProofFormat is how a proof names itself.
const ProofFormat = "keyward-audit-proof"

// maxProof bounds a proof that is read, in bytes.
const maxProof = 1 << 20

// Proof shows, with Record, that a record is in the log that Checkpoint signs; with From, that the log of an earlier
// checkpoint is the beginning of it. It is one line of canonical JSON and verifies without a broker.
type Proof struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	// Record is the record whose inclusion is proved.
	Record *api.AuditRecord `json:"record,omitempty"`
	// From is the earlier of two checkpoints.
	From       *Checkpoint `json:"from,omitempty"`
	Checkpoint Checkpoint  `json:"checkpoint"`
	// Hashes is the proof in the order of RFC 9162, sections 2.1.3 and 2.1.4.
	Hashes [][]byte `json:"hashes"`
	// Key is the broker's public key for audit logs now, Keys how it came from those before.
	Key  []byte     `json:"key"`
	Keys []Rotation `json:"keys,omitempty"`
}

// ProofPlan is which nodes a proof is made of.
type ProofPlan struct {
	Nodes []Node
	nodes proof.Nodes
}

// PlanInclusion plans the proof that a record is among the first records of the log.
func PlanInclusion(record, size int64) (ProofPlan, error) {
	if record < 1 || size < record {
		return ProofPlan{}, fmt.Errorf("audit: record %d is not among the first %d", record, size)
	}
	n, err := proof.Inclusion(uint64(record-1), uint64(size))
	return ProofPlan{nodesOf(n.IDs), n}, err
}

// PlanConsistency plans the proof that the first from records are the beginning of the first to.
func PlanConsistency(from, to int64) (ProofPlan, error) {
	if from < 1 || to < from {
		return ProofPlan{}, fmt.Errorf("audit: %d records are not the beginning of %d", from, to)
	}
	n, err := proof.Consistency(uint64(from), uint64(to))
	return ProofPlan{nodesOf(n.IDs), n}, err
}

// Hashes makes the proof of the hashes of its nodes.
func (p ProofPlan) Hashes(nodes [][]byte) ([][]byte, error) {
	return p.nodes.Rehash(nodes, rfc6962.DefaultHasher.HashChildren)
}

// Encode is the proof as it is given away.
func (p Proof) Encode() ([]byte, error) {
	p.Format, p.Version = ProofFormat, 1
	if p.Record != nil {
		r := *p.Record
		r.At = r.At.UTC()
		if len(r.Detail) == 0 {
			r.Detail = nil
		}
		p.Record = &r
	}
	if p.Hashes == nil {
		p.Hashes = [][]byte{}
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encoding a proof: %w", err)
	}
	return append(raw, '\n'), nil
}

// ProofReport is what a verified proof shows.
type ProofReport struct {
	AccountID string
	// Record is the record that is in the log; nil of a proof of consistency.
	Record *api.AuditRecord
	// From is the size of the earlier log; 0 of a proof of inclusion.
	From int64
	// To is the size of the log that the checkpoint signs.
	To    int64
	Root  []byte
	KeyID string
	// Trusted is true when Options.TrustedKey is the key that signs, or one that led to it.
	Trusted bool
}

// VerifyProof checks a proof. The error says what is wrong with it.
func VerifyProof(data []byte, o Options) (ProofReport, error) {
	p, err := readProof(data)
	if err != nil {
		return ProofReport{}, err
	}
	keys, err := Keys(p.Key, p.Keys)
	if err != nil {
		return ProofReport{}, err
	}
	out := ProofReport{AccountID: p.Checkpoint.AccountID, To: p.Checkpoint.Sequence, Root: p.Checkpoint.Root, KeyID: KeyID(p.Key)}
	if o.TrustedKey != nil {
		if !trusts(keys, o.TrustedKey) {
			return out, fmt.Errorf("it is signed by key %s, and the trusted key %s did not lead to it: it is another broker's, or forged", out.KeyID, KeyID(o.TrustedKey))
		}
		out.Trusted = true
	}
	if err := p.Checkpoint.verifyTree(keys); err != nil {
		return out, fmt.Errorf("the checkpoint is refused: %w", err)
	}
	if p.Record != nil {
		return p.inclusion(out)
	}
	return p.consistency(out, keys)
}

func readProof(data []byte) (Proof, error) {
	var p Proof
	if len(data) > maxProof {
		return p, fmt.Errorf("a proof of %d bytes is none: at most %d", len(data), maxProof)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("the proof cannot be read (%w): bytes were changed", err)
	}
	if p.Format != ProofFormat || p.Version != 1 {
		return p, fmt.Errorf("format %.40q version %d is not %s version 1: use the program of the broker's version", p.Format, p.Version, ProofFormat)
	}
	if canonical, err := p.Encode(); err != nil || !bytes.Equal(canonical, data) {
		return p, errors.New("the proof is not as a broker writes it: bytes were changed")
	}
	if (p.Record == nil) == (p.From == nil) {
		return p, errors.New("a proof is of a record or of an earlier checkpoint")
	}
	if len(p.Hashes) > 2*bits.UintSize {
		return p, fmt.Errorf("%d hashes are no proof", len(p.Hashes))
	}
	return p, nil
}

// verifyTree checks a checkpoint by whichever key signed it, and that it signs a tree.
func (c Checkpoint) verifyTree(keys map[string]ed25519.PublicKey) error {
	if len(c.Root) == 0 || c.Sequence < 1 {
		return errors.New("it signs no tree")
	}
	if !exact(Line{Checkpoint: &c}) {
		return errors.New("its time is not in whole microseconds of UTC: bytes were changed")
	}
	key, ok := keys[c.KeyID]
	if !ok {
		return fmt.Errorf("it is signed by key %.32q, which is not the broker's", c.KeyID)
	}
	return c.Verify(key)
}

func (p Proof) inclusion(out ProofReport) (ProofReport, error) {
	r, size := *p.Record, p.Checkpoint.Sequence
	if err := check(p.Checkpoint.AccountID, r); err != nil {
		return out, err
	}
	switch {
	case !exact(Line{Record: &r}) || !bytes.Equal(r.Hash, Hash(p.Checkpoint.AccountID, r)):
		return out, errors.New("the record's hash does not fit its content: it was changed")
	case r.Sequence < 1 || r.Sequence > size:
		return out, fmt.Errorf("record %d is not among the %d that the checkpoint signs", r.Sequence, size)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(r.Sequence-1), uint64(size), Leaf(r.Hash), p.Hashes, p.Checkpoint.Root); err != nil {
		return out, fmt.Errorf("record %d is not in the log that the checkpoint signs: %w", r.Sequence, err)
	}
	out.Record = &r
	return out, nil
}

func (p Proof) consistency(out ProofReport, keys map[string]ed25519.PublicKey) (ProofReport, error) {
	if err := p.From.verifyTree(keys); err != nil {
		return out, fmt.Errorf("the earlier checkpoint is refused: %w", err)
	}
	switch {
	case p.From.AccountID != p.Checkpoint.AccountID:
		return out, errors.New("the checkpoints are of two accounts")
	case p.From.Sequence > p.Checkpoint.Sequence:
		return out, errors.New("the earlier checkpoint is the later one")
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(p.From.Sequence), uint64(p.Checkpoint.Sequence), p.Hashes, p.From.Root, p.Checkpoint.Root); err != nil {
		return out, fmt.Errorf("the log of the later checkpoint does not begin with that of the earlier one: it was rewritten: %w", err)
	}
	out.From = p.From.Sequence
	return out, nil
}
