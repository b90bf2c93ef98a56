package store

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// Rows that nobody reads again in their transaction are stored before its commit, or before the next statement that could
// find them, and a row that changes meanwhile once instead of twice. On PostgreSQL those of all transactions that share a commit
// are stored together (joint.go).

// errLost is how a row that was put off ends when another transaction wrote first. The transaction is run again, when it
// finds what the other one wrote.
var errLost = errors.New("store: another transaction wrote first")

// mostLater bounds the rows that one transaction puts off: they are looked through when one of them changes.
const mostLater = 256

// lostAgain bounds how often a transaction is run again for it.
const lostAgain = 3

// put is a statement that is put off.
type put struct {
	statement *statement
	table, id string
	insert    bool
	// account and version are those of a row that is to be inserted.
	account string
	version int64
	values  []any
	// lost is what it means when no row was written.
	lost error
}

// InsertLater is Insert for a row whose unique values are known to be free, from what the transaction has read or because
// they are random. Should another transaction take them at the same time, this one is run again.
func (t Table[T]) InsertLater(row *T) error {
	if err := t.fresh(row); err != nil {
		return err
	}
	s, err := t.insertion(row)
	if err != nil {
		return err
	}
	if s == nil {
		return t.insertNow(row)
	}
	values, err := stored(t.tx.ctx, s.fields, reflect.ValueOf(row).Elem(), 0)
	if err != nil {
		return err
	}
	return t.tx.putOff(put{statement: s, table: t.name(), id: idOf(row), insert: true, account: t.scope.account, version: 1,
		values: values, lost: fmt.Errorf("%w: %s", ErrDuplicate, t.name())})
}

// UpdateLater is Update for a row that was read in this transaction. Should another transaction change it at the same
// time, this one is run again.
func (t Table[T]) UpdateLater(row *T) error {
	if t.amend(row) {
		return nil
	}
	read, back, err := t.renew(row)
	if err != nil {
		return err
	}
	id := idOf(row)
	s, err := t.change(row, id, read)
	if err != nil {
		back()
		return err
	}
	if s == nil {
		back()
		return t.Update(row)
	}
	values, err := stored(t.tx.ctx, s.fields, reflect.ValueOf(row).Elem(), 3)
	if err != nil {
		back()
		return err
	}
	return t.tx.putOff(put{statement: s, table: t.name(), id: id,
		values: append(values, t.bound([]Filter{Eq("id", id), Eq("version", read)})...), lost: fmt.Errorf("%w: %s", ErrStale, t.name())})
}

// amend changes a row whose insertion is still put off, and says whether it was.
func (t Table[T]) amend(row *T) bool {
	id := idOf(row)
	i := slices.IndexFunc(t.tx.later, func(p put) bool {
		return p.insert && p.table == t.name() && p.id == id && id != "" && p.account == t.scope.account
	})
	// Another copy of the row, or one that was taken to another tenant, is for Update to refuse.
	if i < 0 || *any(row).(identified).identity().version != t.tx.later[i].version {
		return false
	}
	_, back, err := t.renew(row)
	if err != nil {
		return false
	}
	values, err := stored(t.tx.ctx, t.tx.later[i].statement.fields, reflect.ValueOf(row).Elem(), 0)
	if err != nil {
		back()
		return false
	}
	t.tx.later[i].values = values
	t.tx.own.note(t.tx.later[i : i+1])
	t.tx.later[i].version++
	return true
}

// putOff keeps a row for later. A transaction over thousands of rows stores them in between.
func (tx *Tx) putOff(p put) error {
	tx.later = append(tx.later, p)
	tx.own.note(tx.later[len(tx.later)-1:])
	if len(tx.later) >= mostLater {
		return tx.flush()
	}
	return nil
}

func idOf(row any) string {
	if r, ok := row.(identified); ok {
		return *r.identity().id
	}
	return ""
}

// flush stores what was put off, by those first that had the turn before.
func (tx *Tx) flush() error {
	if tx.group != nil {
		if err := tx.group.settle(tx); err != nil {
			return err
		}
	}
	if len(tx.later) == 0 {
		return nil
	}
	all := tx.later
	if err := tx.group.save(tx); err != nil {
		return err
	}
	tx.later, tx.own, tx.wrote = nil, writing{}, true
	tx.group.written.note(all)
	return tx.store.put(tx, all, false, false)
}

// before stores what was put off if a query over a table could find it. ids are the rows that it has found, once it was made;
// then before says whether it has to be made again.
func (tx *Tx) before(table string, filters []Filter, counts bool, ids []string) (stored bool, err error) {
	if tx.group == nil || len(tx.later) == 0 && len(tx.group.pending) == 0 {
		return false, nil
	}
	f := &foreseen{table: table, ids: ids}
	if counts {
		f.counted = table
	}
	for _, filter := range filters {
		f.note(filter)
	}
	for _, w := range []*writing{&tx.own, &tx.group.written} {
		if w.touches(f) {
			return true, tx.flush()
		}
	}
	return false, nil
}

// put stores rows, one after another or as many as there are together. last, on PostgreSQL, commits with them.
func (s *Store) put(tx *Tx, all []put, together, last bool) error {
	if s.backend.batches {
		if err := s.putAll(tx, all, together, last); err != nil {
			return tx.failed("storing rows", err)
		}
		return nil
	}
	for _, p := range all {
		n, err := tx.run(p.statement, "storing a row of "+p.table, p.values)
		if err != nil {
			return err
		}
		if n != 1 {
			return tx.failed("storing rows", fmt.Errorf("%w (%w)", p.lost, errLost))
		}
	}
	return nil
}

var errNoLine = errors.New("store: the connection is gone")
