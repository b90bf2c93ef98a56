package identity

import (
	"crypto/ecdsa"
	"errors"
	"path/filepath"
	"testing"

	"keyward/broker/api"
)

// A template's folder holds the image's identity beside the machine's, and the one never passes for the other.
func TestImageStore_liesBesideTheMachines(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	image, own := NewImageStore(dir), NewStore(dir)
	key, err := image.Key()
	if err != nil {
		t.Fatal(err)
	}
	answer := issue(t, key.Public(), api.ImageName+"img-1")
	answer.InstanceID, answer.ImageID = "", "img-1"
	if _, err := image.Save(answer, "https://broker", "m-1"); err != nil {
		t.Fatal(err)
	}
	id, err := image.Load()
	if err != nil || id.ImageID != "img-1" || id.InstanceID != "" || id.Machine != "m-1" {
		t.Fatalf("loaded %+v, %v", id, err)
	}
	if _, err := own.Load(); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("the machine's own: %v, want ErrNotEnrolled", err)
	}
	mine, err := own.Key()
	if err != nil {
		t.Fatal(err)
	}
	if mine.Public().(*ecdsa.PublicKey).Equal(key.Public()) {
		t.Error("machine and image share a key")
	}
	if _, err := own.Save(answer, "https://broker", "m-1"); err == nil {
		t.Error("an image's certificate was kept as the machine's")
	}
}

// What a copied disk brings of another machine is removed whole, and the image's identity stays.
func TestDiscard_leavesTheImage(t *testing.T) {
	t.Parallel()
	s, dir := enrolled(t)
	before, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewImageStore(dir).Key(); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("after: %v, want ErrNotEnrolled", err)
	}
	after, err := s.Key()
	if err != nil || after.Public().(*ecdsa.PublicKey).Equal(before.Public()) {
		t.Errorf("the key of the other machine is used again (%v)", err)
	}
	if err := s.Discard(); err != nil {
		t.Fatal(err)
	}
	if err := s.Discard(); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
}
