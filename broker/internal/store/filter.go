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
type Filter struct {
	// shape and the shapes of the other filters determine a statement's text; empty where values do too.
	shape string
	// values are bound, in the order of the text.
	values []any
	// equal is the text that a column must hold.
	equal string
	// limit is bound last, by databases that bind it.
	limit []any
	apply func(*query) error
}

// query collects filters for one statement.
type query struct {
	db       *gorm.DB
	schema   *schema.Schema
	tx       *Tx
	scope    scope
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

// where keeps rows for which the expression over a column holds.
func where(shape, name string, values []any, build func(clause.Column) clause.Expression) Filter {
	return Filter{shape: shape + " " + name, values: values, apply: func(q *query) error {
		c, err := q.column(name)
		if err != nil {
			return err
		}
		q.db = q.db.Where(build(c))
		return nil
	}}
}

// none keeps no row.
func none(name string) Filter {
	return where("nothing", name, nil, func(clause.Column) clause.Expression { return nothing })
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
	v = value(v)
	if impossible(v) {
		return none(column)
	}
	if v == nil {
		return IsNull(column)
	}
	f := where("=", column, []any{v}, func(c clause.Column) clause.Expression { return clause.Eq{Column: c, Value: v} })
	f.equal, _ = v.(string)
	return f
}

// Ne keeps rows whose column differs from v; NULL differs from nothing.
func Ne(column string, v any) Filter {
	v = value(v)
	if impossible(v) {
		return Filter{apply: func(*query) error {
			return fmt.Errorf("%w: nothing in column %s could equal it", ErrInvalid, column)
		}}
	}
	if v == nil {
		return NotNull(column)
	}
	return where("<>", column, []any{v}, func(c clause.Column) clause.Expression { return clause.Neq{Column: c, Value: v} })
}

// fewValues is how many values of a list there are statements for each.
const fewValues = 8

// OneOf keeps rows whose column equals one of values; none when there are no values.
func OneOf[V any](column string, values []V) Filter {
	some := make([]any, 0, len(values))
	for _, v := range values {
		if v := value(v); !impossible(v) {
			some = append(some, v)
		}
	}
	if len(some) == 0 {
		return none(column)
	}
	// Each number of values is a statement of its own: of long lists the last value is repeated up to a power of two.
	for len(some) > fewValues && len(some)&(len(some)-1) != 0 {
		some = append(some, some[len(some)-1])
	}
	return where(fmt.Sprintf("in %d", len(some)), column, some, func(c clause.Column) clause.Expression {
		return clause.IN{Column: c, Values: some}
	})
}

// Before keeps rows whose column is earlier than t.
func Before(column string, t time.Time) Filter {
	v := value(t)
	return where("<", column, []any{v}, func(c clause.Column) clause.Expression { return clause.Lt{Column: c, Value: v} })
}

// After keeps rows whose column is later than t or equal to it, so that Before and After of one time split a table.
func After(column string, t time.Time) Filter { return atLeast(column, value(t)) }

func atLeast(column string, v any) Filter {
	return where(">=", column, []any{v}, func(c clause.Column) clause.Expression { return clause.Gte{Column: c, Value: v} })
}

// IsNull keeps rows whose column has no value.
func IsNull(column string) Filter {
	return where("is null", column, nil, func(c clause.Column) clause.Expression { return clause.Eq{Column: c, Value: nil} })
}

// NotNull keeps rows whose column has a value.
func NotNull(column string) Filter {
	return where("is not null", column, nil, func(c clause.Column) clause.Expression { return clause.Neq{Column: c, Value: nil} })
}

// EqFold keeps rows whose text equals s, whatever the case of ASCII letters. Names have an index for it.
func EqFold(column, s string) Filter {
	if impossible(s) {
		return none(column)
	}
	return where("fold =", column, []any{s}, func(c clause.Column) clause.Expression {
		return clause.Expr{SQL: "LOWER(?) = LOWER(?)", Vars: []any{c, s}}
	})
}

var likeEscaper = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// Like keeps rows whose text contains s, whatever the case of ASCII letters. Wildcards in s are plain characters.
func Like(column, s string) Filter { return AnyLike([]string{column}, s) }

// AnyLike is Like on any of several columns.
func AnyLike(columns []string, s string) Filter {
	return Filter{apply: func(q *query) error {
		if impossible(s) {
			q.db = q.db.Where(nothing)
			return nil
		}
		op := "LIKE" // of SQLite: ignores the case of ASCII letters
		if q.postgres {
			op = "ILIKE"
		}
		var some []clause.Expression
		for _, name := range columns {
			c, err := q.column(name)
			if err != nil {
				return err
			}
			some = append(some, clause.Expr{SQL: `? ` + op + ` ? ESCAPE '\'`, Vars: []any{c, "%" + likeEscaper.Replace(s) + "%"}})
		}
		if len(some) == 1 { // one alternative among conditions would be an alternative to them
			q.db = q.db.Where(some[0])
			return nil
		}
		q.db = q.db.Where(clause.Or(some...))
		return nil
	}}
}

// AscFold orders by a column whatever the case of ASCII letters, smallest first; Fold orders the same way.
func AscFold(column string) Filter {
	return Filter{shape: "fold asc " + column, apply: func(q *query) error {
		c, err := q.column(column)
		if err != nil {
			return err
		}
		q.ordered = true
		q.db = q.db.Order(clause.OrderByColumn{Column: clause.Column{Name: "LOWER(" + c.Name + ")", Raw: true}})
		return nil
	}}
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
	return Filter{shape: fmt.Sprintf("order %t %s", desc, column), apply: func(q *query) error {
		c, err := q.column(column)
		if err != nil {
			return err
		}
		q.ordered = true
		q.db = q.db.Order(clause.OrderByColumn{Column: c, Desc: desc})
		return nil
	}}
}

// Limit returns at most n rows; n must be positive.
func Limit(n int) Filter {
	return Filter{shape: fmt.Sprintf("limit %d", n), limit: []any{n}, apply: func(q *query) error {
		if n <= 0 {
			return fmt.Errorf("store: a limit of %d rows", n)
		}
		q.db = q.db.Limit(n)
		return nil
	}}
}

// Only reads just these columns and leaves the other fields zero: a list of thousands need not decode what it does not
// show. The row's version is not among them, so Update refuses such a row instead of emptying it.
func Only(columns ...string) Filter {
	return Filter{shape: "only " + strings.Join(columns, ","), apply: func(q *query) error {
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
	}}
}

// Offset skips n rows.
func Offset(n int) Filter {
	return Filter{apply: func(q *query) error {
		if n < 0 {
			return fmt.Errorf("store: an offset of %d rows", n)
		}
		q.db = q.db.Offset(n)
		return nil
	}}
}

// ForUpdate makes a concurrent transaction that wants the same rows wait. SQLite has one writer anyway.
func ForUpdate() Filter {
	return Filter{shape: "for update", apply: func(q *query) error {
		if q.postgres {
			q.db = q.db.Clauses(clause.Locking{Strength: clause.LockingStrengthUpdate})
		}
		return nil
	}}
}

// AtLeast keeps rows whose number is v or more.
func AtLeast(column string, v int64) Filter { return atLeast(column, v) }

// AtMost keeps rows whose number is v or less.
func AtMost(column string, v int64) Filter {
	return where("<=", column, []any{v}, func(c clause.Column) clause.Expression { return clause.Lte{Column: c, Value: v} })
}
