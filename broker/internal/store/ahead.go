package store

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/jackc/pgx/v5"
	"gorm.io/gorm/schema"
)

// Read is something that a transaction is going to read.
type Read func(*Tenant) (*foreseen, error)

// foreseen is a query and what it gave.
type foreseen struct {
	key    string
	text   string
	values []any
	// equal are texts that each of its rows holds, and ids those that it found.
	equal, ids []string
	// opening says that only the first of a group makes it.
	opening bool
	// table is where it looks, and counted that again where rows are counted, not read.
	table, counted string

	// columns is told the names of the result's columns; scan reads a row, and what else stands in it, and take adds a row.
	columns func(names []string) error
	scan    func(rows pgx.Rows, more ...any) (any, error)
	take    func(row any)
	result  func() any
	// forget drops what it gave, before it is asked again.
	forget func()
}

// TxAhead is Tx in one account, for f that is going to make these reads in any case. On PostgreSQL they are made together with
// those of others that wait for their turn, and f finds what they gave. Reads of rows name a table and filters, as List and
// First have them.
func (s *Store) TxAhead(ctx context.Context, accountID string, reads []Read, f func(*Tx) error) error {
	if len(reads) == 0 || !s.backend.batches {
		return s.repeat(ctx, nil, f)
	}
	// Before the turn, when nobody waits for it.
	tx := &Tx{store: s, db: s.on(ctx, &line{}), ctx: ctx}
	a := &ahead{}
	for _, read := range reads {
		q, err := read(&Tenant{tx: tx, accountID: accountID})
		if err != nil {
			return err
		}
		if q != nil {
			a.reads = append(a.reads, q)
		}
	}
	return s.repeat(ctx, a, f)
}

// ahead is what one transaction is going to read, and what was read for it.
type ahead struct {
	reads []*foreseen

	// all are the reads that were made for group, in whose epoch.
	all   []*foreseen
	group *group
	epoch int
}

// prepare chooses the reads that are to be made in a group; opening says that the transaction opens it. joint says that what
// they give can be told from what others write meanwhile.
func (a *ahead) prepare(opening bool) (joint bool) {
	a.all, a.group, joint = nil, nil, true
	for _, f := range a.reads {
		if f.opening && !opening {
			continue
		}
		f.ids = nil
		f.forget()
		a.all = append(a.all, f)
		joint = joint && (f.opening || len(f.equal) > 0)
	}
	return joint
}

// give hands what was read to the transaction.
func (a *ahead) give(tx *Tx) {
	tx.ahead = make(map[string]*foreseen, len(a.all))
	for _, f := range a.all {
		tx.ahead[f.key] = f
	}
}

// Opening is a read whose result all transactions that share a commit keep (Keep): only the first of them makes it.
func Opening(read Read) Read {
	return func(t *Tenant) (*foreseen, error) {
		f, err := read(t)
		if f != nil {
			f.opening = true
		}
		return f, err
	}
}

// within is the table of T in a tenant, or of all where T belongs to none.
func within[T any](t *Tenant) Table[T] {
	if _, ok := any(new(T)).(tenantRow); ok {
		return In[T](t)
	}
	return Global[T](t.tx)
}

// Rows foresees List.
func Rows[T any](filters ...Filter) Read {
	return func(tn *Tenant) (*foreseen, error) {
		t := within[T](tn)
		s, err := t.listStatement(filters)
		if s == nil || err != nil {
			return nil, err
		}
		f := foresee(t.name(), s, t.bound(filters), filters)
		var fields []*schema.Field
		var d decoder
		f.columns = func(names []string) (err error) {
			fields, err = s.columns.of(names, t.schema())
			return err
		}
		f.scan = func(rows pgx.Rows, more ...any) (any, error) {
			row := new(T)
			return row, d.row(t.tx.ctx, rows, fields, reflect.ValueOf(row).Elem(), more...)
		}
		out := []T{}
		f.forget = func() { out = []T{} }
		f.take = func(row any) {
			out = append(out, *row.(*T))
			if id := idOf(row); id != "" { // a part of a row may have none
				f.ids = append(f.ids, id)
			}
		}
		f.result = func() any { return out }
		return f, nil
	}
}

// Row foresees First.
func Row[T any](filters ...Filter) Read { return Rows[T](append(filters, Limit(1))...) }

// Number foresees Count.
func Number[T any](filters ...Filter) Read {
	return func(tn *Tenant) (*foreseen, error) {
		t := within[T](tn)
		s, err := t.countStatement(filters)
		if s == nil || err != nil {
			return nil, err
		}
		f := foresee(t.name(), s, t.bound(filters), filters)
		f.counted = t.name()
		f.columns = func([]string) error { return nil }
		f.scan = func(rows pgx.Rows, more ...any) (any, error) {
			n := new(int64)
			return n, rows.Scan(append([]any{n}, more...)...)
		}
		var n int64
		f.forget = func() { n = 0 }
		f.take = func(row any) { n = *row.(*int64) }
		f.result = func() any { return n }
		return f, nil
	}
}

func foresee(table string, s *statement, values []any, filters []Filter) *foreseen {
	f := &foreseen{key: foreseenAs(s, values), text: s.text, values: values, table: table}
	for _, filter := range filters {
		f.note(filter)
	}
	return f
}

// note takes what a filter says of every row that passes it.
func (f *foreseen) note(filter Filter) {
	if filter.equal != "" && len(filter.equal) <= longestID {
		f.equal = append(f.equal, filter.equal)
	}
}

// foreseenAs names a query by its text and values.
func foreseenAs(s *statement, values []any) string {
	var b strings.Builder
	b.WriteString(s.text)
	for _, v := range values {
		if text, ok := v.(string); ok {
			b.WriteString("\x00string ")
			b.WriteString(text)
			continue
		}
		fmt.Fprintf(&b, "\x00%T %v", v, v)
	}
	return b.String()
}

// given takes what was read ahead for a query, once, and unless the transaction has written since what it would find.
func given[V any](tx *Tx, s *statement, values []any) (v V, ok bool) {
	if len(tx.ahead) == 0 {
		return v, false
	}
	key := foreseenAs(s, values)
	f := tx.ahead[key]
	if f == nil {
		return v, false
	}
	delete(tx.ahead, key)
	if tx.own.touches(f) || tx.group.written.touches(f) {
		return v, false
	}
	v, ok = f.result().(V)
	return v, ok
}
