package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// SQLite chooses indexes by what it believes of their columns. Without statistics it believes every index on account_id
// to select ten rows, and reads a whole account in the order of its keys rather than sort the two rows it wants. Measured
// statistics would make plans depend on the day they were taken; these are assumed, for one large account, and the same
// everywhere (https://www.sqlite.org/lang_analyze.html, "using hard-coded query plans").

// assumedRows is the size of every table, and of a partial index on it.
const assumedRows, assumedPartial = 1_000_000, 50_000

// distinct is how many values a column is assumed to have; others have manyValues.
var distinct = map[string]int64{"account_id": 1, "policy_id": 50, "image_id": 1000, "user_id": 50, "raid_set_id": 50, "status": 10,
	"category": 5, "waits_for": 3, "account_generation": 3, "root_key_id": 3, "level": 20}

const manyValues = 300_000

// indexColumn is a column of an index, in order. An expression has no name.
type indexColumn struct {
	table, index    string
	unique, partial bool
	name            string
}

// assumeStatistics writes the assumed statistics of all indexes where they are not there yet.
func (b backend) assumeStatistics(ctx context.Context) (err error) {
	columns, err := b.indexColumns(ctx)
	if err != nil {
		return err
	}
	want := statistics(columns)
	if is, err := b.statistics(ctx); err == nil && slices.Equal(is, want) {
		return nil
	}
	tx, err := b.writerDB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreDone(tx.Rollback())) }()
	for _, statement := range []string{"ANALYZE accounts", "DELETE FROM sqlite_stat1"} { // the first makes the table
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	for _, row := range want {
		if _, err := tx.ExecContext(ctx, "INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", row[0], row[1], row[2]); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	// Statistics are read when a connection is opened.
	b.writerDB.SetMaxIdleConns(0)
	b.writerDB.SetMaxIdleConns(writers)
	return nil
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// statistics are rows of sqlite_stat1: table, index, and the number of rows followed by how many of them share a value of
// the first column, of the first two, and so on.
func statistics(columns []indexColumn) [][3]string {
	var out [][3]string
	for len(columns) > 0 {
		c := columns[0]
		n := slices.IndexFunc(columns, func(o indexColumn) bool { return o.index != c.index })
		if n < 0 {
			n = len(columns)
		}
		rows := int64(assumedRows)
		if c.partial {
			rows = assumedPartial
		}
		stat := []string{fmt.Sprint(rows)}
		left := rows
		for i, column := range columns[:n] {
			d, ok := distinct[column.name]
			if !ok {
				d = manyValues
			}
			left = max(left/d, 2)
			if column.unique && i == n-1 {
				left = 1
			}
			stat = append(stat, fmt.Sprint(left))
		}
		out = append(out, [3]string{c.table, c.index, strings.Join(stat, " ")})
		columns = columns[n:]
	}
	return out
}

// indexColumns lists the columns of all indexes, by table and index.
func (b backend) indexColumns(ctx context.Context) (out []indexColumn, err error) {
	err = b.each(ctx, `SELECT m.name, i.name, i."unique", i.partial, COALESCE(c.name, '') FROM sqlite_master AS m, pragma_index_list(m.name) AS i,
		pragma_index_xinfo(i.name) AS c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' AND c.key = 1 ORDER BY m.name, i.name, c.seqno`,
		func(rows *sql.Rows) error {
			var c indexColumn
			err := rows.Scan(&c.table, &c.index, &c.unique, &c.partial, &c.name)
			out = append(out, c)
			return err
		})
	return out, err
}

// statistics are those of the database, in the order of indexColumns.
func (b backend) statistics(ctx context.Context) (out [][3]string, err error) {
	err = b.each(ctx, "SELECT tbl, COALESCE(idx, ''), stat FROM sqlite_stat1 ORDER BY tbl, idx", func(rows *sql.Rows) error {
		var r [3]string
		err := rows.Scan(&r[0], &r[1], &r[2])
		out = append(out, r)
		return err
	})
	return out, err
}

func (b backend) each(ctx context.Context, query string, row func(*sql.Rows) error) (err error) {
	rows, err := b.writerDB.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
