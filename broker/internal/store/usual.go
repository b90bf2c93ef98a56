package store

import "slices"

// Rows that hardly change (Table.Steady) are read once by all that share a commit. On PostgreSQL that would be a round trip for
// each of them in each group; what the groups before have read is read with the first batch of the next instead. Only which
// rows that are is remembered, never what they held.

const (
	// mostUsual bounds what is read so, and usualFor for how many groups that nobody used it in.
	mostUsual = 16
	usualFor  = 8
)

// usual is what groups read in common. Whoever has the turn uses it.
type usual struct {
	groups int64
	reads  map[steady]*usualRead
}

type usualRead struct {
	read Read
	keep func(*Tx, *foreseen)
	// last is the group that used it last.
	last int64
}

// usually notes that the transaction uses a row that is kept under a key.
func (tx *Tx) usually(key steady, read Read, keep func(*Tx, *foreseen)) {
	if tx.group == nil || !tx.store.backend.batches {
		return
	}
	u := &tx.store.usual
	one := u.reads[key]
	if one == nil {
		if len(u.reads) >= mostUsual {
			return
		}
		if u.reads == nil {
			u.reads = map[steady]*usualRead{}
		}
		one = &usualRead{read: read, keep: keep}
		u.reads[key] = one
	}
	one.last = u.groups
}

// usualReads are the queries of one group.
type usualReads struct {
	all  []*foreseen
	keep []func(*Tx, *foreseen)
}

// prepare makes the queries of a group that begins, without those that its first transaction makes anyway.
func (u *usual) prepare(tx *Tx, a *ahead) *usualReads {
	u.groups++
	out := &usualReads{}
	for key, one := range u.reads {
		if u.groups-one.last > usualFor {
			delete(u.reads, key)
			continue
		}
		f, err := one.read(&Tenant{tx: tx, accountID: key.account})
		if f == nil || err != nil { // who needs it will hear of it
			delete(u.reads, key)
			continue
		}
		if slices.ContainsFunc(a.all, func(other *foreseen) bool { return other.key == f.key }) {
			continue
		}
		out.all, out.keep = append(out.all, f), append(out.keep, one.keep)
	}
	return out
}

func (u *usualReads) queries() []*foreseen {
	if u == nil {
		return nil
	}
	return u.all
}

// give keeps what was read, for all that share the commit.
func (u *usualReads) give(tx *Tx) {
	if u == nil {
		return
	}
	for i, f := range u.all {
		u.keep[i](tx, f)
	}
}
