package rootkey

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"keyward/broker/internal/keystore"
)

// wrapVersion is the first byte of what a remote root key wrapped; what follows is the place's own.
const wrapVersion = 2

const (
	// maxSecret bounds what is wrapped, as keystore does.
	maxSecret = 64 << 10
	// maxHeldBytes is the longest secret that is held: account keys, not the broker's own private keys.
	maxHeldBytes = 64
	// maxHeld is how many account keys are held.
	maxHeld  = 100_000
	probeAAD = "keyward root probe v1"
)

// Status is how a remote root key fares.
type Status struct {
	Provider keystore.Provider
	ID       string
	// Err is the last failure, nil while the key answers.
	Err error
	// AnsweredAt is when the key answered last.
	AnsweredAt time.Time
	// Until is when what it has opened is forgotten unless it answers again; zero while it answers.
	Until time.Time
}

// Held is a root key in a place that may become unreachable. It holds the account keys that the place has opened, so that a
// key request costs no call, and goes on giving them out while the place does not answer, for the time of Options.Keep.
type Held struct {
	place    place
	provider keystore.Provider
	keep     time.Duration
	clock    func() time.Time

	mu         sync.Mutex
	keys       map[[sha256.Size]byte]keystore.Key
	probe      []byte
	answeredAt time.Time
	err        error
}

func newHeld(p place, provider keystore.Provider, keep time.Duration, clock func() time.Time) *Held {
	return &Held{place: p, provider: provider, keep: keep, clock: clock, keys: map[[sha256.Size]byte]keystore.Key{}}
}

// ID names the key.
func (h *Held) ID() string { return h.place.id() }

// Provider says what keeps the key.
func (h *Held) Provider() keystore.Provider { return h.provider }

// Wrap has the place encrypt a secret.
func (h *Held) Wrap(aad []byte, key keystore.Key) ([]byte, error) {
	if key.Len() == 0 || key.Len() > maxSecret {
		return nil, fmt.Errorf("a secret of %d bytes cannot be wrapped: 1 to %d bytes can", key.Len(), maxSecret)
	}
	sealed, err := h.place.encrypt(bound(aad), key.Bytes())
	h.note(err)
	if err != nil {
		return nil, fmt.Errorf("wrapping with root key %s: %w", h.ID(), err)
	}
	return append([]byte{wrapVersion}, sealed...), nil
}

// Unwrap has the place decrypt, or gives out what it decrypted before.
func (h *Held) Unwrap(aad, wrapped []byte) (keystore.Key, error) {
	if len(wrapped) < 2 || wrapped[0] != wrapVersion || len(wrapped) > 8*maxSecret {
		return keystore.Key{}, fmt.Errorf("with root key %s: these %d bytes were not wrapped by a remote root key: %w", h.ID(), len(wrapped), keystore.ErrUnwrap)
	}
	name := nameOf(aad, wrapped)
	if k, ok := h.held(name); ok {
		return k, nil
	}
	plain, err := h.place.decrypt(bound(aad), wrapped[1:])
	h.note(err)
	if err != nil {
		return keystore.Key{}, fmt.Errorf("with root key %s: %w", h.ID(), err)
	}
	if len(plain) == 0 || len(plain) > maxSecret {
		clear(plain)
		return keystore.Key{}, fmt.Errorf("with root key %s: it gave back %d bytes: %w", h.ID(), len(plain), keystore.ErrUnwrap)
	}
	h.hold(name, plain)
	return keystore.KeyOf(plain), nil
}

// Check asks the place for a sign of life: it opens what it wrapped itself. When it has not answered for the time that
// account keys are held, they are wiped.
func (h *Held) Check() error {
	h.mu.Lock()
	probe := h.probe
	h.mu.Unlock()
	if probe == nil {
		secret := make([]byte, 32)
		rand.Read(secret)
		sealed, err := h.place.encrypt(bound([]byte(probeAAD)), secret)
		if err == nil {
			var back []byte
			if back, err = h.place.decrypt(bound([]byte(probeAAD)), sealed); err == nil && !bytes.Equal(back, secret) {
				err = fmt.Errorf("it gives back something else than it was given: %w", keystore.ErrUnwrap)
			}
		}
		h.note(err)
		if err == nil {
			h.mu.Lock()
			h.probe = sealed
			h.mu.Unlock()
		}
		return err
	}
	_, err := h.place.decrypt(bound([]byte(probeAAD)), probe)
	if errors.Is(err, keystore.ErrUnwrap) {
		// It opened this before: the key is another one now, or its old versions were retired.
		err = fmt.Errorf("%w: it no longer opens what it wrapped: %w", keystore.ErrUnreachable, err)
	}
	h.note(err)
	return err
}

// Keep is how long what was opened is used while the key does not answer.
func (h *Held) Keep() time.Duration { return h.keep }

// Status says how the key fares.
func (h *Held) Status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Status{Provider: h.provider, ID: h.place.id(), Err: h.err, AnsweredAt: h.answeredAt}
	if h.err != nil {
		s.Until = h.answeredAt.Add(h.keep)
	}
	return s
}

// Close wipes what is held and lets the place go.
func (h *Held) Close() error {
	h.mu.Lock()
	h.forget()
	h.mu.Unlock()
	return h.place.close()
}

// note keeps whether the place answered. A refusal of single bytes is an answer too.
func (h *Held) note(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if errors.Is(err, keystore.ErrUnreachable) {
		h.err = err
		if h.over() {
			h.forget()
		}
		return
	}
	h.err, h.answeredAt = nil, h.clock()
}

// over says that the place has been silent for too long. The caller holds the lock.
func (h *Held) over() bool { return h.clock().Sub(h.answeredAt) > h.keep }

// forget wipes what is held. The caller holds the lock.
func (h *Held) forget() {
	for name, k := range h.keys {
		k.Wipe()
		delete(h.keys, name)
	}
}

// held gives out a copy, which the caller wipes.
func (h *Held) held(name [sha256.Size]byte) (keystore.Key, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k, ok := h.keys[name]
	if !ok || h.over() {
		return keystore.Key{}, false
	}
	return keystore.KeyOf(bytes.Clone(k.Bytes())), true
}

func (h *Held) hold(name [sha256.Size]byte, plain []byte) {
	if len(plain) > maxHeldBytes {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.keys) >= maxHeld {
		for other, k := range h.keys { // any one: it is opened again when it is needed
			k.Wipe()
			delete(h.keys, other)
			break
		}
	}
	h.keys[name] = keystore.KeyOf(bytes.Clone(plain))
}

// nameOf names a wrapped key together with what it is bound to, so that bytes of one row are never given out for another.
func nameOf(aad, wrapped []byte) [sha256.Size]byte {
	head := binary.BigEndian.AppendUint64(nil, uint64(len(aad)))
	return sha256.Sum256(append(append(head, aad...), wrapped...))
}

// bound puts the format's version under the tag as well.
func bound(aad []byte) []byte { return append([]byte{wrapVersion}, aad...) }

// Remotes are the root keys of a ring that are kept in other places.
func Remotes(r *keystore.Ring) []*Held {
	var out []*Held
	for _, root := range r.Roots() {
		if h, ok := root.(*Held); ok {
			out = append(out, h)
		}
	}
	return out
}

// Check asks every root key of a ring that is kept in another place for a sign of life.
func Check(r *keystore.Ring) error {
	var errs []error
	for _, h := range Remotes(r) {
		errs = append(errs, h.Check())
	}
	return errors.Join(errs...)
}

// Close lets the root keys of a ring go.
func Close(r *keystore.Ring) error {
	var errs []error
	for _, h := range Remotes(r) {
		errs = append(errs, h.Close())
	}
	return errors.Join(errs...)
}
