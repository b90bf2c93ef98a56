package chain

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Checkpoint is a signature over the head of an account's chain: at that time, the log ended with that hash.
type Checkpoint struct {
	AccountID string    `json:"account_id"`
	Sequence  int64     `json:"sequence"`
	At        time.Time `json:"at"`
	Hash      []byte    `json:"hash"`
	KeyID     string    `json:"key_id"`
	Signature []byte    `json:"signature"`
	// Root is the root of the tree of the records up to Sequence (tree.go), signed too; brokers before trees signed none.
	Root []byte `json:"root,omitempty"`
}

// KeyID names a signing key: the first eight bytes of its SHA-256 in hexadecimal.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

// Sign makes a checkpoint of a chain that has at least one record, without a tree.
func Sign(key ed25519.PrivateKey, account string, head Head, at time.Time) (Checkpoint, error) {
	return SignTree(key, account, head, nil, at)
}

// SignTree makes a checkpoint of a chain that has at least one record, and of its tree's root.
func SignTree(key ed25519.PrivateKey, account string, head Head, root []byte, at time.Time) (Checkpoint, error) {
	if len(key) != ed25519.PrivateKeySize {
		return Checkpoint{}, errors.New("audit: signing a checkpoint: the key is no Ed25519 private key: restore it from a backup")
	}
	if account == "" || head.Sequence < 1 || len(head.Hash) != sha256.Size {
		return Checkpoint{}, errors.New("audit: signing a checkpoint: the chain has no record yet, or its head is damaged: verify the log")
	}
	c := Checkpoint{AccountID: account, Sequence: head.Sequence, At: at.UTC().Truncate(time.Microsecond), Hash: bytes.Clone(head.Hash),
		KeyID: KeyID(key.Public().(ed25519.PublicKey)), Root: bytes.Clone(root)}
	c.Signature = ed25519.Sign(key, c.signed())
	return c, nil
}

// Verify checks a checkpoint's signature.
func (c Checkpoint) Verify(public ed25519.PublicKey) error {
	if len(public) != ed25519.PublicKeySize {
		return errors.New("the key is no Ed25519 public key")
	}
	if c.KeyID != KeyID(public) {
		return fmt.Errorf("it is signed by key %.32q, not %s", c.KeyID, KeyID(public))
	}
	if len(c.Hash) != sha256.Size || len(c.Root) != 0 && len(c.Root) != sha256.Size || !ed25519.Verify(public, c.signed(), c.Signature) {
		return errors.New("its signature is wrong")
	}
	return nil
}

// signed are the bytes under a checkpoint's signature, encoded as records are.
func (c Checkpoint) signed() []byte {
	if len(c.Root) > 0 {
		return encode("keyward audit checkpoint v2", c.AccountID, c.Sequence, c.At.UnixMicro(), c.Hash, c.Root)
	}
	return encode("keyward audit checkpoint v1", c.AccountID, c.Sequence, c.At.UnixMicro(), c.Hash)
}

// encode joins a domain and fields, each number as eight bytes and each string after its length, big-endian.
func encode(fields ...any) []byte {
	var out []byte
	for _, field := range fields {
		switch v := field.(type) {
		case int64:
			out = appendNumber(out, v)
		case string:
			out = appendText(out, v)
		case []byte:
			out = append(appendNumber(out, int64(len(v))), v...)
		default:
			panic(fmt.Sprintf("chain: %T has no encoding", v)) // a mistake in this package, found by its first test
		}
	}
	return out
}

func appendNumber(out []byte, n int64) []byte { return binary.BigEndian.AppendUint64(out, uint64(n)) }

func appendText(out []byte, text string) []byte {
	return append(appendNumber(out, int64(len(text))), text...)
}
