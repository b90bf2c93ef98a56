package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
)

// readers is how many transactions read at the same time.
const readers = 4

// maxCompiled bounds the compiled statements of a line. Filters make a few hundred texts; lists of values make more.
const maxCompiled = 512

// line is one connection to the database, used by one transaction at a time. It keeps statements compiled where the
// driver does not do that itself, and opens its connection anew when that broke. It is GORM's connection pool of the
// transaction.
type line struct {
	db       *sql.DB
	compile  bool
	conn     *sql.Conn
	compiled map[string]*sql.Stmt
	// opening is the statement that is still to begin the transaction; empty when it was begun.
	opening string
}

// begin starts a transaction, or with an empty statement only has a connection. A connection that broke while it was idle is replaced, once.
func (l *line) begin(ctx context.Context, statement string) error {
	for attempt := 0; ; attempt++ {
		fresh := l.conn == nil
		err := l.try(ctx, statement)
		if err == nil {
			return nil
		}
		l.drop()
		if fresh || attempt > 0 || ctx.Err() != nil {
			return err
		}
	}
}

func (l *line) try(ctx context.Context, statement string) error {
	if l.conn == nil {
		conn, err := l.db.Conn(ctx)
		if err != nil {
			return err
		}
		l.conn, l.compiled = conn, map[string]*sql.Stmt{}
	}
	if statement == "" {
		return nil
	}
	_, err := l.ExecContext(ctx, statement)
	return err
}

// open begins the transaction, where that was put off.
func (l *line) open(ctx context.Context) error {
	if l.opening == "" {
		return nil
	}
	statement := l.opening
	l.opening = ""
	return l.begin(ctx, statement)
}

// end commits or rolls back; when that fails the connection is given up, because nobody knows what it is in.
func (l *line) end(statement string) error {
	// Not the caller's time: a commit that was begun is waited for.
	ctx, cancel := context.WithTimeout(context.Background(), txTimeout)
	defer cancel()
	if l.conn == nil {
		return sql.ErrConnDone
	}
	_, err := l.ExecContext(ctx, statement)
	if err != nil {
		l.drop()
	}
	return err
}

// drop closes the connection, not giving it back to the pool.
func (l *line) drop() {
	for _, s := range l.compiled {
		s.Close()
	}
	l.compiled = nil
	if l.conn != nil {
		_ = l.conn.Raw(func(any) error { return driver.ErrBadConn })
		l.conn.Close()
		l.conn = nil
	}
}

// close gives the connection back.
func (l *line) close() {
	for _, s := range l.compiled {
		s.Close()
	}
	l.compiled = nil
	if l.conn != nil {
		l.conn.Close()
		l.conn = nil
	}
}

// prepared is a compiled statement; nil where the driver compiles by itself.
func (l *line) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if l.conn == nil {
		return nil, fmt.Errorf("the connection is gone: %w", sql.ErrConnDone)
	}
	if !l.compile {
		return nil, nil
	}
	if s := l.compiled[query]; s != nil {
		return s, nil
	}
	if len(l.compiled) >= maxCompiled {
		for text, s := range l.compiled {
			s.Close()
			delete(l.compiled, text)
			break
		}
	}
	s, err := l.conn.PrepareContext(ctx, query)
	if err == nil {
		l.compiled[query] = s
	}
	return s, err
}

// PrepareContext implements gorm.ConnPool.
func (l *line) PrepareContext(ctx context.Context, query string) (*sql.Stmt, error) {
	if l.conn == nil {
		return nil, sql.ErrConnDone
	}
	return l.conn.PrepareContext(ctx, query)
}

// ExecContext implements gorm.ConnPool.
func (l *line) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	s, err := l.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return l.conn.ExecContext(ctx, query, args...)
	}
	return s.ExecContext(ctx, args...)
}

// QueryContext implements gorm.ConnPool.
func (l *line) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	s, err := l.prepared(ctx, query)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return l.conn.QueryContext(ctx, query, args...)
	}
	return s.QueryContext(ctx, args...)
}

// QueryRowContext implements gorm.ConnPool.
func (l *line) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	s, err := l.prepared(ctx, query)
	if err != nil || s == nil {
		return l.conn.QueryRowContext(ctx, query, args...)
	}
	return s.QueryRowContext(ctx, args...)
}
