package keystore

import (
	"bytes"
	"errors"
	"testing"
)

func TestAccountSecret_opensInItsPlaceOnly(t *testing.T) {
	t.Parallel()
	root := testRoot(t, 1)
	a, other := newAccount(t, root, "acc"), newAccount(t, root, "other")
	secret := []byte("twenty secret bytes!")
	wrapped, err := WrapAccountSecret(root, a, "second factor", "user-1", KeyOf(bytes.Clone(secret)))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(wrapped, secret[:8]) {
		t.Error("the secret is stored as it is")
	}
	got, err := OpenAccountSecret(root, a, "second factor", "user-1", wrapped)
	if err != nil || !bytes.Equal(got.Bytes(), secret) {
		t.Fatalf("%v", err)
	}
	for name, open := range map[string]func() (Key, error){
		"another user's":     func() (Key, error) { return OpenAccountSecret(root, a, "second factor", "user-2", wrapped) },
		"for another use":    func() (Key, error) { return OpenAccountSecret(root, a, "other", "user-1", wrapped) },
		"in another account": func() (Key, error) { return OpenAccountSecret(root, other, "second factor", "user-1", wrapped) },
		"changed": func() (Key, error) {
			b := bytes.Clone(wrapped)
			b[len(b)-1] ^= 1
			return OpenAccountSecret(root, a, "second factor", "user-1", b)
		},
	} {
		if _, err := open(); !errors.Is(err, ErrUnwrap) {
			t.Errorf("%s: %v", name, err)
		}
	}
	next, err := NextAccountKey(root, a)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := RewrapAccountSecret(root, next, "second factor", "user-1", wrapped)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenAccountSecret(root, next, "second factor", "user-1", moved); err != nil || !bytes.Equal(got.Bytes(), secret) {
		t.Errorf("after a rotation: %v", err)
	}
}
