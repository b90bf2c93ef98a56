package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"gorm.io/gorm"
)

// Tx is one running transaction. It ends with the function it was given to and is used by one goroutine.
type Tx struct {
	store *Store
	db    *gorm.DB
	hooks []func()
	// fault is the first error of the database. It forbids the commit even when the caller swallowed it: PostgreSQL
	// has aborted the transaction by then, and SQLite must not differ.
	fault error
}

func (tx *Tx) run(ctx context.Context, db *gorm.DB, o *sql.TxOptions, f func(*Tx) error) (err error) {
	g := db.WithContext(ctx).Begin(o)
	if g.Error != nil {
		return tx.store.explain(fmt.Errorf("beginning a transaction: %w", g.Error))
	}
	tx.db = g
	done := false
	defer func() {
		if !done { // f panicked
			g.Rollback()
		}
	}()
	err = f(tx)
	done = true
	if err == nil {
		err = tx.fault
	}
	if err != nil {
		g.Rollback()
		return err
	}
	if err := g.Commit().Error; err != nil {
		return tx.store.explain(fmt.Errorf("committing a transaction: %w", err))
	}
	return nil
}

// Now is the time that rows written now are stamped with: UTC, in microseconds.
func (tx *Tx) Now() time.Time { return tx.store.now() }

// AfterCommit runs f once the transaction is durable, in order of registration; never when it is rolled back.
func (tx *Tx) AfterCommit(f func()) { tx.hooks = append(tx.hooks, f) }

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
