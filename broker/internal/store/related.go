package store

import (
	"errors"
	"fmt"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
)

// Among keeps rows whose column holds what theirs holds in a row of T, of the same account, that passes the filters.
func Among[T any](column, theirs string, filters ...Filter) Filter {
	return Filter{apply: func(q *query) error {
		c, err := q.column(column)
		if err != nil {
			return err
		}
		table := Table[T]{tx: q.tx, scope: q.scope}
		other, err := table.query(table.db(), filters)
		if err != nil {
			return err
		}
		if _, err := other.column(theirs); err != nil {
			return err
		}
		q.db = q.db.Where(clause.Expr{SQL: "? IN (?)", Vars: []any{c, other.db.Select(theirs)}})
		return nil
	}}
}

// Newest keeps rows of T that no other row follows: one that passes the filters, holds the same in all the columns, and
// more in order.
func Newest[T any](same []string, order string, filters ...Filter) Filter {
	const other = "newer"
	return Filter{apply: func(q *query) error {
		table := Table[T]{tx: q.tx, scope: q.scope}
		newer, err := table.query(table.db(), filters)
		if err != nil {
			return err
		}
		if newer.schema.Table != q.schema.Table {
			return fmt.Errorf("store: rows of %s do not follow rows of %s", newer.schema.Table, q.schema.Table)
		}
		db := newer.db.Table(q.schema.Table + " AS " + other).Select(order)
		compare := func(name, how string) error {
			if _, err := q.column(name); err != nil {
				return err
			}
			db = db.Where(clause.Expr{SQL: "? " + how + " ?", Vars: []any{clause.Column{Table: other, Name: name}, clause.Column{Table: q.schema.Table, Name: name}}})
			return nil
		}
		for _, name := range same {
			if err := compare(name, "="); err != nil {
				return err
			}
		}
		if err := compare(order, ">"); err != nil {
			return err
		}
		q.db = q.db.Where(clause.Expr{SQL: "NOT EXISTS (?)", Vars: []any{db}})
		return nil
	}}
}

// Any keeps rows that pass all filters of at least one of the lists, which neither order nor limit.
func Any(lists ...[]Filter) Filter {
	return Filter{apply: func(q *query) error {
		var some []clause.Expression
		for _, list := range lists {
			part := *q
			part.db = q.db.Session(&gorm.Session{NewDB: true})
			for _, f := range list {
				if err := f.apply(&part); err != nil {
					return err
				}
			}
			where, ok := part.db.Statement.Clauses["WHERE"].Expression.(clause.Where)
			if !ok {
				return errors.New("store: one of several conditions is empty")
			}
			some = append(some, clause.And(where.Exprs...))
		}
		switch len(some) {
		case 0:
			q.db = q.db.Where(nothing)
		case 1:
			q.db = q.db.Where(some[0])
		default:
			q.db = q.db.Where(clause.Or(some...))
		}
		return nil
	}}
}
