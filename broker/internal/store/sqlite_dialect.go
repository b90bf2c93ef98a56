package store

import (
	"strconv"
	"strings"

	"gorm.io/gorm"
	"gorm.io/gorm/callbacks"
	"gorm.io/gorm/clause"
	"gorm.io/gorm/logger"
	"gorm.io/gorm/schema"
)

// sqliteDialect is GORM's view of SQLite. It is our own, because the driver that keeps compiled statements cannot be
// linked beside the one that the published dialects bring along: both register the same name. It makes no tables: the
// migrations do.
type sqliteDialect struct{ pool gorm.ConnPool }

// Name implements gorm.Dialector.
func (sqliteDialect) Name() string { return "sqlite" }

// Initialize implements gorm.Dialector.
func (d sqliteDialect) Initialize(db *gorm.DB) error {
	db.ConnPool = d.pool
	callbacks.RegisterDefaultCallbacks(db, &callbacks.Config{LastInsertIDReversed: true})
	db.ClauseBuilders["LIMIT"] = limitOrOffset
	return nil
}

// limitOrOffset writes the limit that SQLite wants before every offset.
func limitOrOffset(c clause.Clause, builder clause.Builder) {
	l, ok := c.Expression.(clause.Limit)
	if !ok {
		return
	}
	limit := -1
	if l.Limit != nil {
		limit = *l.Limit
	}
	builder.WriteString("LIMIT " + strconv.Itoa(limit))
	if l.Offset > 0 {
		builder.WriteString(" OFFSET " + strconv.Itoa(l.Offset))
	}
}

// Migrator implements gorm.Dialector.
func (sqliteDialect) Migrator(*gorm.DB) gorm.Migrator {
	panic("store: the schema is made by migrations")
}

// DataTypeOf implements gorm.Dialector.
func (sqliteDialect) DataTypeOf(f *schema.Field) string { return string(f.DataType) }

// DefaultValueOf implements gorm.Dialector.
func (sqliteDialect) DefaultValueOf(*schema.Field) clause.Expression {
	return clause.Expr{SQL: "NULL"}
}

// BindVarTo implements gorm.Dialector.
func (sqliteDialect) BindVarTo(w clause.Writer, _ *gorm.Statement, _ interface{}) { w.WriteByte('?') }

// QuoteTo implements gorm.Dialector: each part of a dotted name in quotes.
func (sqliteDialect) QuoteTo(w clause.Writer, name string) {
	for i, part := range strings.Split(name, ".") {
		if i > 0 {
			w.WriteByte('.')
		}
		w.WriteByte('`')
		w.WriteString(strings.ReplaceAll(part, "`", "``"))
		w.WriteByte('`')
	}
}

// Explain implements gorm.Dialector.
func (sqliteDialect) Explain(sql string, vars ...interface{}) string {
	return logger.ExplainSQL(sql, nil, `"`, vars...)
}
