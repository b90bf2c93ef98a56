package store

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/schema"
)

// GORM writes every statement of the gateway, once for each shape: table, kind and filters. Its text and the order of its
// values are kept, because writing it again costs more than running it. What is kept is what GORM made for the first call
// with the tenant's guard in place; when its values were not in the order that is expected of the shape, nothing is kept and
// GORM goes on to run that shape itself.

// maxStatements bounds the kept statements; lists of values make many shapes.
const maxStatements = 4096

// statements are those of one store.
type statements struct {
	mu   sync.RWMutex
	kept map[string]*statement
}

// statement is a text and how values get into it and out of it.
type statement struct {
	text string
	// fields are what an INSERT stores or an UPDATE sets, in order.
	fields []*schema.Field
	// columns are those of the result, known after the first run.
	columns atomicFields
}

type atomicFields struct {
	once   sync.Once
	fields []*schema.Field
	err    error
}

func (s *statements) get(shape string) *statement {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.kept[shape]
}

func (s *statements) put(shape string, one *statement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		s.kept = map[string]*statement{}
	}
	if len(s.kept) < maxStatements {
		s.kept[shape] = one
	}
}

// shapeOf names the shape of a statement over filters; empty when values decide on its text.
func (t Table[T]) shapeOf(kind string, filters []Filter) string {
	size := 0
	for _, f := range filters {
		size += len(f.shape) + 1
	}
	name := t.name()
	var b strings.Builder
	b.Grow(len(kind) + len(name) + size + 5)
	b.WriteString(kind)
	b.WriteByte(' ')
	b.WriteString(name)
	if t.scope.any {
		b.WriteString(" any")
	}
	for _, f := range filters {
		if f.shape == "" {
			return ""
		}
		b.WriteByte('|')
		b.WriteString(f.shape)
	}
	return b.String()
}

// bound are the values of filters in the order in which GORM binds them: conditions, the tenant, the limit where the
// database binds it.
func (t Table[T]) bound(filters []Filter) []any {
	var values, limit []any
	for _, f := range filters {
		values = append(values, f.values...)
		limit = append(limit, f.limit...)
	}
	if t.scope.account != "" {
		values = append(values, t.scope.account)
	}
	if t.tx.store.backend.name == "postgres" {
		values = append(values, limit...)
	}
	return values
}

// statementFor returns the kept statement of a shape. A shape that is met for the first time is written by GORM, without
// being run; nil means that GORM has to run it.
func (t Table[T]) statementFor(shape string, values func() []any, write func(dry *gorm.DB) (*gorm.DB, []*schema.Field, error)) (*statement, error) {
	if shape == "" {
		return nil, nil
	}
	if s := t.tx.store.statements.get(shape); s != nil {
		return s, nil
	}
	db, fields, err := write(t.db().Session(&gorm.Session{DryRun: true}))
	if err != nil {
		return nil, err
	}
	if db.Error != nil {
		return nil, nil // GORM says it again when it runs
	}
	if !slices.EqualFunc(db.Statement.Vars, values(), func(a, b any) bool { return reflect.DeepEqual(plainValue(a), plainValue(b)) }) {
		return nil, nil
	}
	s := &statement{text: db.Statement.SQL.String(), fields: fields}
	t.tx.store.statements.put(shape, s)
	return s, nil
}

// plainValue is what a driver gets for a value.
func plainValue(v any) any {
	if valuer, ok := v.(driver.Valuer); ok {
		if plain, err := valuer.Value(); err == nil {
			return unnamed(reflect.ValueOf(plain))
		}
	}
	return unnamed(reflect.ValueOf(v))
}

// run executes a statement that returns no rows, and says how many it changed.
func (tx *Tx) run(s *statement, doing string, values []any) (int64, error) {
	began := time.Now()
	result, err := tx.line.ExecContext(tx.ctx, s.text, values...)
	var n int64
	if err == nil {
		n, err = result.RowsAffected()
	}
	tx.store.slow(tx.ctx, s.text, n, time.Since(began))
	if err != nil {
		return 0, tx.failed(doing, err)
	}
	return n, nil
}

// slow logs a statement that took long, without its values.
func (s *Store) slow(ctx context.Context, text string, rows int64, took time.Duration) {
	if took >= slowStatement {
		s.logger.LogAttrs(ctx, slog.LevelWarn, "slow statement", slog.String("sql", text), slog.Int64("rows", rows), slog.Duration("took", took))
	}
}

// read runs a query and decodes its rows.
func read[T any](tx *Tx, s *statement, sch *schema.Schema, values []any) (out []T, err error) {
	began := time.Now()
	rows, err := tx.line.QueryContext(tx.ctx, s.text, values...)
	if err != nil {
		return nil, tx.failed("reading "+sch.Table, err)
	}
	defer func() {
		if end := rows.Close(); err == nil && end != nil {
			err = tx.failed("reading "+sch.Table, end)
		}
		tx.store.slow(tx.ctx, s.text, int64(len(out)), time.Since(began))
	}()
	names, err := rows.Columns()
	if err != nil {
		return nil, tx.failed("reading "+sch.Table, err)
	}
	fields, err := s.columns.of(names, sch)
	if err != nil {
		return nil, tx.failed("reading "+sch.Table, err)
	}
	out = []T{}
	var d decoder
	for rows.Next() {
		out = append(out, *new(T))
		if err := d.row(tx.ctx, rows, fields, reflect.ValueOf(&out[len(out)-1]).Elem()); err != nil {
			return nil, tx.failed("reading "+sch.Table, err)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, tx.failed("reading "+sch.Table, err)
	}
	return out, nil
}

// of are the fields of a result's columns.
func (a *atomicFields) of(names []string, sch *schema.Schema) ([]*schema.Field, error) {
	a.once.Do(func() {
		for _, name := range names {
			f := sch.FieldsByDBName[name]
			if f == nil {
				a.err = fmt.Errorf("column %q belongs to no field of %s", name, sch.Name)
			}
			a.fields = append(a.fields, f)
		}
	})
	return a.fields, a.err
}

// decoder reads rows into structs, and what more they hold into more. Fields that are kept as JSON pass through raw.
type decoder struct {
	into []any
	raw  [][]byte
}

func (d *decoder) row(ctx context.Context, rows interface{ Scan(...any) error }, fields []*schema.Field, row reflect.Value, more ...any) error {
	if len(d.into) != len(fields)+len(more) {
		d.into, d.raw = make([]any, len(fields)+len(more)), make([][]byte, len(fields))
	}
	copy(d.into[len(fields):], more)
	for i, f := range fields {
		if f.Serializer != nil {
			d.raw[i] = nil
			d.into[i] = &d.raw[i]
		} else {
			d.into[i] = f.ReflectValueOf(ctx, row).Addr().Interface()
		}
	}
	if err := rows.Scan(d.into...); err != nil {
		return err
	}
	for i, f := range fields {
		if f.Serializer == nil || len(d.raw[i]) == 0 {
			continue
		}
		if err := json.Unmarshal(d.raw[i], f.ReflectValueOf(ctx, row).Addr().Interface()); err != nil {
			return fmt.Errorf("column %s: %w", f.DBName, err)
		}
	}
	return nil
}

// stored are the values of a row's fields as drivers take them, beginning a list with room for more.
func stored(ctx context.Context, fields []*schema.Field, row reflect.Value, room int) ([]any, error) {
	out := make([]any, 0, len(fields)+room)
	for _, f := range fields {
		v := f.ReflectValueOf(ctx, row)
		if f.Serializer == nil {
			out = append(out, unnamed(v))
			continue
		}
		text, err := json.Marshal(v.Interface())
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", f.DBName, err)
		}
		if string(text) == "null" {
			out = append(out, nil)
		} else {
			out = append(out, string(text))
		}
	}
	return out, nil
}

// unnamed is a value without its type's name: drivers take strings, not named ones.
func unnamed(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Invalid:
		return nil
	case reflect.String:
		return v.String()
	case reflect.Int, reflect.Int64:
		return v.Int()
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return v.Elem().Interface()
	}
	return v.Interface()
}

// insertion is the statement that stores a row.
func (t Table[T]) insertion(row *T) (*statement, error) {
	values := func() []any { return nil }
	return t.statementFor(t.shapeOf("insert", nil), func() []any { return values() }, func(dry *gorm.DB) (*gorm.DB, []*schema.Field, error) {
		db := dry.Clauses(clause.OnConflict{DoNothing: true}).Create(row)
		var fields []*schema.Field
		if v, ok := db.Statement.Clauses["VALUES"].Expression.(clause.Values); ok {
			for _, c := range v.Columns {
				fields = append(fields, db.Statement.Schema.FieldsByDBName[c.Name])
			}
		}
		if len(fields) == 0 || slices.Contains(fields, nil) {
			return db, nil, fmt.Errorf("store: GORM stores %s otherwise than expected", t.name())
		}
		all, err := stored(t.tx.ctx, fields, reflect.ValueOf(row).Elem(), 0)
		values = func() []any { return all }
		return db, fields, err
	})
}

// change is the statement that stores a row anew; its values are the fields, then ID, version read and tenant.
func (t Table[T]) change(row *T, id string, read int64) (*statement, error) {
	values := func() []any { return nil }
	return t.statementFor(t.shapeOf("update", nil), func() []any { return values() }, func(dry *gorm.DB) (*gorm.DB, []*schema.Field, error) {
		db := changing[T](dry, row, id, read)
		var fields []*schema.Field
		_, set, _ := strings.Cut(db.Statement.SQL.String(), " SET ")
		set, _, _ = strings.Cut(set, " WHERE ")
		for _, a := range strings.Split(set, ",") {
			column, _, _ := strings.Cut(a, "=")
			fields = append(fields, db.Statement.Schema.FieldsByDBName[strings.Trim(column, "`\"")])
		}
		if len(fields) == 0 || slices.Contains(fields, nil) {
			return db, nil, fmt.Errorf("store: GORM changes %s otherwise than expected", t.name())
		}
		all, err := stored(t.tx.ctx, fields, reflect.ValueOf(row).Elem(), 3)
		values = func() []any { return append(all, t.bound([]Filter{Eq("id", id), Eq("version", read)})...) }
		return db, fields, err
	})
}

func changing[T any](db *gorm.DB, row *T, id string, read int64) *gorm.DB {
	return db.Model(new(T)).Where(clause.Eq{Column: clause.Column{Name: "id"}, Value: id}).
		Where(clause.Eq{Column: clause.Column{Name: "version"}, Value: read}).
		Select("*").Omit("ID", "AccountID", "CreatedAt").UpdateColumns(row)
}
