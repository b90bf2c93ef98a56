package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
)

// openPostgres opens a PostgreSQL database. Writing transactions are serializable, so that the rules of a service hold
// between several brokers exactly as they do on SQLite with its one writer; losers of a race are repeated.
func openPostgres(dsn string) (backend, error) {
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		// pgx redacts the password, but the address is not ours to print at all.
		return backend{}, errors.New(`the address is not understood; write "postgres://user@host:5432/name?sslmode=verify-full"`)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "keyward-broker"
	}
	// The server gives up with us: a broker that lost its network must not hold locks.
	config.RuntimeParams["statement_timeout"] = fmt.Sprint(txTimeout.Milliseconds())
	config.RuntimeParams["idle_in_transaction_session_timeout"] = fmt.Sprint((2 * txTimeout).Milliseconds())
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(16)
	db.SetMaxIdleConns(4)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return backend{
		name: "postgres", writerDB: db, readerDB: db,
		dialector:  func(db *sql.DB) gorm.Dialector { return postgres.New(postgres.Config{Conn: db}) },
		classify:   classifyPostgres,
		beginWrite: "BEGIN ISOLATION LEVEL SERIALIZABLE READ WRITE", beginRead: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
		batches: true,
		catalog: func(ctx context.Context) (*catalog, error) { return readCatalog(ctx, db) },
		aborted: func(c any) bool { return c.(*stdlib.Conn).Conn().PgConn().TxStatus() != 'T' },
	}, nil
}

// classifyPostgres maps SQLSTATE codes (PostgreSQL manual, appendix A).
func classifyPostgres(err error) faultKind {
	var e *pgconn.PgError
	if !errors.As(err, &e) {
		return faultOther
	}
	switch e.Code {
	case "23505":
		return faultDuplicate
	case "23503", "23001":
		return faultReferenced
	case "53100":
		return faultFull
	case "40001", "40P01":
		return faultRetry
	}
	return faultOther
}
