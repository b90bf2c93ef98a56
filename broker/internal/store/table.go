package store

import (
	"fmt"
	"reflect"
	"time"

	"github.com/google/uuid"
	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/schema"
)

// Table reads and writes the rows of one model inside one scope.
type Table[T any] struct {
	tx    *Tx
	scope scope
}

// In is the table of T inside a tenant. It panics when T belongs to no tenant.
func In[T any](t *Tenant) Table[T] {
	if _, ok := any(new(T)).(tenantRow); !ok {
		panic(fmt.Sprintf("store: %T belongs to no tenant; use store.Global", *new(T)))
	}
	return Table[T]{tx: t.tx, scope: scope{account: t.accountID}}
}

// Global is the table of T, for Account and the broker's own tables. It panics when T belongs to a tenant.
func Global[T any](tx *Tx) Table[T] {
	if _, ok := any(new(T)).(tenantRow); ok {
		panic(fmt.Sprintf("store: %T was touched without a tenant; use store.In", *new(T)))
	}
	return Table[T]{tx: tx}
}

func (t Table[T]) name() string { return reflect.TypeFor[T]().Name() }

func (t Table[T]) db() *gorm.DB { return t.tx.db.Set(scopeKey, t.scope) }

func (t Table[T]) query(db *gorm.DB, filters []Filter) (*query, error) {
	db = db.Model(new(T))
	if err := db.Statement.Parse(new(T)); err != nil {
		return nil, err
	}
	q := &query{db: db, schema: db.Statement.Schema, tx: t.tx, scope: t.scope, postgres: t.tx.store.backend.name == "postgres"}
	for _, f := range filters {
		if err := f.apply(q); err != nil {
			return nil, err
		}
	}
	return q, nil
}

// Get returns the row with the ID, or ErrNotFound.
func (t Table[T]) Get(id string) (T, error) { return t.First(Eq("id", id)) }

// steady is the key under which a row of a table that hardly changes is kept.
type steady struct{ table, account, id string }

// Steady is Get for rows that are read with nearly every request and hardly ever change: policies, accounts. Within the
// transactions that share a commit such a row is read once, and again after any change of its table. The caller must not
// change what the row points to.
func (t Table[T]) Steady(id string) (T, error) {
	key, scope := steady{t.name(), t.scope.account, id}, t.scope // t itself would keep its transaction in memory
	t.tx.usually(key, Row[T](Eq("id", id)), func(tx *Tx, f *foreseen) {
		if rows, err := (Table[T]{tx: tx, scope: scope}).told(f.result().([]T), nil); err == nil && len(rows) == 1 {
			Replace(tx, key, rows[0])
		}
	})
	return Keep(t.tx, key, func() (T, error) { return t.Get(id) })
}

// SteadyCount is Count under the same conditions; name tells such counts of a table apart.
func (t Table[T]) SteadyCount(name string, filters ...Filter) (int64, error) {
	key := steady{t.name(), t.scope.account, "count " + name}
	t.tx.usually(key, Number[T](filters...), func(tx *Tx, f *foreseen) { Replace(tx, key, f.result().(int64)) })
	return Keep(t.tx, key, func() (int64, error) { return t.Count(filters...) })
}

// First returns the first row that passes the filters, or ErrNotFound.
func (t Table[T]) First(filters ...Filter) (T, error) {
	rows, err := t.List(append(filters[:len(filters):len(filters)], Limit(1))...)
	if err != nil {
		return *new(T), err
	}
	if len(rows) == 0 {
		return *new(T), fmt.Errorf("%w: %s", ErrNotFound, t.name())
	}
	return rows[0], nil
}

// List returns the rows that pass the filters, by primary key (oldest first) where nothing else orders them.
func (t Table[T]) List(filters ...Filter) ([]T, error) {
	s, err := t.listStatement(filters)
	if err != nil {
		return nil, err
	}
	var values []any
	if s != nil {
		values = t.bound(filters)
		if rows, ok := given[[]T](t.tx, s, values); ok {
			return t.told(rows, nil)
		}
	}
	if s != nil {
		return t.told(t.read(s, values, filters))
	}
	if err := t.tx.flush(); err != nil {
		return nil, err
	}
	rows, err := t.find(filters)
	return t.told(rows, err)
}

// read runs a query, after storing what it could find of what was put off.
func (t Table[T]) read(s *statement, values []any, filters []Filter) ([]T, error) {
	if _, err := t.tx.before(t.name(), filters, false, nil); err != nil {
		return nil, err
	}
	rows, err := read[T](t.tx, s, t.schema(), values)
	if err != nil || t.tx.group == nil {
		return rows, err
	}
	var ids []string
	for i := range rows {
		if id := idOf(&rows[i]); id != "" {
			ids = append(ids, id)
		}
	}
	// A row that it found may have been changed by what is put off, and hold no longer what it was found by.
	if again, err := t.tx.before(t.name(), filters, false, ids); err != nil || !again {
		return rows, err
	}
	return read[T](t.tx, s, t.schema(), values)
}

// told is how rows are given out.
func (t Table[T]) told(rows []T, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	t.tx.store.reads.note(len(rows))
	for i := range rows {
		utc(&rows[i])
	}
	return rows, nil
}

func (t Table[T]) listStatement(filters []Filter) (*statement, error) {
	return t.statementFor(t.shapeOf("list", filters), func() []any { return t.bound(filters) }, func(dry *gorm.DB) (*gorm.DB, []*schema.Field, error) {
		q, err := t.listing(dry, filters)
		if err != nil {
			return nil, nil, err
		}
		var rows []T
		return q.db.Find(&rows), nil, nil
	})
}

func (t Table[T]) listing(db *gorm.DB, filters []Filter) (*query, error) {
	q, err := t.query(db, filters)
	if err != nil {
		return nil, err
	}
	for _, f := range q.schema.PrimaryFields {
		q.db = q.db.Order(clause.OrderByColumn{Column: clause.Column{Table: clause.CurrentTable, Name: f.DBName}})
	}
	return q, nil
}

// find has GORM read the rows.
func (t Table[T]) find(filters []Filter) ([]T, error) {
	q, err := t.listing(t.db(), filters)
	if err != nil {
		return nil, err
	}
	rows := []T{}
	if err := q.db.Find(&rows).Error; err != nil {
		return nil, t.tx.failed("reading "+q.schema.Table, err)
	}
	return rows, nil
}

// schema is how GORM maps T; it is parsed once for each model.
func (t Table[T]) schema() *schema.Schema {
	st := &gorm.Statement{DB: t.tx.store.gorm}
	if err := st.Parse(new(T)); err != nil {
		panic("store: " + err.Error()) // a model that no test has met
	}
	return st.Schema
}

// Count returns how many rows pass the filters; orders and limits do not count.
func (t Table[T]) Count(filters ...Filter) (int64, error) {
	s, err := t.countStatement(filters)
	if err != nil {
		return 0, err
	}
	var n int64
	var values []any
	if s != nil {
		values = t.bound(filters)
		if n, ok := given[int64](t.tx, s, values); ok {
			return n, nil
		}
	}
	if s == nil {
		err = t.tx.flush()
	} else {
		_, err = t.tx.before(t.name(), filters, true, nil)
	}
	if err != nil {
		return 0, err
	}
	if s == nil {
		db, err := t.counting(t.db(), filters, &n)
		if err != nil {
			return 0, err
		}
		if db.Error != nil {
			return 0, t.tx.failed("counting "+db.Statement.Table, db.Error)
		}
		return n, nil
	}
	began := time.Now()
	err = t.tx.line.QueryRowContext(t.tx.ctx, s.text, values...).Scan(&n)
	t.tx.store.slow(t.tx.ctx, s.text, 1, time.Since(began))
	if err != nil {
		return 0, t.tx.failed("counting rows of "+t.name(), err)
	}
	t.tx.store.reads.note(1)
	return n, nil
}

func (t Table[T]) countStatement(filters []Filter) (*statement, error) {
	return t.statementFor(t.shapeOf("count", filters), func() []any { return t.bound(filters) }, func(dry *gorm.DB) (*gorm.DB, []*schema.Field, error) {
		db, err := t.counting(dry, filters, new(int64))
		return db, nil, err
	})
}

func (t Table[T]) counting(db *gorm.DB, filters []Filter, n *int64) (*gorm.DB, error) {
	q, err := t.query(db, filters)
	if err != nil {
		return nil, err
	}
	delete(q.db.Statement.Clauses, "ORDER BY")
	delete(q.db.Statement.Clauses, "LIMIT")
	return q.db.Count(n), nil
}

// Insert stores a new row. It fills ID (UUID version 7, unless given), AccountID, the times and Version 1. A unique
// value that is taken gives ErrDuplicate and leaves the transaction usable.
func (t Table[T]) Insert(row *T) error {
	if err := t.fresh(row); err != nil {
		return err
	}
	return t.insertNow(row)
}

// fresh makes a row ready to be stored for the first time.
func (t Table[T]) fresh(row *T) error {
	if tr, ok := any(row).(tenantRow); ok {
		*tr.account() = t.scope.account
	}
	if r, ok := any(row).(identified); ok {
		id := r.identity()
		if *id.id == "" {
			v, err := uuid.NewV7()
			if err != nil {
				return fmt.Errorf("making an ID: %w", err)
			}
			*id.id = v.String()
		}
		now := t.tx.Now()
		*id.createdAt, *id.updatedAt, *id.version = now, now, 1
	}
	if err := storable(row); err != nil {
		return err
	}
	t.tx.changed(t.name())
	return nil
}

// insertNow stores it. ON CONFLICT DO NOTHING, instead of an error, because PostgreSQL aborts the whole transaction on a
// unique violation.
func (t Table[T]) insertNow(row *T) error {
	n, err := t.insert(row)
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: %s", ErrDuplicate, t.name())
	}
	return nil
}

func (t Table[T]) insert(row *T) (int64, error) {
	if err := t.tx.writes(); err != nil {
		return 0, err
	}
	s, err := t.insertion(row)
	if err != nil {
		return 0, err
	}
	if s == nil {
		db := t.db().Clauses(clause.OnConflict{DoNothing: true}).Create(row)
		if db.Error != nil {
			return 0, t.tx.failed("storing a row of "+t.name(), db.Error)
		}
		return db.RowsAffected, nil
	}
	values, err := stored(t.tx.ctx, s.fields, reflect.ValueOf(row).Elem(), 0)
	if err != nil {
		return 0, err
	}
	return t.tx.run(s, "storing a row of "+t.name(), values)
}

// Update stores all columns of a row that was read before and counts its Version up. ErrStale means that someone else
// changed the row since, ErrNotFound that it is gone; the transaction stays usable after both. row is unchanged then.
func (t Table[T]) Update(row *T) error {
	if t.amend(row) {
		return nil
	}
	read, back, err := t.renew(row)
	if err != nil {
		return err
	}
	id := idOf(row)
	changed, err := t.update(row, id, read)
	if err == nil && changed == 1 {
		return nil
	}
	back()
	if err != nil {
		return err
	}
	n, err := t.Count(Eq("id", id))
	if err != nil {
		return err
	}
	if n == 0 {
		return fmt.Errorf("%w: %s", ErrNotFound, t.name())
	}
	return fmt.Errorf("%w: %s", ErrStale, t.name())
}

// renew makes a row ready to be stored anew: it returns the version that was read, and what undoes it.
func (t Table[T]) renew(row *T) (read int64, back func(), err error) {
	r, ok := any(row).(identified)
	if !ok {
		return 0, nil, fmt.Errorf("store: rows of %s are never changed", t.name())
	}
	if tr, ok := any(row).(tenantRow); ok && *tr.account() != t.scope.account {
		return 0, nil, fmt.Errorf("%w: %s", ErrNotFound, t.name())
	}
	if err := storable(row); err != nil {
		return 0, nil, err
	}
	t.tx.changed(t.name())
	id := r.identity()
	read, updatedAt := *id.version, *id.updatedAt
	*id.version, *id.updatedAt = read+1, t.tx.Now()
	return read, func() { *id.version, *id.updatedAt = read, updatedAt }, nil
}

func (t Table[T]) update(row *T, id string, read int64) (int64, error) {
	if err := t.tx.writes(); err != nil {
		return 0, err
	}
	s, err := t.change(row, id, read)
	if err != nil {
		return 0, err
	}
	if s == nil {
		db := changing[T](t.db(), row, id, read)
		if db.Error != nil {
			return 0, t.tx.failed("changing a row of "+t.name(), db.Error)
		}
		return db.RowsAffected, nil
	}
	values, err := stored(t.tx.ctx, s.fields, reflect.ValueOf(row).Elem(), 3)
	if err != nil {
		return 0, err
	}
	return t.tx.run(s, "changing a row of "+t.name(), append(values, t.bound([]Filter{Eq("id", id), Eq("version", read)})...))
}

// Delete removes the row with the ID, or returns ErrNotFound.
func (t Table[T]) Delete(id string) error {
	n, err := t.DeleteWhere(Eq("id", id))
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: %s", ErrNotFound, t.name())
	}
	return err
}

// DeleteWhere removes the rows that pass the filters and returns how many. It needs at least one filter.
func (t Table[T]) DeleteWhere(filters ...Filter) (int64, error) {
	if len(filters) == 0 {
		return 0, fmt.Errorf("store: deleting every %s needs a filter that says so", t.name())
	}
	t.tx.changed(t.name())
	if err := t.tx.writes(); err != nil {
		return 0, err
	}
	deleting := func(db *gorm.DB) (*gorm.DB, error) {
		q, err := t.query(db, filters)
		if err != nil {
			return nil, err
		}
		return q.db.Delete(new(T)), nil
	}
	s, err := t.statementFor(t.shapeOf("delete", filters), func() []any { return t.bound(filters) }, func(dry *gorm.DB) (*gorm.DB, []*schema.Field, error) {
		db, err := deleting(dry)
		return db, nil, err
	})
	if err != nil {
		return 0, err
	}
	if s != nil {
		return t.tx.run(s, "deleting rows of "+t.name(), t.bound(filters))
	}
	db, err := deleting(t.db())
	if err != nil {
		return 0, err
	}
	if db.Error != nil {
		return 0, t.tx.failed("deleting rows of "+t.name(), db.Error)
	}
	return db.RowsAffected, nil
}
