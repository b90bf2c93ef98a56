package store

import "sync/atomic"

// CountDistinct counts the different values of a column among the rows that pass the filters.
func (t Table[T]) CountDistinct(column string, filters ...Filter) (int64, error) {
	if err := t.tx.flush(); err != nil {
		return 0, err
	}
	q, err := t.query(t.db(), filters)
	if err != nil {
		return 0, err
	}
	if _, err := q.column(column); err != nil {
		return 0, err
	}
	var n int64
	if err := q.db.Distinct(column).Count(&n).Error; err != nil {
		return 0, t.tx.failed("counting in "+q.schema.Table, err)
	}
	t.tx.store.reads.note(1)
	return n, nil
}

// CountBy counts the rows that pass the filters by the values of a text column.
func (t Table[T]) CountBy(column string, filters ...Filter) (map[string]int64, error) {
	if err := t.tx.flush(); err != nil {
		return nil, err
	}
	q, err := t.query(t.db(), filters)
	if err != nil {
		return nil, err
	}
	if _, err := q.column(column); err != nil {
		return nil, err
	}
	var rows []struct {
		Value  string
		Number int64
	}
	if err := q.db.Select(column + " AS value, COUNT(*) AS number").Group(column).Scan(&rows).Error; err != nil {
		return nil, t.tx.failed("counting in "+q.schema.Table, err)
	}
	t.tx.store.reads.note(len(rows))
	out := make(map[string]int64, len(rows))
	for _, r := range rows {
		out[r.Value] = r.Number
	}
	return out, nil
}

// Reads is how much was read from the database: a measure of what a call costs that does not depend on the machine.
type Reads struct{ Statements, Rows int64 }

// Reads counts what was read through the store since it was opened.
func (s *Store) Reads() Reads { return Reads{s.reads.statements.Load(), s.reads.rows.Load()} }

type reads struct{ statements, rows atomic.Int64 }

func (r *reads) note(rows int) {
	r.statements.Add(1)
	r.rows.Add(int64(rows))
}
