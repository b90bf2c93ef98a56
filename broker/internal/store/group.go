package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// What a group takes at most. A commit waits for the disk, so those that come meanwhile share the next one, but nobody
// waits long for others: what a large group ends with is answered all at once, and until then those that it answers make no
// new work for the other processors (docs/performance.md).
const (
	groupSize = 32
	groupTime = 75 * time.Millisecond
)

// group is one transaction of the database in which several callers' transactions run one after another. Each caller runs
// its own part on its own goroutine while it has the turn (turnstile), then hands the open transaction to the next. The
// last one commits for all, and only then is any of them told how its part ended.
//
// What parts put off is stored when somebody reads what could find it, and before the commit. A part that fails before it has
// written anything leaves nothing behind. One that has written takes that back alone, by a savepoint, where that costs no
// round trip. Elsewhere, and when the commit fails, everything is rolled back and every part runs again in a transaction of its own.
type group struct {
	store *Store
	size  int
	began time.Time
	kept  map[any]any
	// pending is what parts that have ended have put off (joint.go).
	pending []put
	// written is all that parts have put off; epoch counts what was written otherwise.
	written writing
	epoch   int
	// broken is why the group cannot be committed.
	broken error
	done   chan struct{}
	// failed is the outcome, once done is closed.
	failed error
}

// attempt runs f once. again says that it may be run again, in a transaction of its own.
func (s *Store) attempt(ctx context.Context, alone bool, a *ahead, f func(*Tx) error) (err error, again bool) {
	g, err := s.turn.enter(ctx, a)
	if errors.Is(err, errClosed) {
		return err, false
	}
	if err != nil {
		return fmt.Errorf("%w (waiting to write: %w)", ErrBusy, err), false
	}
	g, tx, err := s.part(ctx, g, alone, a, f)
	if g == nil {
		return err, s.again(ctx, err)
	}
	<-g.done
	switch {
	case g.failed != nil && g.size > 1: // another part may be to blame
		return g.failed, true
	case err != nil:
		return err, s.again(ctx, errors.Join(tx.fault, err))
	case g.failed != nil:
		return g.failed, s.again(ctx, g.failed)
	}
	for _, hook := range tx.hooks {
		hook()
	}
	return nil, false
}

func (s *Store) again(ctx context.Context, err error) bool {
	return err != nil && ctx.Err() == nil && (errors.Is(err, errLost) || s.backend.classify(err) == faultRetry)
}

// part runs f in the group that is open, or in a new one, and passes the turn on. However f ends, by a panic too, the
// group comes to its end. It returns the group that f took part in; nil when it took part in none.
func (s *Store) part(ctx context.Context, open *group, alone bool, a *ahead, f func(*Tx) error) (*group, *Tx, error) {
	defer func() {
		if open != nil && open.takes(alone) && s.turn.pass(open) {
			return
		}
		if open != nil {
			open.finish()
		}
		s.turn.leave()
	}()
	if ctx.Err() != nil {
		return nil, nil, fmt.Errorf("%w (waiting to write: %w)", ErrBusy, ctx.Err())
	}
	if open != nil && !open.takes(alone) {
		open.finish()
		open = nil
	}
	if open == nil {
		if err := s.begin(ctx, &s.writer, s.backend.beginWrite, a != nil); err != nil {
			return nil, nil, err
		}
		open = &group{store: s, began: time.Now(), kept: map[any]any{}, done: make(chan struct{})}
	}
	open.size++
	// A time of its own, however long it waited: a statement that is cut off would take the whole group with it.
	own, cancel := s.backend.limited(context.WithoutCancel(ctx))
	defer cancel()
	tx := &Tx{store: s, db: s.on(own, &s.writer), line: &s.writer, ctx: own, kept: open.kept, group: open}
	return open, tx, open.run(tx, func(tx *Tx) error {
		if a != nil {
			if err := open.readAhead(tx, a, alone); err != nil {
				return err
			}
		}
		if err := s.writer.open(own); err != nil {
			return tx.failed("beginning a transaction", err)
		}
		return f(tx)
	})
}

// begin starts a transaction on a line, or with later leaves that to the first batch of statements (Tx.send). It has a time of
// its own: who has waited for long would cut the connection off, and the next one, whose time is as short, would not get a new
// one.
func (s *Store) begin(ctx context.Context, l *line, statement string, later bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), txTimeout)
	defer cancel()
	l.opening = ""
	if later {
		l.opening, statement = statement, ""
	}
	err := l.begin(ctx, statement)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (beginning a transaction: %w)", ErrBusy, err)
	}
	if err != nil {
		return s.explain(fmt.Errorf("beginning a transaction: %w", err))
	}
	return nil
}

// takes says whether another part may join, or one that must be alone may stay open.
func (g *group) takes(alone bool) bool {
	return !alone && g.broken == nil && g.size < groupSize && time.Since(g.began) < groupTime
}

func (g *group) run(tx *Tx, f func(*Tx) error) (err error) {
	ended := false
	defer func() {
		if !ended { // f panicked
			g.undo(tx, errors.New("store: a part of the transaction panicked"))
		}
	}()
	err = f(tx)
	ended = true
	if err == nil {
		err = tx.fault
	}
	if err != nil {
		g.undo(tx, err)
		return err
	}
	g.adopt(tx)
	if tx.saved {
		g.release("RELEASE part")
	}
	return nil
}

// save makes it possible to take back what the part is about to write, and only that. What was put off before it is stored by
// now.
func (g *group) save(tx *Tx) error {
	if tx.saved || !g.store.backend.savepoints {
		return nil
	}
	if _, err := g.store.writer.ExecContext(tx.ctx, "SAVEPOINT part"); err != nil {
		return tx.failed("beginning a part of a transaction", err)
	}
	tx.saved = true
	return nil
}

// undo takes back what a part wrote.
func (g *group) undo(tx *Tx, cause error) {
	if tx.dirty {
		clear(g.kept)
	}
	if !tx.wrote && tx.fault == nil {
		return
	}
	clear(g.kept)
	if !tx.saved {
		g.broken = cause
		return
	}
	g.release("ROLLBACK TO part", "RELEASE part")
}

func (g *group) release(statements ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), txTimeout)
	defer cancel()
	for _, statement := range statements {
		if _, err := g.store.writer.ExecContext(ctx, statement); err != nil && g.broken == nil {
			g.broken = g.store.explain(fmt.Errorf("ending a part of a transaction: %w", err))
		}
	}
}

// finish commits, or rolls back what is broken, and tells all who took part.
func (g *group) finish() {
	if g.broken == nil {
		g.broken = g.end()
	}
	if g.broken != nil {
		_ = g.store.writer.end("ROLLBACK") // when that fails, the connection is closed, which does it too
		g.failed = g.broken
	} else {
		g.store.commits.Add(1)
	}
	close(g.done)
}

// commit ends the writer's transaction.
func (s *Store) commit() error {
	if err := s.aborted(); err != nil {
		return err
	}
	return s.writer.end("COMMIT")
}

// aborted says that the database has aborted the writer's transaction: PostgreSQL answers the commit of such a one by rolling it
// back without an error.
func (s *Store) aborted() error {
	if s.backend.aborted == nil || s.writer.conn == nil {
		return nil
	}
	aborted := false
	if err := s.writer.conn.Raw(func(c any) error { aborted = s.backend.aborted(c); return nil }); err != nil || aborted {
		return errors.Join(errAborted, err)
	}
	return nil
}

var (
	errAborted = errors.New("the database had aborted the transaction")
	errClosed  = errors.New("store: the database is closed")
)
