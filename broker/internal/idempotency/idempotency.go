// Package idempotency makes a repeated request return its first answer instead of acting twice. The answer is stored in
// the transaction that has the effect, so there is no moment at which one exists without the other: a broker that is
// killed between commit and reply loses nothing, and the repeated request finds the answer.
package idempotency

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
)

// Life is how long an answer is kept.
const Life = 10 * time.Minute

// keyLimit is the longest accepted key, in bytes.
const keyLimit = 128

// Call identifies a request. Scope names caller and route; an empty Key means that the caller did not ask for
// idempotency. Body is the request as sent: the same key with another body is a mistake of the caller and is refused.
type Call struct {
	Scope string
	Key   string
	Body  []byte
	// Before, where it is not nil, comes first in the transaction, before an answer that was given before: whether the caller is
	// who it says.
	Before func(*store.Tenant) error
	// Answer, where it is not nil, is set to the answer as it is stored, in JSON; it stays as it is without a key.
	Answer *[]byte
}

// kept is a refusal that is committed.
type kept struct{ err error }

func (k kept) Error() string { return k.err.Error() }
func (k kept) Unwrap() error { return k.err }

// Keep wraps a refusal whose transaction is committed nevertheless: the audit record of a refusal, or the end of a token,
// must not be rolled back with it. The refusal is not stored as an answer.
func Keep(err error) error { return kept{err} }

// Tx runs f in a transaction of the account and stores what it returns as the answer to c. A request that was answered
// before gets that answer and f does not run. T must survive JSON; it must hold no secret.
//
// ahead is what f is going to read, where it can be foreseen.
func Tx[T any](ctx context.Context, st *store.Store, accountID string, c Call, f func(*store.Tenant) (T, error), ahead ...store.Read) (T, error) {
	var out T
	if len(ahead) > 0 && c.Key != "" {
		ahead = append(ahead, store.Row[store.IdempotencyRecord](store.Eq("scope", c.Scope), store.Eq("key", c.Key)))
	}
	if len(c.Key) > keyLimit {
		return out, problem.New(400, "idempotency-key-invalid", "The idempotency key is too long",
			fmt.Sprintf("It has %d bytes.", len(c.Key)), fmt.Sprintf("Send at most %d bytes, a random UUID for example.", keyLimit))
	}
	hash := sha256.Sum256(c.Body)
	var refusal error
	err := st.TxAhead(ctx, accountID, ahead, func(tx *store.Tx) error {
		var zero T
		out, refusal = zero, nil
		t := tx.Tenant(accountID)
		if c.Before != nil {
			if err := c.Before(t); err != nil {
				return err
			}
		}
		found, err := stored(t, c, hash[:], &out)
		if err != nil || found {
			return err
		}
		out, err = f(t)
		var k kept
		if errors.As(err, &k) {
			out, refusal = zero, k.err
			return nil
		}
		if err != nil {
			return err
		}
		return remember(t, c, hash[:], out)
	})
	if err == nil {
		err = refusal
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return out, nil
}

// stored fills out with the answer that was given before.
func stored(t *store.Tenant, c Call, hash []byte, out any) (bool, error) {
	if c.Key == "" {
		return false, nil
	}
	records := store.In[store.IdempotencyRecord](t)
	r, err := records.First(store.Eq("scope", c.Scope), store.Eq("key", c.Key))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("looking for the answer to idempotency key: %w", err)
	}
	if !r.ExpiresAt.After(t.Now()) {
		return false, records.Delete(r.ID)
	}
	if !hmac.Equal(r.RequestHash, hash) {
		return false, problem.New(422, "idempotency-key-reused", "The idempotency key belongs to another request",
			"A request with the same key but another body was answered within the last ten minutes.",
			"Use a new key for a new request, and repeat a request unchanged.")
	}
	if err := json.Unmarshal(r.Body, out); err != nil {
		return false, fmt.Errorf("reading the stored answer: %w", err)
	}
	c.say(r.Body)
	return true, nil
}

func remember(t *store.Tenant, c Call, hash []byte, out any) error {
	if c.Key == "" {
		return nil
	}
	var encoded bytes.Buffer
	e := json.NewEncoder(&encoded)
	e.SetEscapeHTML(false) // as answers leave the broker
	if err := e.Encode(out); err != nil {
		return fmt.Errorf("storing the answer: %w", err)
	}
	body := encoded.Bytes()
	c.say(body)
	// A repetition that is answered at the same moment loses, runs again, and finds this answer.
	return store.In[store.IdempotencyRecord](t).InsertLater(&store.IdempotencyRecord{
		Scope: c.Scope, Key: c.Key, RequestHash: hash, Status: 200, ContentType: "application/json", Body: body,
		ExpiresAt: t.Now().Add(Life),
	})
}

func (c Call) say(answer []byte) {
	if c.Answer != nil {
		*c.Answer = answer
	}
}

// Clean removes answers that nobody can ask for any more.
func Clean(t *store.Tenant) error {
	_, err := store.In[store.IdempotencyRecord](t).DeleteWhere(store.Before("expires_at", t.Now()))
	return err
}
