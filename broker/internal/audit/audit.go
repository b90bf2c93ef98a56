// Package audit keeps each account's append-only log: a hash chain (package chain) stored beside the data it tells of,
// with the broker's signature over its head now and then. A record is written in the transaction of the change that it
// records, so there is never one without the other. Times are UTC.
package audit

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"keyward/broker/api"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/store"
)

// The categories of records, by which people filter.
const (
	Agent  = "agent"
	Key    = "key"
	Policy = "policy"
	User   = "user"
	Server = "server"
)

// Categories lists all of them.
func Categories() []string { return []string{Agent, Key, Policy, User, Server} }

// Entry is what happened. Nothing in it may be secret: the log is read and exported by many.
type Entry struct {
	Category string
	// Event is "noun.what-happened", such as "key-request.approved".
	Event string
	// Actor is tenant.Principal.Actor of who did it.
	Actor string
	// Subject is the ID of what it was done to; it may be empty.
	Subject string
	Detail  map[string]string
}

// maxText is where long texts are cut, in bytes: an agent's long error must not keep an event out of the log.
const maxText = 8 << 10

// Append writes a record to the end of the account's chain, in the caller's transaction and with its time.
func Append(t *store.Tenant, e Entry) error {
	table := store.In[store.AuditRecord](t)
	at := headKey{t.AccountID()}
	head, err := store.Keep(t.Tx(), at, func() (chain.Head, error) { return end(table) })
	if err != nil {
		return fmt.Errorf("finding the end of the audit log: %w", err)
	}
	detail := clipAll(e.Detail)
	r, err := chain.Seal(t.AccountID(), head, api.AuditRecord{At: t.Now(), Category: e.Category, Event: e.Event,
		Actor: clip(e.Actor), Subject: clip(e.Subject), Detail: detail})
	if err != nil {
		return fmt.Errorf("chaining the audit record %s: %w", e.Event, err)
	}
	row := store.AuditRecord{Sequence: r.Sequence, At: r.At, Category: r.Category, Event: r.Event, Actor: r.Actor, Subject: r.Subject,
		Detail: r.Detail, Previous: r.Previous, Hash: r.Hash}
	if err := table.InsertLater(&row); err != nil {
		return fmt.Errorf("writing the audit record %s: %w", e.Event, err)
	}
	store.Replace(t.Tx(), at, chain.HeadOf(r))
	return nil
}

// headKey is where the end of an account's chain is kept among transactions that share a commit.
type headKey struct{ account string }

// Appending foresees what Append reads.
func Appending() store.Read { return store.Opening(store.Row[store.AuditRecord](newest()...)) }

func newest() []store.Filter {
	return []store.Filter{store.Desc("sequence"), store.Only("sequence", "hash")}
}

// end reads the end of the chain.
func end(table store.Table[store.AuditRecord]) (chain.Head, error) {
	last, err := table.First(newest()...)
	if errors.Is(err, store.ErrNotFound) {
		return chain.Head{}, nil
	}
	return chain.Head{Sequence: last.Sequence, Hash: last.Hash}, err
}

// clipAll copies only what is to be cut.
func clipAll(detail map[string]string) map[string]string {
	long := false
	for name, v := range detail {
		long = long || len(name) > maxText || len(v) > maxText
	}
	if !long {
		return detail
	}
	out := make(map[string]string, len(detail))
	for name, v := range detail {
		out[clip(name)] = clip(v)
	}
	return out
}

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText]
	for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s[:max(len(s)-1, 0)] + "…"
}

func view(r store.AuditRecord) api.AuditRecord {
	return api.AuditRecord{Sequence: r.Sequence, At: r.At, Category: r.Category, Event: r.Event, Actor: r.Actor, Subject: r.Subject,
		Detail: r.Detail, Previous: r.Previous, Hash: r.Hash}
}
