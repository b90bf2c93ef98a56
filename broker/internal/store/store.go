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
	"sync/atomic"
	"time"

	"gorm.io/gorm"
)

// txTimeout bounds how long a transaction waits for its turn, and its statements but for those that write to SQLite
// (limited): Fiber does not cancel a request's context when the client goes away.
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
	gorm    *gorm.DB
	clock   func() time.Time
	logger  *slog.Logger
	// statements are the texts that GORM has written.
	statements statements
	// commits counts transactions of the database that were committed for writing.
	commits atomic.Int64
	// batches counts the round trips that several statements made together.
	batches atomic.Int64
	// reads counts what was read.
	reads reads
	// catalog says how rows are stored together, and joined how they are read together (joint.go).
	catalog *catalog
	joined  joined
	// usual is what groups read in common (usual.go).
	usual usual
	// turn lets one transaction write at a time; those that wait share its commit (group.go).
	turn   turnstile
	writer line
	// reading holds the lines of transactions that only read.
	reading chan *line
}

// backend is what differs between the databases.
type backend struct {
	name      string
	writerDB  *sql.DB
	readerDB  *sql.DB
	dialector func(*sql.DB) gorm.Dialector
	classify  func(error) faultKind
	// beginWrite and beginRead start a transaction.
	beginWrite, beginRead string
	// compiled says that the driver leaves it to us to keep compiled statements.
	compiled bool
	// aborted says whether a connection's transaction can only be rolled back; nil where a commit fails then.
	aborted func(driverConn any) bool
	// batches says that statements can be sent together, which saves round trips.
	batches bool
	// catalog reads what the database says of its tables, once they are as they should be; nil where nobody asks.
	catalog func(context.Context) (*catalog, error)
	// savepoints says that a savepoint costs nothing worth saving: no round trip.
	savepoints bool
}

// limited is the time that the statements of a transaction for writing have. SQLite's are short and wait for nobody, and to watch
// one that could be cut off costs its driver a goroutine each time.
func (b backend) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if !b.batches {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, txTimeout)
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
	s := &Store{backend: b, clock: o.Clock, logger: o.Logger, reading: make(chan *line, readers)}
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
	if s.backend.name == "sqlite" {
		if err := s.backend.assumeStatistics(ctx); err != nil {
			return s.explain(fmt.Errorf("telling the database how to choose its indexes: %w", err))
		}
	}
	if s.backend.catalog != nil {
		var err error
		if s.catalog, err = s.backend.catalog(ctx); err != nil {
			return s.explain(fmt.Errorf("reading what the database says of its tables: %w", err))
		}
	}
	g, err := gorm.Open(s.backend.dialector(s.backend.writerDB), &gorm.Config{
		SkipDefaultTransaction: true,
		DisableAutomaticPing:   true,
		QueryFields:            true,
		NowFunc:                s.now,
		Logger:                 &statementLogger{to: logger},
	})
	if err == nil {
		err = guard(g)
	}
	if err != nil {
		return fmt.Errorf("preparing the database: %w", err)
	}
	s.gorm = g
	s.writer = line{db: s.backend.writerDB, compile: s.backend.compiled}
	for range readers {
		s.reading <- &line{db: s.backend.readerDB, compile: s.backend.compiled}
	}
	return nil
}

// on is GORM on one line.
func (s *Store) on(ctx context.Context, l *line) *gorm.DB {
	g := s.gorm.Session(&gorm.Session{NewDB: true, Context: ctx})
	g.Statement.ConnPool = l
	return g
}

// Now is the time that rows written now are stamped with: UTC, in microseconds.
func (s *Store) Now() time.Time { return s.now() }

// now is the clock in the precision that both databases keep.
func (s *Store) now() time.Time { return s.clock().UTC().Truncate(time.Microsecond) }

// Close ends all connections. Transactions that still run fail.
func (s *Store) Close() error {
	// Whoever writes is waited for; nobody writes afterwards.
	s.turn.close()
	s.writer.close()
	for range len(s.reading) {
		(<-s.reading).close()
	}
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

// Tx runs f in a read-write transaction that sees no change of others while it runs (serializable), and returns when it
// is durable. Transactions that wait at the same time share one commit. When another one won a race, or those that shared
// its commit failed, f runs again from the start: it must not act outside the transaction except by AfterCommit. When f
// returns an error nothing is kept. Transactions do not nest.
func (s *Store) Tx(ctx context.Context, f func(*Tx) error) error { return s.repeat(ctx, nil, f) }

func (s *Store) repeat(ctx context.Context, a *ahead, f func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, txTimeout)
	defer cancel()
	for attempt := 0; ; attempt++ {
		err, again := s.attempt(ctx, attempt > 0, a, f)
		if !again || attempt >= lostAgain && errors.Is(err, errLost) {
			return err
		}
		pause := time.Duration(rand.Int64N(1<<min(attempt+1, 6))) * time.Millisecond
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", ErrBusy, err)
		case <-time.After(pause):
		}
	}
}

// Peek is View for a single statement, without the cost of a transaction around it.
func (s *Store) Peek(ctx context.Context, f func(*Tx) error) error { return s.read(ctx, "", f) }

// View runs f in a read-only transaction on one consistent state of the database.
func (s *Store) View(ctx context.Context, f func(*Tx) error) error {
	return s.read(ctx, s.backend.beginRead, f)
}

func (s *Store) read(ctx context.Context, begin string, f func(*Tx) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, txTimeout)
	defer cancel()
	var l *line
	select {
	case l = <-s.reading:
	case <-ctx.Done():
		return fmt.Errorf("%w (waiting to read: %w)", ErrBusy, ctx.Err())
	}
	defer func() { s.reading <- l }()
	if begin == "" {
		return s.peek(ctx, l, f, l.conn != nil)
	}
	if err := s.begin(ctx, l, begin, false); err != nil {
		return err
	}
	defer func() {
		if end := l.end("ROLLBACK"); err == nil && end != nil {
			err = s.explain(fmt.Errorf("ending a transaction: %w", end))
		}
	}()
	tx := &Tx{store: s, db: s.on(ctx, l), line: l, ctx: ctx, kept: map[any]any{}}
	if err = f(tx); err == nil {
		err = tx.fault
	}
	if err != nil && tx.fault != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", ErrBusy, err)
	}
	return err
}

// peek reads without a transaction. A connection that was idle may have broken; then another one is asked.
func (s *Store) peek(ctx context.Context, l *line, f func(*Tx) error, idle bool) error {
	if err := s.begin(ctx, l, "", false); err != nil {
		return err
	}
	tx := &Tx{store: s, db: s.on(ctx, l), line: l, ctx: ctx, kept: map[any]any{}}
	err := f(tx)
	if tx.fault == nil {
		return err
	}
	l.drop()
	if idle && ctx.Err() == nil {
		return s.peek(ctx, l, f, false)
	}
	return tx.fault
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
