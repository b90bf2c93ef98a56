package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/schema"
)

// DumpTable is a table as a dump carries it, the same from both databases.
type DumpTable struct {
	Name    string       `json:"name"`
	Columns []DumpColumn `json:"columns"`
	// order are the columns of the primary key.
	order []string
}

// DumpColumn is a column. Kind is text, integer, bytes, time or bool; any may be null.
type DumpColumn struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
}

// ErrNotEmpty says that a database that is to be filled holds rows.
var ErrNotEmpty = errors.New("the database holds rows already")

// Dump passes every row of the tables that keep lets through, as one consistent state of the database, however long that
// takes and whoever writes meanwhile. A table comes before its rows, and before the tables that refer to it. Values are
// string, int64, []byte, time.Time, bool or nil. It returns the version of the schema.
func (s *Store) Dump(ctx context.Context, keep func(table string) bool, table func(DumpTable) error, row func([]any) error) (int64, error) {
	p, err := s.backend.migrations()
	if err != nil {
		return 0, err
	}
	version, err := p.GetDBVersion(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the version of the schema: %w", err)
	}
	conn, err := s.backend.readerDB.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, s.backend.beginRead); err != nil {
		return 0, fmt.Errorf("beginning to read the database: %w", err)
	}
	defer conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
	if err := s.backend.unlimited(ctx, conn); err != nil {
		return 0, err
	}
	for _, m := range models() {
		t, err := s.dumpTable(m)
		if err != nil {
			return 0, err
		}
		if !keep(t.Name) {
			continue
		}
		if err := table(t); err != nil {
			return 0, err
		}
		if err := dumpRows(ctx, conn, t, row); err != nil {
			return 0, fmt.Errorf("reading table %s: %w", t.Name, err)
		}
	}
	return version, nil
}

// unlimited lets the statements of one long transaction take their time.
func (b backend) unlimited(ctx context.Context, conn *sql.Conn) error {
	if b.name != "postgres" {
		return nil
	}
	_, err := conn.ExecContext(ctx, "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
	return err
}

func (s *Store) dumpTable(model any) (DumpTable, error) {
	st := &gorm.Statement{DB: s.gorm}
	if err := st.Parse(model); err != nil {
		return DumpTable{}, err
	}
	t := DumpTable{Name: st.Schema.Table}
	for _, f := range st.Schema.Fields {
		kind, err := kindOf(f)
		if err != nil {
			return DumpTable{}, err
		}
		t.Columns = append(t.Columns, DumpColumn{f.DBName, kind})
	}
	for _, f := range st.Schema.PrimaryFields {
		t.order = append(t.order, f.DBName)
	}
	return t, nil
}

func kindOf(f *schema.Field) (string, error) {
	if f.Serializer != nil {
		return "text", nil
	}
	switch f.IndirectFieldType.Kind() {
	case reflect.String:
		return "text", nil
	case reflect.Int, reflect.Int64:
		return "integer", nil
	case reflect.Bool:
		return "bool", nil
	case reflect.Slice:
		return "bytes", nil
	case reflect.Struct:
		return "time", nil
	}
	return "", fmt.Errorf("store: column %s.%s has a type that no dump carries", f.Schema.Table, f.DBName)
}

func quoted(names []string) string {
	var out []string
	for _, n := range names {
		out = append(out, `"`+strings.ReplaceAll(n, `"`, `""`)+`"`)
	}
	return strings.Join(out, ", ")
}

func (t DumpTable) names() []string {
	var out []string
	for _, c := range t.Columns {
		out = append(out, c.Name)
	}
	return out
}

func dumpRows(ctx context.Context, conn *sql.Conn, t DumpTable, f func([]any) error) error {
	rows, err := conn.QueryContext(ctx, "SELECT "+quoted(t.names())+" FROM "+quoted([]string{t.Name})+" ORDER BY "+quoted(t.order))
	if err != nil {
		return err
	}
	defer rows.Close()
	into := make([]any, len(t.Columns))
	for i, c := range t.Columns {
		switch c.Kind {
		case "integer":
			into[i] = new(sql.NullInt64)
		case "bool":
			into[i] = new(sql.NullBool)
		case "time":
			into[i] = new(sql.NullTime)
		case "bytes":
			into[i] = new([]byte)
		default:
			into[i] = new(sql.NullString)
		}
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		values := make([]any, len(into))
		for i, v := range into {
			values[i] = plain(v)
		}
		if err := f(values); err != nil {
			return err
		}
	}
	return rows.Err()
}

func plain(v any) any {
	switch x := v.(type) {
	case *sql.NullInt64:
		if x.Valid {
			return x.Int64
		}
	case *sql.NullBool:
		if x.Valid {
			return x.Bool
		}
	case *sql.NullTime:
		if x.Valid {
			return x.Time.UTC().Truncate(time.Microsecond)
		}
	case *sql.NullString:
		if x.Valid {
			return x.String
		}
	case *[]byte:
		if *x != nil {
			return slices.Clone(*x)
		}
	}
	return nil
}

// AccountOfDump is the row of an account, as far as its keys go.
func AccountOfDump(t DumpTable, values []any) (Account, error) {
	var a Account
	ok := true
	for i, c := range t.Columns {
		switch v := values[i]; c.Name {
		case "id":
			a.ID, ok = v.(string)
		case "root_key_id":
			a.RootKeyID, ok = v.(string)
		case "key_generation":
			a.KeyGeneration, ok = v.(int64)
		case "wrapped_key":
			a.WrappedKey, ok = v.([]byte)
		case "earlier_keys":
			if text, has := v.(string); has {
				ok = json.Unmarshal([]byte(text), &a.EarlierKeys) == nil
			}
		}
		if !ok {
			return a, fmt.Errorf("column %s of a row of %s is not understood", c.Name, t.Name)
		}
	}
	return a, nil
}
