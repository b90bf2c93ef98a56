package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"gorm.io/gorm"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// writers is how many connections may write to the embedded database: the one that does, and one for migrations.
const writers = 2

// openSQLite opens the embedded database. There is one writing connection, because SQLite has one writer, and a few
// reading ones that never wait for it (WAL). synchronous(FULL) puts every commit on disk before it returns.
//
// The driver is modernc.org/sqlite, because it keeps a compiled statement compiled.
func openSQLite(path string) (backend, error) {
	if path == "" {
		return backend{}, errors.New(`the address names no file; write "sqlite:/path/keyward.db"`)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return backend{}, err
	}
	// The file holds wrapped keys and password hashes: nobody else reads it. SQLite gives its side files the same mode.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return backend{}, fmt.Errorf("%w; create the folder or choose another one", err)
	}
	if err := f.Close(); err != nil {
		return backend{}, err
	}
	common := "file:" + (&url.URL{Path: path}).EscapedPath() +
		"?_pragma=busy_timeout(5000)&_pragma=foreign_keys(1)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=journal_size_limit(16777216)&_time_format=sqlite"
	writes, err := sqlite.NewConnector(common + "&_txlock=immediate")
	if err != nil {
		return backend{}, err
	}
	reads, err := sqlite.NewConnector(common + "&_pragma=query_only(1)&_txlock=deferred")
	if err != nil {
		return backend{}, err
	}
	writer, reader := sql.OpenDB(writes), sql.OpenDB(reads)
	writer.SetMaxOpenConns(writers)
	writer.SetMaxIdleConns(writers)
	reader.SetMaxOpenConns(readers + 2) // one for a dump, one for Ping: the readers keep theirs
	reader.SetMaxIdleConns(readers)
	return backend{
		name: "sqlite", writerDB: writer, readerDB: reader,
		dialector:  func(db *sql.DB) gorm.Dialector { return sqliteDialect{db} },
		classify:   classifySQLite,
		beginWrite: "BEGIN IMMEDIATE", beginRead: "BEGIN DEFERRED", compiled: true, savepoints: true,
	}, nil
}

func classifySQLite(err error) faultKind {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return faultOther
	}
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY:
		return faultDuplicate
	case sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
		return faultReferenced
	case sqlite3.SQLITE_IOERR_SHMSIZE: // the WAL index could not grow
		return faultFull
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return faultFull
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return faultRetry
	}
	return faultOther
}
