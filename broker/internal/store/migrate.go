package store

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/sqlite/*.sql migrations/postgres/*.sql
var migrations embed.FS

// migrations are the steps of the database's kind. Of several brokers that start at once on PostgreSQL one migrates.
func (b backend) migrations() (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations/"+b.name)
	if err != nil {
		return nil, err
	}
	dialect := goose.DialectSQLite3
	options := []goose.ProviderOption{goose.WithTableName("schema_version")}
	if b.name == "postgres" {
		dialect = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	return goose.NewProvider(dialect, b.writerDB, files, options...)
}

// migrate brings the schema up to date.
func (b backend) migrate(ctx context.Context) error {
	p, err := b.migrations()
	if err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if current > target {
		return fmt.Errorf("the database has schema version %d and this program knows %d: it was written by a newer keyward-broker; start that one", current, target)
	}
	_, err = p.Up(ctx)
	return err
}
