package keystore

import (
	"bytes"
	"errors"
	"testing"
)

func TestRing_opensWithEveryRootAndWrapsWithTheActiveOne(t *testing.T) {
	t.Parallel()
	old, next, foreign := testRoot(t, 1), testRoot(t, 2), testRoot(t, 3)
	ring := NewRing(old, next)
	a := newAccount(t, ring, "acc")
	if a.RootKeyID != old.ID() {
		t.Fatalf("wrapped by %s", a.RootKeyID)
	}
	if err := ring.Use(next.ID()); err != nil {
		t.Fatal(err)
	}
	if ring.ID() != next.ID() || Active(ring) != next {
		t.Errorf("active is %s", ring.ID())
	}
	d := newDevice(t, ring, a, "dev", 256) // the account's key is still wrapped by the old root
	moved, err := RewrapAccountKey(ring, ring, a)
	if err != nil || moved.RootKeyID != next.ID() {
		t.Fatalf("%+v, %v", moved, err)
	}
	if !bytes.Equal(open(t, next, moved, d), open(t, old, a, d)) {
		t.Error("the device's key changed")
	}
	if err := ring.Use(foreign.ID()); err == nil {
		t.Error("a root that is not in the ring was made active")
	}
	ring.Add(foreign)
	ring.Add(foreign)
	if len(ring.Roots()) != 3 {
		t.Errorf("%d roots", len(ring.Roots()))
	}
	secret, err := WrapSecret(old, "CA key", KeyOf([]byte("private")))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := UnwrapSecret(ring, "CA key", secret); err != nil || string(got.Bytes()) != "private" {
		t.Errorf("a secret of the root before: %v", err)
	}
	if _, err := UnwrapSecret(NewRing(next, foreign), "CA key", secret); !errors.Is(err, ErrUnwrap) {
		t.Errorf("a secret of no root of the ring: %v", err)
	}
}

// takesOnly is a place that takes keys and gives other ones back.
type takesOnly struct{ Root }

func (takesOnly) Unwrap(_, _ []byte) (Key, error) { return KeyOf(make([]byte, 32)), nil }

func TestRotation_toARootThatDoesNotGiveBackIsRefused(t *testing.T) {
	t.Parallel()
	old := testRoot(t, 1)
	a := newAccount(t, old, "acc")
	if _, err := RewrapAccountKey(old, takesOnly{testRoot(t, 2)}, a); !errors.Is(err, ErrUnwrap) {
		t.Errorf("got %v", err)
	}
}

func TestRootSecret_onlyOfKeysInMemory(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 7)
	if k, ok := RootSecret(NewRing(root)); !ok || k.Len() != 32 {
		t.Error("the key of a file is not there")
	}
	if _, ok := RootSecret(takesOnly{root}); ok {
		t.Error("a key elsewhere was given out")
	}
}
