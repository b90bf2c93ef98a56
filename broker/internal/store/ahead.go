package store

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/gorm/schema"
)

// Read is something that a transaction is going to read.
type Read func(*Tenant) (*foreseen, error)

// foreseen is a query and what it gave.
type foreseen struct {
	key    string
	text   string
	values []any
	take   func(pgx.Rows) error
	result any
}

// Ahead reads what the transaction is going to ask for, where that saves round trips: all in one. Each is then given to
// the first that asks for just that, until something is written. Reads of rows name a table and filters, as List and First
// have them.
func Ahead(t *Tenant, reads ...Read) error {
	if !t.tx.store.backend.batches {
		return nil
	}
	if err := t.tx.flush(); err != nil {
		return err
	}
	var all []*foreseen
	for _, read := range reads {
		f, err := read(t)
		if err != nil {
			return err
		}
		if f != nil {
			all = append(all, f)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if t.tx.line.conn == nil {
		return t.tx.failed("reading ahead", errNoLine)
	}
	err := t.tx.line.conn.Raw(func(c any) (err error) {
		var b pgx.Batch
		for _, f := range all {
			b.Queue(f.text, f.values...)
		}
		results := c.(*stdlib.Conn).Conn().SendBatch(t.tx.ctx, &b)
		defer func() { err = errors.Join(err, results.Close()) }()
		for _, f := range all {
			rows, err := results.Query()
			if err == nil {
				err = f.take(rows)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return t.tx.failed("reading ahead", err)
	}
	t.tx.store.reads.note(0)
	t.tx.ahead = map[string]any{}
	for _, f := range all {
		t.tx.ahead[f.key] = f.result
	}
	return nil
}

// Rows foresees List.
func Rows[T any](filters ...Filter) Read {
	return func(tn *Tenant) (*foreseen, error) {
		t := In[T](tn)
		s, err := t.listStatement(filters)
		if s == nil || err != nil {
			return nil, err
		}
		values, sch := t.bound(filters), t.schema()
		f := &foreseen{key: foreseenAs(s, values), text: s.text, values: values}
		f.take = func(rows pgx.Rows) error {
			out, err := collect[T](t.tx, rows, s, sch)
			f.result = out
			return err
		}
		return f, nil
	}
}

// Row foresees First.
func Row[T any](filters ...Filter) Read { return Rows[T](append(filters, Limit(1))...) }

// Number foresees Count.
func Number[T any](filters ...Filter) Read {
	return func(tn *Tenant) (*foreseen, error) {
		t := In[T](tn)
		s, err := t.countStatement(filters)
		if s == nil || err != nil {
			return nil, err
		}
		values := t.bound(filters)
		f := &foreseen{key: foreseenAs(s, values), text: s.text, values: values}
		f.take = func(rows pgx.Rows) error {
			n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
			f.result = n
			return err
		}
		return f, nil
	}
}

// foreseenAs names a query by its text and values.
func foreseenAs(s *statement, values []any) string {
	var b strings.Builder
	b.WriteString(s.text)
	for _, v := range values {
		fmt.Fprintf(&b, "\x00%T %v", v, v)
	}
	return b.String()
}

// given takes what was read ahead for a query, once.
func given[V any](tx *Tx, s *statement, values []any) (v V, ok bool) {
	if len(tx.ahead) == 0 {
		return v, false
	}
	key := foreseenAs(s, values)
	if v, ok = tx.ahead[key].(V); ok {
		delete(tx.ahead, key)
	}
	return v, ok
}

// collect decodes rows that the driver gave without database/sql.
func collect[T any](tx *Tx, rows pgx.Rows, s *statement, sch *schema.Schema) ([]T, error) {
	defer rows.Close()
	var names []string
	for _, d := range rows.FieldDescriptions() {
		names = append(names, d.Name)
	}
	fields, err := s.columns.of(names, sch)
	if err != nil {
		return nil, err
	}
	out := []T{}
	var d decoder
	for rows.Next() {
		out = append(out, *new(T))
		if err := d.row(tx.ctx, rows, fields, reflect.ValueOf(&out[len(out)-1]).Elem()); err != nil {
			return nil, err
		}
	}
	return out, rows.Err()
}
