package store

import (
	"context"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// Tx is one running transaction. It ends with the function it was given to and is used by one goroutine.
type Tx struct {
	store *Store
	// db is GORM on line, and ctx the time that statements have.
	db    *gorm.DB
	line  *line
	ctx   context.Context
	hooks []func()
	// fault is the first error of the database. It forbids the commit even when the caller swallowed it: PostgreSQL
	// has aborted the transaction by then, and SQLite must not differ.
	fault error
	// group is the one that the transaction takes part in; nil for one that only reads.
	group *group
	// later is what is put off (later.go), and own what stands in it.
	later []put
	own   writing
	// ahead is what was read before it was asked for (ahead.go).
	ahead map[string]*foreseen
	// saved says that there is a savepoint before what the transaction has written.
	saved bool
	// wrote says that there is something to take back, dirty that what is kept may come from it or from what is put off.
	wrote, dirty bool
	// kept is what was read and cannot have changed since; see Keep.
	kept map[any]any
}

// Now is the time that rows written now are stamped with: UTC, in microseconds.
func (tx *Tx) Now() time.Time { return tx.store.now() }

// AfterCommit runs f once the transaction is durable, in order of registration; never when it is rolled back.
func (tx *Tx) AfterCommit(f func()) { tx.hooks = append(tx.hooks, f) }

// Keep returns what read returned the last time for the key within this transaction and those that share its commit, or
// calls read. Who changes what is kept must Replace it.
func Keep[V any](tx *Tx, key any, read func() (V, error)) (V, error) {
	if v, ok := tx.kept[key].(V); ok {
		return v, nil
	}
	v, err := read()
	if err == nil {
		tx.kept[key] = v
	}
	return v, err
}

// cascading are the tables whose rows take rows of others with them.
var cascading = map[string]bool{"Account": true, "Image": true, "Policy": true}

// changed notes that a table is written.
func (tx *Tx) changed(table string) {
	tx.dirty = true
	for key := range tx.kept {
		if s, ok := key.(steady); ok && (s.table == table || cascading[table]) {
			delete(tx.kept, key)
		}
	}
}

// Adjust changes what Keep returns, where something is kept.
func Adjust[V any](tx *Tx, key any, change func(V) V) {
	if v, ok := tx.kept[key].(V); ok {
		tx.kept[key] = change(v)
	}
}

// writes comes before a statement that writes.
func (tx *Tx) writes() error {
	if err := tx.flush(); err != nil {
		return err
	}
	tx.wrote, tx.ahead = true, nil
	if tx.group == nil { // one that only reads: the database refuses it
		return nil
	}
	tx.group.epoch++
	return tx.group.save(tx)
}

// Replace sets what Keep returns.
func Replace[V any](tx *Tx, key any, v V) { tx.kept[key] = v }

// Tenant narrows the transaction to one account. It does not check that the account exists.
func (tx *Tx) Tenant(accountID string) *Tenant {
	if accountID == "" {
		panic("store: a tenant scope needs an account ID")
	}
	return &Tenant{tx: tx, accountID: accountID}
}

// EachTenant runs f for every account, oldest first, for the broker's own background work.
func (tx *Tx) EachTenant(f func(*Tenant) error) error {
	accounts, err := Global[Account](tx).List(Asc("created_at"))
	if err != nil {
		return err
	}
	for _, a := range accounts {
		if err := f(tx.Tenant(a.ID)); err != nil {
			return err
		}
	}
	return nil
}

// failed records and explains an error of the database; doing says what was tried.
func (tx *Tx) failed(doing string, err error) error {
	if tx.fault == nil {
		tx.fault = tx.store.explain(fmt.Errorf("%s: %w", doing, err))
	}
	return tx.store.explain(fmt.Errorf("%s: %w", doing, err))
}

// Tenant is a transaction inside one account: every row read or written through it belongs to that account.
type Tenant struct {
	tx        *Tx
	accountID string
}

// AccountID is the account that the scope is bound to.
func (t *Tenant) AccountID() string { return t.accountID }

// Tx is the transaction around the scope.
func (t *Tenant) Tx() *Tx { return t.tx }

// Now is the transaction's clock.
func (t *Tenant) Now() time.Time { return t.tx.Now() }

// AfterCommit is the transaction's AfterCommit.
func (t *Tenant) AfterCommit(f func()) { t.tx.AfterCommit(f) }
