package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"sync"
)

// catalog is what PostgreSQL says of the tables.
type catalog struct {
	// types are the types of columns, by table and column.
	types map[string]map[string]string
	// depth is how far a table stands from those that reference nothing: rows are stored by rising depth.
	depth map[string]int

	mu    sync.RWMutex
	texts map[*statement]string
	// checks are the texts of statements that fail unless they store as many rows as they are told, by their own text.
	checks map[string]string
}

func readCatalog(ctx context.Context, db *sql.DB) (*catalog, error) {
	c := &catalog{types: map[string]map[string]string{}, depth: map[string]int{}, texts: map[*statement]string{}, checks: map[string]string{}}
	err := each(ctx, db, `SELECT r.relname, a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a JOIN pg_class r ON r.oid = a.attrelid
		WHERE r.relnamespace = current_schema()::regnamespace AND r.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped`, func(rows *sql.Rows) error {
		var table, column, kind string
		if err := rows.Scan(&table, &column, &kind); err != nil {
			return err
		}
		if c.types[table] == nil {
			c.types[table] = map[string]string{}
		}
		c.types[table][column] = kind
		return nil
	})
	if err != nil {
		return nil, err
	}
	references := map[string][]string{}
	err = each(ctx, db, `SELECT r.relname, p.relname FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid JOIN pg_class p ON p.oid = k.confrelid
		WHERE k.contype = 'f' AND k.conrelid <> k.confrelid AND r.relnamespace = current_schema()::regnamespace`, func(rows *sql.Rows) error {
		var table, parent string
		if err := rows.Scan(&table, &parent); err != nil {
			return err
		}
		references[table] = append(references[table], parent)
		return nil
	})
	if err != nil {
		return nil, err
	}
	// No chain of references is longer than there are tables.
	for range c.types {
		for table, parents := range references {
			for _, parent := range parents {
				c.depth[table] = max(c.depth[table], min(c.depth[parent]+1, len(c.types)))
			}
		}
	}
	return c, nil
}

func each(ctx context.Context, db *sql.DB, query string, row func(*sql.Rows) error) error {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// divisionByZero is how a statement of checked fails (PostgreSQL manual, appendix A). No other statement divides.
const divisionByZero = "22012"

// checked is a statement that stores rows and takes so many values, made to fail unless it stores as many rows as one more
// value says. What comes behind it in a batch, the commit, does not happen then.
func (c *catalog) checked(text string, values int) string {
	c.mu.RLock()
	check := c.checks[text]
	c.mu.RUnlock()
	if check != "" {
		return check
	}
	check = fmt.Sprintf("WITH stored AS (%s RETURNING 1) SELECT 1 / (COUNT(*) = $%d)::int FROM stored", text, values+1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checks[text] = check
	return check
}

// keyColumns are what an UPDATE of the gateway finds its row by, behind the columns that it sets.
var keyColumns = []string{"id", "version", "account_id"}

// joint is the statement that stores several rows at once whose values come as one array for each column, in the order of s;
// empty where there is none.
func (c *catalog) joint(s *statement, insert bool, values int) string {
	c.mu.RLock()
	text, ok := c.texts[s]
	c.mu.RUnlock()
	if ok {
		return text
	}
	text = c.write(s, insert, values)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.texts[s] = text
	return text
}

func (c *catalog) write(s *statement, insert bool, values int) string {
	table := s.table()
	var columns, arrays []string
	for _, f := range s.fields {
		columns = append(columns, f.DBName)
	}
	fields := len(columns)
	if !insert {
		columns = append(columns, keyColumns...)
	}
	if len(columns) != values {
		return ""
	}
	quoted := make([]string, len(columns))
	for i, name := range columns {
		kind := c.types[table][name]
		if kind == "" || strings.HasSuffix(kind, "[]") { // unnest would take lists apart
			return ""
		}
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, kind))
		quoted[i] = `"` + name + `"`
	}
	given := "unnest(" + strings.Join(arrays, ", ") + ")"
	if insert {
		return fmt.Sprintf(`INSERT INTO "%s" (%s) SELECT * FROM %s ON CONFLICT DO NOTHING`, table, strings.Join(quoted, ", "), given)
	}
	var set, names []string
	for i := range columns {
		names = append(names, fmt.Sprintf("v%d", i))
	}
	for i := range fields {
		set = append(set, quoted[i]+" = given."+names[i])
	}
	var keys []string
	for i := fields; i < len(columns); i++ {
		keys = append(keys, fmt.Sprintf(`"%s".%s = given.%s`, table, quoted[i], names[i]))
	}
	return fmt.Sprintf(`UPDATE "%s" SET %s FROM %s AS given(%s) WHERE %s`, table, strings.Join(set, ", "), given, strings.Join(names, ", "), strings.Join(keys, " AND "))
}

// table is the table that a statement with fields writes to.
func (s *statement) table() string { return s.fields[0].Schema.Table }
