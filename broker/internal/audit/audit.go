// Package audit keeps each account's append-only log: a hash chain (package chain) stored beside the data it tells of,
// with the broker's signature over its head now and then. A record is written in the transaction of the change that it
// records, so there is never one without the other.
package audit

import (
	"errors"
	"fmt"
	"maps"
	"strings"

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

// Append writes a record to the end of the account's chain, in the caller's transaction and with its time.
func Append(t *store.Tenant, e Entry) error {
	table := store.In[store.AuditRecord](t)
	r := store.AuditRecord{Sequence: 1, At: t.Now(), Category: e.Category, Event: e.Event, Actor: clean(e.Actor), Subject: clean(e.Subject), Detail: cleanAll(e.Detail), Previous: genesis()}
	last, err := table.First(store.Desc("sequence"))
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return fmt.Errorf("finding the end of the audit log: %w", err)
	default:
		r.Sequence, r.Previous = last.Sequence+1, last.Hash
		if r.At.Before(last.At) {
			r.At = last.At // a clock that was set back does not disorder the log
		}
	}
	r.AccountID = t.AccountID()
	if r.Hash, err = link(r); err != nil {
		return fmt.Errorf("chaining the audit record %s: %w", e.Event, err)
	}
	if err := table.Insert(&r); err != nil {
		return fmt.Errorf("writing the audit record %s: %w", e.Event, err)
	}
	return nil
}

// clean makes text storable, so that a stranger's odd name cannot keep an event out of the log.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func cleanAll(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	out := maps.Clone(m)
	for k, v := range out {
		out[k] = clean(v)
	}
	return out
}
