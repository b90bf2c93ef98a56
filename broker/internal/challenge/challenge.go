// Package challenge gives machines nonces to answer and accepts each once. A nonce carries its own proof of origin, so
// none is stored before it is used: thousands of machines that boot at once cost no write until they ask, and machines
// that fetch nonces without end fill nothing. A machine can also make one of its TLS connection, for a call on that
// connection: docs/adr/0006.
package challenge

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Life is how long a nonce can be answered.
const Life = api.NonceLife

const (
	timeBytes   = 8
	randomBytes = 16
	valueBytes  = timeBytes + randomBytes + sha256.Size
)

// Issuer gives and accepts nonces. Brokers with one secret accept each other's. It is safe for concurrent use.
type Issuer struct{ key []byte }

// New makes an issuer whose key is derived (HKDF-SHA256) from a secret that the brokers of a database share and that is
// used for other things too; nil means a random one. The secret is only read.
func New(secret []byte) *Issuer {
	if secret == nil {
		secret = make([]byte, sha256.Size)
		rand.Read(secret)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "keyward nonce v1", sha256.Size)
	if err != nil {
		panic("challenge: " + err.Error()) // only for a length that is not ours
	}
	return &Issuer{key}
}

// Give makes a nonce for a machine.
func (i *Issuer) Give(p tenant.Principal, now time.Time) string {
	raw := make([]byte, timeBytes+randomBytes, valueBytes)
	binary.BigEndian.PutUint64(raw, uint64(now.Add(Life).UnixMicro()))
	rand.Read(raw[timeBytes:])
	return base64.RawURLEncoding.EncodeToString(append(raw, i.mac(p, raw)...))
}

// mac binds what a nonce says to the machine that it is for. IDs have no zero bytes.
func (i *Issuer) mac(p tenant.Principal, raw []byte) []byte {
	m := hmac.New(sha256.New, i.key)
	m.Write(raw)
	m.Write([]byte(p.AccountID + "\x00" + p.Instance))
	return m.Sum(nil)
}

// Spend accepts a nonce of the calling machine, once, with the transaction. A nonce of another connection it refuses, and
// has that count no more: the machine gave that connection up and asks elsewhere, and what may still be on its way there
// must not end what the machine is given now. The transaction commits that with the refusal (idempotency.Keep).
func (i *Issuer) Spend(t *store.Tenant, p tenant.Principal, value string) error {
	ends, ok := i.verify(p, value)
	_, made := ofSomeConnection(value)
	stray := made && !ok
	if stray {
		ends = t.Now().Add(Life)
	}
	if !ok && !stray || !ends.After(t.Now()) {
		return refused()
	}
	used, err := store.In[store.Nonce](t).Count(store.Eq("value", value))
	if err != nil {
		return err
	}
	if used > 0 {
		return refused()
	}
	err = store.In[store.Nonce](t).InsertLater(&store.Nonce{InstanceID: p.Instance, Value: value, ExpiresAt: ends})
	if err == nil && stray {
		err = idempotency.Keep(refused())
	}
	return err
}

// Spending foresees what Spend reads.
func Spending(value string) store.Read { return store.Number[store.Nonce](store.Eq("value", value)) }

// verify says when a nonce ends, and whether it was given to the machine or made of the connection of its call.
func (i *Issuer) verify(p tenant.Principal, value string) (time.Time, bool) {
	if strings.HasPrefix(value, api.ConnectionNoncePrefix) {
		return ofConnection(p.Connection, value)
	}
	if len(value) != base64.RawURLEncoding.EncodedLen(valueBytes) {
		return time.Time{}, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(raw) != valueBytes {
		return time.Time{}, false
	}
	said := raw[:timeBytes+randomBytes]
	if !hmac.Equal(i.mac(p, said), raw[len(said):]) {
		return time.Time{}, false
	}
	return time.UnixMicro(int64(binary.BigEndian.Uint64(said))).UTC(), true
}

// ofConnection says when a connection's nonce ends, and whether it is that connection's. What the machine chose of it is
// only what tells its nonces of one connection apart: the rest nobody knew before the broker's part of the handshake.
func ofConnection(c *tenant.Connection, value string) (time.Time, bool) {
	random, ok := ofSomeConnection(value)
	if !ok || c == nil {
		return time.Time{}, false
	}
	want, err := api.ConnectionNonce(c.State, random)
	if err != nil || !hmac.Equal([]byte(want), []byte(value)) {
		return time.Time{}, false
	}
	return c.Began.Add(Life), true
}

// ofSomeConnection reads what a machine chose of a connection's nonce, and says whether it has the form of one.
func ofSomeConnection(value string) (random [api.ConnectionNonceRandom]byte, ok bool) {
	const size = api.ConnectionNonceRandom + api.ConnectionNonceExport
	text, ok := strings.CutPrefix(value, api.ConnectionNoncePrefix)
	if !ok || len(text) != base64.RawURLEncoding.EncodedLen(size) {
		return random, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != size {
		return random, false
	}
	return [api.ConnectionNonceRandom]byte(raw), true
}

func refused() error {
	return problem.New(409, "nonce-refused", "The nonce does not count",
		"It was used already, has ended, was not given to this machine, or is of another connection.", "Fetch a new nonce, collect evidence for it, and ask again.")
}

// Clean forgets the used nonces that have ended: those are refused by their time.
func Clean(t *store.Tenant) error {
	_, err := store.In[store.Nonce](t).DeleteWhere(store.Before("expires_at", t.Now()))
	return err
}
