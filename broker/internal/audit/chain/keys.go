package chain

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"
)

// maxRotations bounds the changes of key that a reader takes from a stranger.
const maxRotations = 1000

// Rotation is a change of the key that signs audit logs. The old key names the new one and the new key the old one, so
// that whoever trusts one of them can follow to the other.
type Rotation struct {
	// Number counts the broker's rotations from 1.
	Number int64     `json:"number"`
	At     time.Time `json:"at"`
	// Old and New are Ed25519 public keys.
	Old          []byte `json:"old"`
	New          []byte `json:"new"`
	OldSignature []byte `json:"old_signature"`
	NewSignature []byte `json:"new_signature"`
}

// Rotate states that new follows old. number is one more than that of the rotation before.
func Rotate(number int64, at time.Time, old, next ed25519.PrivateKey) (Rotation, error) {
	if number < 1 || len(old) != ed25519.PrivateKeySize || len(next) != ed25519.PrivateKeySize {
		return Rotation{}, errors.New("audit: a rotation needs its number and two Ed25519 private keys")
	}
	r := Rotation{Number: number, At: at.UTC().Truncate(time.Microsecond), Old: bytes.Clone(old.Public().(ed25519.PublicKey)),
		New: bytes.Clone(next.Public().(ed25519.PublicKey))}
	r.OldSignature, r.NewSignature = ed25519.Sign(old, r.signed()), ed25519.Sign(next, r.signed())
	return r, nil
}

func (r Rotation) signed() []byte {
	return encode("keyward audit key rotation v1", r.Number, r.At.UnixMicro(), r.Old, r.New)
}

// Keys checks the rotations that led to a key and returns all keys by ID, that one included.
func Keys(current ed25519.PublicKey, rotations []Rotation) (map[string]ed25519.PublicKey, error) {
	if len(current) != ed25519.PublicKeySize {
		return nil, errors.New("the key is no Ed25519 public key")
	}
	if len(rotations) > maxRotations {
		return nil, fmt.Errorf("%d changes of key are too many: at most %d", len(rotations), maxRotations)
	}
	keys := map[string]ed25519.PublicKey{KeyID(current): current}
	for i, r := range rotations {
		switch {
		case r.Number != int64(i+1):
			return nil, fmt.Errorf("change %d of the key stands at place %d", r.Number, i+1)
		case len(r.Old) != ed25519.PublicKeySize || len(r.New) != ed25519.PublicKeySize:
			return nil, fmt.Errorf("change %d of the key names no Ed25519 keys", r.Number)
		case !ed25519.Verify(r.Old, r.signed(), r.OldSignature) || !ed25519.Verify(r.New, r.signed(), r.NewSignature):
			return nil, fmt.Errorf("change %d of the key has a wrong signature", r.Number)
		case i > 0 && !bytes.Equal(rotations[i-1].New, r.Old):
			return nil, fmt.Errorf("change %d of the key does not follow the one before it", r.Number)
		}
		keys[KeyID(r.Old)] = r.Old
	}
	if n := len(rotations); n > 0 && !bytes.Equal(rotations[n-1].New, current) {
		return nil, errors.New("the changes of the key do not lead to the key that signs")
	}
	return keys, nil
}

// trusts says whether a trusted key is among keys; nil trusts nothing.
func trusts(keys map[string]ed25519.PublicKey, trusted ed25519.PublicKey) bool {
	k, ok := keys[KeyID(trusted)]
	return ok && len(trusted) > 0 && bytes.Equal(k, trusted)
}
