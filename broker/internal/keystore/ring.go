package keystore

import (
	"errors"
	"fmt"
	"sync"
)

// Ring is several root keys while one takes over from another: all of them open, the active one wraps. It is safe for
// concurrent use.
type Ring struct {
	mu     sync.RWMutex
	active Root
	all    []Root
}

// NewRing makes a ring whose first root is active.
func NewRing(first Root, others ...Root) *Ring {
	return &Ring{active: first, all: append([]Root{first}, others...)}
}

// Active is the root of a ring that wraps; any other root is its own.
func Active(r Root) Root {
	ring, ok := r.(*Ring)
	if !ok {
		return r
	}
	ring.mu.RLock()
	defer ring.mu.RUnlock()
	return ring.active
}

// byID is the root with the ID among those that r holds.
func byID(r Root, id string) (Root, bool) {
	if ring, ok := r.(*Ring); ok {
		return ring.ByID(id)
	}
	return r, r.ID() == id
}

// ByID is the root with the ID.
func (r *Ring) ByID(id string) (Root, bool) {
	for _, one := range r.Roots() {
		if one.ID() == id {
			return one, true
		}
	}
	return nil, false
}

// Roots are all roots, the first one of NewRing first.
func (r *Ring) Roots() []Root {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return append([]Root(nil), r.all...)
}

// Add puts a further root into the ring; one with the ID of another is left out.
func (r *Ring) Add(root Root) {
	if _, has := r.ByID(root.ID()); has {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, root)
}

// Use makes the root with the ID the active one.
func (r *Ring) Use(id string) error {
	root, ok := r.ByID(id)
	if !ok {
		return fmt.Errorf("root key %s is not one of this broker's: name it with --root-key or --root-key-next", id)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = root
	return nil
}

// ID is the active root's.
func (r *Ring) ID() string { return Active(r).ID() }

// Provider is the active root's.
func (r *Ring) Provider() Provider { return Active(r).Provider() }

// Wrap is the active root's.
func (r *Ring) Wrap(aad []byte, key Key) ([]byte, error) { return Active(r).Wrap(aad, key) }

// Unwrap opens with the active root or, when that one did not wrap the bytes, with the others.
func (r *Ring) Unwrap(aad, wrapped []byte) (Key, error) {
	active := Active(r)
	key, err := active.Unwrap(aad, wrapped)
	if err == nil {
		return key, nil
	}
	for _, other := range r.Roots() {
		if other == active {
			continue
		}
		key, otherErr := other.Unwrap(aad, wrapped)
		if otherErr == nil {
			return key, nil
		}
		err = errors.Join(err, otherErr)
	}
	return Key{}, err
}
