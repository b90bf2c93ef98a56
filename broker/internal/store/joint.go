package store

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
)

// On PostgreSQL a group works for its parts together. What they put off is stored at the group's end, the rows of a table by
// one statement; and who has the turn reads for those that wait behind, the same query of all of them by one statement. What
// was read for a part counts only if nothing was written since that it could have found: every text of every row that is
// written is compared with what the part's rows are found by.

const (
	// jointReads is for how many parts is read at once. They have to come to their turn before the group is too old.
	jointReads = 32
	// longestID is how long a text can be, in bytes, that rows are found by.
	longestID = 256
)

// readAhead gives the transaction what its part is going to read.
func (g *group) readAhead(tx *Tx, a *ahead, alone bool) error {
	if g.holds(a) {
		a.give(tx)
		return nil
	}
	joint := a.prepare(g.size == 1)
	all := []*ahead{a}
	if joint && !alone {
		for _, other := range g.store.turn.next(min(jointReads, groupSize-g.size)) {
			if !g.holds(other) && other.prepare(false) {
				all = append(all, other)
			}
		}
	}
	if !joint || g.touches(a) {
		if err := g.settle(tx); err != nil {
			return err
		}
	}
	var usual *usualReads
	if g.size == 1 && len(g.pending) == 0 {
		usual = g.store.usual.prepare(tx, a)
	}
	if err := g.store.answer(tx, all, usual); err != nil {
		return tx.failed("reading ahead", err)
	}
	usual.give(tx)
	for _, other := range all[1:] {
		if !g.touches(other) {
			other.group, other.epoch = g, g.epoch
		}
	}
	if len(g.pending) > 0 && g.touches(a) { // by a row that it found
		if err := g.settle(tx); err != nil {
			return err
		}
		a.prepare(g.size == 1)
		if err := g.store.answer(tx, all[:1], nil); err != nil {
			return tx.failed("reading ahead", err)
		}
	}
	a.give(tx)
	return nil
}

// holds says whether what was read for a counts still.
func (g *group) holds(a *ahead) bool { return a.group == g && a.epoch == g.epoch && !g.touches(a) }

// touches says whether something was written that could have changed what was read for a.
func (g *group) touches(a *ahead) bool { return slices.ContainsFunc(a.all, g.written.touches) }

// writing is what rows hold that were put off.
type writing struct {
	texts map[string]bool
	// tables are those of the rows, and changed those of rows that were there before.
	tables, changed map[string]bool
}

func (w *writing) note(all []put) {
	if w.texts == nil && len(all) > 0 {
		w.texts, w.tables, w.changed = map[string]bool{}, map[string]bool{}, map[string]bool{}
	}
	for _, p := range all {
		w.tables[p.table] = true
		if !p.insert {
			w.changed[p.table] = true
		}
		for _, v := range p.values {
			if s, ok := v.(string); ok && len(s) <= longestID {
				w.texts[s] = true
			}
		}
	}
}

// touches says whether one of the rows could be among those that f found, or would find now.
func (w *writing) touches(f *foreseen) bool {
	if !w.tables[f.table] {
		return false
	}
	has := func(s string) bool { return w.texts[s] }
	return w.changed[f.counted] || slices.ContainsFunc(f.ids, has) || !slices.ContainsFunc(f.equal, func(s string) bool { return !has(s) })
}

// adopt takes what a part has put off, to store it with what others put off.
func (g *group) adopt(tx *Tx) {
	g.written.note(tx.later)
	g.pending = append(g.pending, tx.later...)
	tx.later, tx.own = nil, writing{}
}

// settle stores what the parts so far have put off.
func (g *group) settle(tx *Tx) error {
	if len(g.pending) == 0 {
		return nil
	}
	all := g.pending
	g.pending = nil
	return tx.store.put(tx, all, g.size > 1, false)
}

// end stores what is pending and commits: on PostgreSQL both in one round trip.
func (g *group) end() error {
	s := g.store
	if len(g.pending) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), txTimeout)
		defer cancel()
		tx := &Tx{store: s, line: &s.writer, ctx: ctx}
		if !s.backend.batches {
			if err := g.settle(tx); err != nil {
				return err
			}
		} else {
			if err := s.aborted(); err != nil {
				return err
			}
			all := g.pending
			g.pending = nil
			return s.put(tx, all, g.size > 1, true)
		}
	}
	if err := s.commit(); err != nil {
		return s.explain(fmt.Errorf("committing a transaction: %w", err))
	}
	return nil
}

// jointQuery is one statement of a batch and what is done with its answer.
type jointQuery struct {
	text   string
	values []any
	answer func(pgx.BatchResults) error
}

// send runs a batch on the transaction's connection, and begins the transaction with it where that was put off.
func (tx *Tx) send(all []jointQuery) error {
	l := tx.line
	if l.conn == nil {
		return errNoLine
	}
	tx.store.batches.Add(1)
	if l.opening == "" {
		return l.batch(tx.ctx, all)
	}
	begun := false
	all = append([]jointQuery{{text: l.opening, answer: func(r pgx.BatchResults) error {
		_, err := r.Exec()
		begun = err == nil
		return err
	}}}, all...)
	l.opening = ""
	err := l.batch(tx.ctx, all)
	if err == nil || begun || tx.ctx.Err() != nil {
		return err
	}
	// The connection broke while nobody used it: another one is asked, once.
	l.drop()
	if err := l.try(tx.ctx, ""); err != nil {
		return err
	}
	return l.batch(tx.ctx, all)
}

func (l *line) batch(ctx context.Context, all []jointQuery) error {
	return l.conn.Raw(func(c any) (err error) {
		var b pgx.Batch
		for _, q := range all {
			b.Queue(q.text, q.values...)
		}
		results := c.(*stdlib.Conn).Conn().SendBatch(ctx, &b)
		defer func() { err = errors.Join(err, results.Close()) }()
		for _, q := range all {
			if err := q.answer(results); err != nil {
				return err
			}
		}
		return nil
	})
}

// answer makes the reads of several transactions, each query of all of them by one statement.
func (s *Store) answer(tx *Tx, all []*ahead, usual *usualReads) error {
	var order []string
	same := map[string][]*foreseen{}
	add := func(f *foreseen) {
		if same[f.text] == nil {
			order = append(order, f.text)
		}
		same[f.text] = append(same[f.text], f)
	}
	for _, a := range all {
		for _, f := range a.all {
			add(f)
		}
	}
	for _, f := range usual.queries() {
		add(f)
	}
	var batch []jointQuery
	for _, text := range order {
		batch = append(batch, s.queries(same[text])...)
	}
	if len(batch) == 0 {
		return nil
	}
	began := time.Now()
	err := tx.send(batch)
	s.slow(tx.ctx, "reading ahead", int64(len(all)), time.Since(began))
	s.reads.note(0)
	return err
}

// queries are the statements for queries of one text.
func (s *Store) queries(same []*foreseen) []jointQuery {
	var out []jointQuery
	text, values, ok := s.joined.of(same)
	if !ok {
		for _, f := range same {
			out = append(out, jointQuery{f.text, f.values, func(r pgx.BatchResults) error { return f.read(r, []*foreseen{f}, false) }})
		}
		return out
	}
	return append(out, jointQuery{text, values, func(r pgx.BatchResults) error { return same[0].read(r, same, true) }})
}

// read takes the rows of a statement; those of a joint one end in the number of the one that they belong to.
func (f *foreseen) read(r pgx.BatchResults, all []*foreseen, numbered bool) error {
	rows, err := r.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	var names []string
	for _, d := range rows.FieldDescriptions() {
		names = append(names, d.Name)
	}
	number := int64(1)
	var more []any
	if numbered {
		names, more = names[:len(names)-1], []any{&number}
	}
	if err := f.columns(names); err != nil {
		return err
	}
	for rows.Next() {
		row, err := f.scan(rows, more...)
		if err != nil {
			return err
		}
		if number < 1 || number > int64(len(all)) {
			return fmt.Errorf("a row of query %d of %d", number, len(all))
		}
		all[number-1].take(row)
	}
	return rows.Err()
}

// joined are the texts of queries that several transactions make at once, by the query's own text and by which of its values
// differ.
type joined struct {
	mu    sync.RWMutex
	texts map[string]string
}

// maxJoined bounds the kept texts.
const maxJoined = 1024

var parameter = regexp.MustCompile(`\$(\d+)`)

// of returns one statement for queries of one text; false where there is none.
func (j *joined) of(same []*foreseen) (string, []any, bool) {
	if len(same) < 2 {
		return "", nil, false
	}
	count := len(same[0].values)
	var kinds []string // of each value: empty where it is the same for all
	var values []any
	differ := false
	for i := range count {
		kind, one := "", true
		for _, f := range same[1:] {
			one = one && equalValues(f.values[i], same[0].values[i])
		}
		if one {
			values = append(values, same[0].values[i])
		} else {
			column := make(pgtype.FlatArray[any], len(same))
			for k, f := range same {
				of := arrayOf(f.values[i])
				if of == "" || kind != "" && of != kind {
					return "", nil, false
				}
				kind, column[k] = of, f.values[i]
			}
			values, differ = append(values, column), true
		}
		kinds = append(kinds, kind)
	}
	if !differ {
		return "", nil, false
	}
	key := strings.Join(kinds, ",") + " " + same[0].text
	j.mu.RLock()
	text := j.texts[key]
	j.mu.RUnlock()
	if text == "" {
		text = jointText(same[0].text, kinds)
		j.mu.Lock()
		if j.texts == nil || len(j.texts) >= maxJoined {
			j.texts = map[string]string{}
		}
		j.texts[key] = text
		j.mu.Unlock()
	}
	return text, values, true
}

// jointText asks a query for each row of values.
func jointText(text string, kinds []string) string {
	var arrays, names []string
	for i, kind := range kinds {
		if kind != "" {
			arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, kind))
			names = append(names, fmt.Sprintf("p%d", i+1))
		}
	}
	inner := parameter.ReplaceAllStringFunc(text, func(p string) string {
		if n, err := strconv.Atoi(p[1:]); err == nil && n <= len(kinds) && kinds[n-1] != "" {
			return "given.p" + p[1:]
		}
		return p
	})
	// The subquery cannot be merged into the outer one: it orders, counts, limits or locks.
	return fmt.Sprintf("SELECT found.*, given.number FROM unnest(%s) WITH ORDINALITY AS given(%s, number), LATERAL (%s) AS found",
		strings.Join(arrays, ", "), strings.Join(names, ", "), inner)
}

func arrayOf(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case int64:
		return "bigint"
	}
	return ""
}

func equalValues(a, b any) bool {
	switch x := a.(type) {
	case string:
		y, ok := b.(string)
		return ok && x == y
	case int64:
		y, ok := b.(int64)
		return ok && x == y
	case int:
		y, ok := b.(int)
		return ok && x == y
	}
	return false
}

// putAll stores rows: together, in an order that references allow, or one after another. With last it also commits.
func (s *Store) putAll(tx *Tx, all []put, together, last bool) error {
	var batch []jointQuery
	add := func(text string, values []any, p put, rows int) {
		batch = append(batch, jointQuery{s.catalog.checked(text, len(values)), append(values, rows), stores(p)})
	}
	var order []*statement
	same := map[*statement][]put{}
	if together = together && !twice(all); !together {
		for _, p := range all {
			add(p.statement.text, p.values, p, 1)
		}
	} else {
		for _, p := range all {
			if same[p.statement] == nil {
				order = append(order, p.statement)
			}
			same[p.statement] = append(same[p.statement], p)
		}
	}
	slices.SortStableFunc(order, func(a, b *statement) int {
		return s.catalog.depth[same[a][0].statement.table()] - s.catalog.depth[same[b][0].statement.table()]
	})
	for _, st := range order {
		rows := same[st]
		text := ""
		if len(rows) > 1 {
			text = s.catalog.joint(st, rows[0].insert, len(rows[0].values))
		}
		if text == "" {
			for _, p := range rows {
				add(p.statement.text, p.values, p, 1)
			}
			continue
		}
		columns := make([]any, len(rows[0].values), len(rows[0].values)+1)
		for i := range columns {
			column := make(pgtype.FlatArray[any], len(rows))
			for k, p := range rows {
				if b, ok := p.values[i].([]byte); !ok || b != nil {
					column[k] = p.values[i]
				}
			}
			columns[i] = column
		}
		add(text, columns, rows[0], len(rows))
	}
	if last {
		batch = append(batch, jointQuery{"COMMIT", nil, committed})
	}
	return tx.send(batch)
}

// stores is the answer to a statement that stores rows of the kind of p.
func stores(p put) func(pgx.BatchResults) error {
	return func(r pgx.BatchResults) error {
		_, err := r.Exec()
		if e := (*pgconn.PgError)(nil); errors.As(err, &e) && e.Code == divisionByZero {
			return fmt.Errorf("%w (%w)", p.lost, errLost)
		}
		if err != nil {
			return fmt.Errorf("table %s: %w", p.table, err)
		}
		return nil
	}
}

// committed is the answer to COMMIT. PostgreSQL answers that of a transaction that it has aborted by rolling it back.
func committed(r pgx.BatchResults) error {
	tag, err := r.Exec()
	if err != nil {
		return fmt.Errorf("committing a transaction: %w", err)
	}
	if tag.String() != "COMMIT" {
		return errAborted
	}
	return nil
}

// twice says that a row is written more than once, which has to happen in order.
func twice(all []put) bool {
	met := make(map[string]bool, len(all))
	for _, p := range all {
		if p.id == "" {
			continue
		}
		at := p.table + " " + p.id
		if met[at] {
			return true
		}
		met[at] = true
	}
	return false
}
