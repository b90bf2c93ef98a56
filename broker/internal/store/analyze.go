package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Analyze has PostgreSQL look anew at tables that have grown much since it last did. Its autovacuum does that once a
// minute; in the minute before, the statements of a storm on a young database are planned for empty tables, and read whole
// accounts where they want one row. SQLite needs none of it (statistics.go). It is called every few seconds.
func (s *Store) Analyze(ctx context.Context) error {
	if s.backend.name != "postgres" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, txTimeout)
	defer cancel()
	rows, err := s.backend.readerDB.QueryContext(ctx, `SELECT relname FROM pg_stat_user_tables WHERE schemaname = current_schema()
		AND n_mod_since_analyze >= 100 AND n_mod_since_analyze >= n_live_tup / 2`)
	if err != nil {
		return fmt.Errorf("asking which tables have grown: %w", err)
	}
	var grown []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			rows.Close()
			return fmt.Errorf("asking which tables have grown: %w", err)
		}
		grown = append(grown, name)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("asking which tables have grown: %w", err)
	}
	for _, name := range grown {
		// Another broker, or autovacuum, that does it at this moment does it for all.
		if _, err := s.backend.writerDB.ExecContext(ctx, "ANALYZE (SKIP_LOCKED) "+pgx.Identifier{name}.Sanitize()); err != nil {
			return fmt.Errorf("having the database look at table %s: %w", name, err)
		}
	}
	return nil
}
