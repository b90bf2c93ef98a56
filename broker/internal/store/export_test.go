package store

import (
	"context"
	"strings"

	"gorm.io/gorm"
)

// ExecForTest runs a statement past the gateway, as somebody with access to the database could.
func ExecForTest(s *Store, sql string, args ...any) error {
	_, err := s.backend.writerDB.Exec(sql, args...)
	return err
}

// CommitsForTest counts the commits of writing transactions.
func CommitsForTest(s *Store) int64 { return s.commits.Load() }

// BatchesForTest counts the round trips that several statements made together.
func BatchesForTest(s *Store) int64 { return s.batches.Load() }

// WaitingForTest counts the transactions that wait to write.
func WaitingForTest(s *Store) int {
	s.turn.mu.Lock()
	defer s.turn.mu.Unlock()
	return len(s.turn.queue)
}

// RawForTest is GORM under the gateway.
func RawForTest(s *Store) *gorm.DB { return s.gorm }

// ModelsForTest are all models.
func ModelsForTest() []any { return models() }

// MigrateForTest brings a new database to an older version of the schema, runs statements, and closes it.
func MigrateForTest(ctx context.Context, dsn string, version int64, statements ...string) error {
	open := openPostgres
	if path, ok := strings.CutPrefix(dsn, "sqlite:"); ok {
		open, dsn = openSQLite, path
	}
	b, err := open(dsn)
	if err != nil {
		return err
	}
	defer b.writerDB.Close()
	defer b.readerDB.Close()
	p, err := b.migrations()
	if err != nil {
		return err
	}
	if _, err := p.UpTo(ctx, version); err != nil {
		return err
	}
	for _, s := range statements {
		if _, err := b.writerDB.Exec(s); err != nil {
			return err
		}
	}
	return nil
}

// KeptForTest counts the statements whose texts are kept.
func KeptForTest(s *Store) int {
	s.statements.mu.RLock()
	defer s.statements.mu.RUnlock()
	return len(s.statements.kept)
}

// FindForTest has GORM read rows, past the kept statements.
func FindForTest[T any](t Table[T], filters ...Filter) ([]T, error) {
	rows, err := t.find(filters)
	for i := range rows {
		utc(&rows[i])
	}
	return rows, err
}

// IsPostgresForTest says which database it is.
func IsPostgresForTest(s *Store) bool { return s.backend.name == "postgres" }

// UsualForTest counts the reads that are made with the first of a group.
func UsualForTest(s *Store) int { return len(s.usual.reads) }
