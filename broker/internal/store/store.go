// Package store is the only door to the broker's database. It owns GORM, the migrations and both drivers; services see
// rows (model.go), transactions and a typed table gateway that always works inside one tenant.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"gorm.io/gorm"
)

// txTimeout bounds every transaction: Fiber does not cancel a request's context when the client goes away.
const txTimeout = 10 * time.Second

// Options says which database to open.
type Options struct {
	// DSN is "sqlite:/path/keyward.db" or a "postgres://" URL.
	DSN string
	// Clock gives the time of rows; nil means time.Now.
	Clock func() time.Time
	// Logger gets slow and failed statements, never their values; nil means slog.Default.
	Logger *slog.Logger
}

// Store is an open, migrated database. It is safe for concurrent use.
type Store struct {
	backend backend
	writer  *gorm.DB
	reader  *gorm.DB
	clock   func() time.Time
	// contended makes transactions that already lost a race run one at a time, so that each gets through.
	contended sync.Mutex
}

// backend is what differs between the databases.
type backend struct {
	name       string
	writerDB   *sql.DB
	readerDB   *sql.DB
	dialector  func(*sql.DB) gorm.Dialector
	classify   func(error) faultKind
	writeLevel sql.IsolationLevel
	readLevel  sql.IsolationLevel
}

// Open connects to the database and brings its schema up to date. It refuses a schema newer than this program.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	var b backend
	var err error
	switch {
	case strings.HasPrefix(o.DSN, "sqlite:"):
		b, err = openSQLite(strings.TrimPrefix(o.DSN, "sqlite:"))
	case strings.HasPrefix(o.DSN, "postgres://"), strings.HasPrefix(o.DSN, "postgresql://"):
		b, err = openPostgres(o.DSN)
	default:
		return nil, errors.New(`opening the database: unknown kind of address; use "sqlite:/path/keyward.db" or "postgres://user@host/name"`)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	s := &Store{backend: b, clock: o.Clock}
	if err := s.start(ctx, o.Logger); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) start(ctx context.Context, logger *slog.Logger) error {
	if err := s.backend.migrate(ctx); err != nil {
		return s.explain(fmt.Errorf("migrating the database: %w", err))
	}
	var err error
	if s.writer, err = s.gorm(s.backend.writerDB, logger); err != nil {
		return fmt.Errorf("preparing the database: %w", err)
	}
	if s.reader, err = s.gorm(s.backend.readerDB, logger); err != nil {
		return fmt.Errorf("preparing the database for reading: %w", err)
	}
	return nil
}

func (s *Store) gorm(db *sql.DB, logger *slog.Logger) (*gorm.DB, error) {
	g, err := gorm.Open(s.backend.dialector(db), &gorm.Config{
		SkipDefaultTransaction: true,
		DisableAutomaticPing:   true,
		QueryFields:            true,
		NowFunc:                s.now,
		Logger:                 &statementLogger{to: logger},
	})
	if err != nil {
		return nil, err
	}
	return g, guard(g)
}

// now is the clock in the precision that both databases keep.
func (s *Store) now() time.Time { return s.clock().UTC().Truncate(time.Microsecond) }

// Close ends all connections.
func (s *Store) Close() error {
	err := s.backend.writerDB.Close()
	if s.backend.readerDB != s.backend.writerDB {
		err = errors.Join(s.backend.readerDB.Close(), err)
	}
	return err
}

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, txTimeout)
	defer cancel()
	if err := s.backend.readerDB.PingContext(ctx); err != nil {
		return fmt.Errorf("asking the database for a sign of life: %w", err)
	}
	return nil
}

// Tx runs f in a read-write transaction that sees no change of others while it runs (serializable). When another
// transaction won a race, f runs again from the start: it must not act outside the transaction except by AfterCommit.
// When f returns an error nothing is kept. Transactions do not nest.
func (s *Store) Tx(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, txTimeout)
	defer cancel()
	for attempt := 0; ; attempt++ {
		err, again := s.attempt(ctx, attempt > 0, f)
		if !again {
			return err
		}
		pause := time.Duration(1+rand.Int64N(1<<min(attempt+1, 6))) * time.Millisecond
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", ErrBusy, err)
		case <-time.After(pause):
		}
	}
}

func (s *Store) attempt(ctx context.Context, repeated bool, f func(*Tx) error) (err error, again bool) {
	if repeated {
		s.contended.Lock()
		defer s.contended.Unlock()
	}
	tx := &Tx{store: s}
	err = tx.run(ctx, s.writer, &sql.TxOptions{Isolation: s.backend.writeLevel}, f)
	if err != nil {
		return err, ctx.Err() == nil && s.backend.classify(errors.Join(tx.fault, err)) == faultRetry
	}
	for _, hook := range tx.hooks {
		hook()
	}
	return nil, false
}

// View runs f in a read-only transaction on one consistent state of the database.
func (s *Store) View(ctx context.Context, f func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, txTimeout)
	defer cancel()
	tx := &Tx{store: s}
	return tx.run(ctx, s.reader, &sql.TxOptions{Isolation: s.backend.readLevel, ReadOnly: true}, f)
}

// explain turns a driver's error into one of ours where callers tell them apart.
func (s *Store) explain(err error) error {
	switch s.backend.classify(err) {
	case faultDuplicate:
		return fmt.Errorf("%w (%w)", ErrDuplicate, err)
	case faultReferenced:
		return fmt.Errorf("%w (%w)", ErrReferenced, err)
	case faultFull:
		return fmt.Errorf("%w (%w)", ErrFull, err)
	}
	return err
}
