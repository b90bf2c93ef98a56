package store

import (
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"gorm.io/gorm"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/schema"
)

// Filter narrows or orders what a Table returns. Column names are checked against the model, so a name that came from
// outside can do no harm; values are always bound, never spliced.
type Filter func(*query) error

// query collects filters for one statement.
type query struct {
	db       *gorm.DB
	schema   *schema.Schema
	postgres bool
	ordered  bool
}

func (q *query) column(name string) (clause.Column, error) {
	f := q.schema.FieldsByDBName[name]
	if f == nil {
		return clause.Column{}, fmt.Errorf("store: table %s has no column %q", q.schema.Table, name)
	}
	return clause.Column{Table: clause.CurrentTable, Name: f.DBName}, nil
}

func (q *query) where(name string, build func(clause.Column) clause.Expression) error {
	c, err := q.column(name)
	if err != nil {
		return err
	}
	q.db = q.db.Where(build(c))
	return nil
}

// value turns what callers hold into what drivers take: named strings into strings, times into UTC microseconds.
func value(v any) any {
	switch x := v.(type) {
	case time.Time:
		return x.UTC().Truncate(time.Microsecond)
	case []byte, nil:
		return v
	}
	if r := reflect.ValueOf(v); r.Kind() == reflect.String {
		return r.String()
	}
	return v
}

// impossible says that v is text that no row holds, because it cannot be stored (ErrInvalid). PostgreSQL would refuse the
// whole statement, and SQLite would look for it: nothing equals it in either.
func impossible(v any) bool {
	s, ok := v.(string)
	return ok && (strings.IndexByte(s, 0) >= 0 || !utf8.ValidString(s))
}

var nothing = clause.Expr{SQL: "1 = 0"}

// Eq keeps rows whose column equals v.
func Eq(column string, v any) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression {
			if impossible(value(v)) {
				return nothing
			}
			return clause.Eq{Column: c, Value: value(v)}
		})
	}
}

// Ne keeps rows whose column differs from v; NULL differs from nothing.
func Ne(column string, v any) Filter {
	return func(q *query) error {
		if impossible(value(v)) {
			return fmt.Errorf("%w: nothing in column %s could equal it", ErrInvalid, column)
		}
		return q.where(column, func(c clause.Column) clause.Expression { return clause.Neq{Column: c, Value: value(v)} })
	}
}

// OneOf keeps rows whose column equals one of values; none when there are no values.
func OneOf[V any](column string, values []V) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression {
			in := clause.IN{Column: c}
			for _, v := range values {
				if !impossible(value(v)) {
					in.Values = append(in.Values, value(v))
				}
			}
			if len(in.Values) == 0 {
				return nothing
			}
			return in
		})
	}
}

// Before keeps rows whose column is earlier than t.
func Before(column string, t time.Time) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression { return clause.Lt{Column: c, Value: value(t)} })
	}
}

// After keeps rows whose column is later than t or equal to it, so that Before and After of one time split a table.
func After(column string, t time.Time) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression { return clause.Gte{Column: c, Value: value(t)} })
	}
}

// IsNull keeps rows whose column has no value.
func IsNull(column string) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression { return clause.Eq{Column: c, Value: nil} })
	}
}

// NotNull keeps rows whose column has a value.
func NotNull(column string) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression { return clause.Neq{Column: c, Value: nil} })
	}
}

// EqFold keeps rows whose text equals s, whatever the case of ASCII letters. Names have an index for it.
func EqFold(column, s string) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression {
			if impossible(s) {
				return nothing
			}
			return clause.Expr{SQL: "LOWER(?) = LOWER(?)", Vars: []any{c, s}}
		})
	}
}

var likeEscaper = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// Like keeps rows whose text contains s, whatever the case of ASCII letters. Wildcards in s are plain characters.
func Like(column, s string) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression {
			if impossible(s) {
				return nothing
			}
			op := "LIKE" // of SQLite: ignores the case of ASCII letters
			if q.postgres {
				op = "ILIKE"
			}
			return clause.Expr{SQL: `? ` + op + ` ? ESCAPE '\'`, Vars: []any{c, "%" + likeEscaper.Replace(s) + "%"}}
		})
	}
}

// AnyLike is Like on any of several columns.
func AnyLike(columns []string, s string) Filter {
	return func(q *query) error {
		if impossible(s) {
			q.db = q.db.Where(nothing)
			return nil
		}
		op := "LIKE"
		if q.postgres {
			op = "ILIKE"
		}
		var some []clause.Expression
		for _, name := range columns {
			c, err := q.column(name)
			if err != nil {
				return err
			}
			some = append(some, clause.Expr{SQL: `? ` + op + ` ? ESCAPE '\'`, Vars: []interface{}{c, "%" + likeEscaper.Replace(s) + "%"}})
		}
		q.db = q.db.Where(clause.Or(some...))
		return nil
	}
}

// AscFold orders by a column whatever the case of ASCII letters, smallest first; Fold orders the same way.
func AscFold(column string) Filter {
	return func(q *query) error {
		c, err := q.column(column)
		if err != nil {
			return err
		}
		q.ordered = true
		q.db = q.db.Order(clause.OrderByColumn{Column: clause.Column{Name: "LOWER(" + c.Name + ")", Raw: true}})
		return nil
	}
}

// Fold is a text as EqFold and AscFold compare it: ASCII letters in lower case, bytes otherwise as they are.
func Fold(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// Asc orders by column, smallest first. Rows that are equal are ordered by primary key.
func Asc(column string) Filter { return order(column, false) }

// Desc orders by column, largest first. Rows that are equal are ordered by primary key.
func Desc(column string) Filter { return order(column, true) }

func order(column string, desc bool) Filter {
	return func(q *query) error {
		c, err := q.column(column)
		if err != nil {
			return err
		}
		q.ordered = true
		q.db = q.db.Order(clause.OrderByColumn{Column: c, Desc: desc})
		return nil
	}
}

// Limit returns at most n rows; n must be positive.
func Limit(n int) Filter {
	return func(q *query) error {
		if n <= 0 {
			return fmt.Errorf("store: a limit of %d rows", n)
		}
		q.db = q.db.Limit(n)
		return nil
	}
}

// Only reads just these columns and leaves the other fields zero: a list of thousands need not decode what it does not
// show. The row's version is not among them, so Update refuses such a row instead of emptying it.
func Only(columns ...string) Filter {
	return func(q *query) error {
		for _, name := range columns {
			if _, err := q.column(name); err != nil {
				return err
			}
			if name == "version" {
				return fmt.Errorf("store: a part of a row of %s has no version", q.schema.Table)
			}
		}
		q.db = q.db.Select(columns)
		return nil
	}
}

// Offset skips n rows.
func Offset(n int) Filter {
	return func(q *query) error {
		if n < 0 {
			return fmt.Errorf("store: an offset of %d rows", n)
		}
		q.db = q.db.Offset(n)
		return nil
	}
}

// ForUpdate makes a concurrent transaction that wants the same rows wait. SQLite has one writer anyway.
func ForUpdate() Filter {
	return func(q *query) error {
		if q.postgres {
			q.db = q.db.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate})
		}
		return nil
	}
}

// AtLeast keeps rows whose number is v or more.
func AtLeast(column string, v int64) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression { return clause.Gte{Column: c, Value: v} })
	}
}

// AtMost keeps rows whose number is v or less.
func AtMost(column string, v int64) Filter {
	return func(q *query) error {
		return q.where(column, func(c clause.Column) clause.Expression { return clause.Lte{Column: c, Value: v} })
	}
}
