package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/pressly/goose/v3"
)

// Loader fills an empty database.
type Loader struct {
	ctx     context.Context
	tx      *sql.Conn
	backend backend
	table   DumpTable
	insert  *sql.Stmt
}

// Load fills the empty database at dsn with rows of a schema version: all of them or, when fill returns an error, none. Then
// the schema is brought up to date. A database that holds rows is left as it is: ErrNotEmpty.
func Load(ctx context.Context, dsn string, version int64, fill func(*Loader) error) (err error) {
	var b backend
	if path, ok := strings.CutPrefix(dsn, "sqlite:"); ok {
		b, err = openSQLite(path)
	} else {
		b, err = openPostgres(dsn)
	}
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer func() {
		err = errors.Join(err, b.writerDB.Close())
		if b.readerDB != b.writerDB {
			err = errors.Join(err, b.readerDB.Close())
		}
	}()
	p, err := b.migrations()
	if err != nil {
		return err
	}
	if err := b.prepare(ctx, p, version); err != nil {
		return err
	}
	if err := b.fill(ctx, fill); err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("bringing the schema up to date: %w", err)
	}
	return nil
}

// prepare brings an empty database to the version of the rows that come.
func (b backend) prepare(ctx context.Context, p *goose.Provider, version int64) error {
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("reading the version of the schema: %w", err)
	}
	if version < 1 || version > target {
		return fmt.Errorf("the rows have schema version %d and this program knows 1 to %d: use a newer keyward-broker", version, target)
	}
	conn, err := b.writerDB.Conn(ctx)
	if err != nil {
		return err
	}
	tables, err := b.columns(ctx, conn)
	for name := range tables {
		var n int
		if err == nil && name != "schema_version" {
			err = conn.QueryRowContext(ctx, "SELECT COUNT(*) FROM (SELECT 1 FROM "+quoted([]string{name})+" LIMIT 1) AS some").Scan(&n)
		}
		if err == nil && n > 0 {
			err = fmt.Errorf("%w (table %s): name an empty one", ErrNotEmpty, name)
		}
	}
	if err := errors.Join(err, conn.Close()); err != nil {
		return err
	}
	if current > version {
		return fmt.Errorf("the empty database has schema version %d and the rows %d: make a new database", current, version)
	}
	_, err = p.UpTo(ctx, version)
	return err
}

// columns are the columns of every table, by name.
func (b backend) columns(ctx context.Context, conn *sql.Conn) (map[string]map[string]bool, error) {
	query := "SELECT m.name, c.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"
	if b.name == "postgres" {
		query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
	}
	rows, err := conn.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]map[string]bool{}
	for rows.Next() {
		var table, column string
		if err := rows.Scan(&table, &column); err != nil {
			return nil, err
		}
		if out[table] == nil {
			out[table] = map[string]bool{}
		}
		out[table][column] = true
	}
	return out, rows.Err()
}

func (b backend) fill(ctx context.Context, fill func(*Loader) error) (err error) {
	conn, err := b.writerDB.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, b.beginWrite); err != nil {
		return fmt.Errorf("beginning to fill the database: %w", err)
	}
	done := false
	defer func() {
		if !done {
			conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}()
	if err := b.unlimited(ctx, conn); err != nil {
		return err
	}
	l := &Loader{ctx: ctx, tx: conn, backend: b}
	defer func() {
		if l.insert != nil {
			l.insert.Close()
		}
	}()
	if err := fill(l); err != nil {
		return err
	}
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return fmt.Errorf("committing the filled database: %w", err)
	}
	done = true
	return nil
}

// Table says which table the next rows belong to. Names that the database does not have are refused, so they can do no harm.
func (l *Loader) Table(t DumpTable) error {
	tables, err := l.backend.columns(l.ctx, l.tx)
	if err != nil {
		return err
	}
	if tables[t.Name] == nil || len(t.Columns) == 0 || t.Name == "schema_version" {
		return fmt.Errorf("there is no table %q", t.Name)
	}
	var marks []string
	for i, c := range t.Columns {
		if !tables[t.Name][c.Name] {
			return fmt.Errorf("table %s has no column %q", t.Name, c.Name)
		}
		marks = append(marks, map[bool]string{true: fmt.Sprintf("$%d", i+1), false: "?"}[l.backend.name == "postgres"])
	}
	if l.insert != nil {
		l.insert.Close()
	}
	l.table = t
	l.insert, err = l.tx.PrepareContext(l.ctx, "INSERT INTO "+quoted([]string{t.Name})+" ("+quoted(t.names())+") VALUES ("+strings.Join(marks, ", ")+")")
	return err
}

// Row adds a row to the table; values are as Dump gives them.
func (l *Loader) Row(values []any) error {
	if l.insert == nil || len(values) != len(l.table.Columns) {
		return errors.New("a row does not belong to a table")
	}
	if _, err := l.insert.ExecContext(l.ctx, values...); err != nil {
		return fmt.Errorf("adding a row to table %s: %w", l.table.Name, err)
	}
	return nil
}
