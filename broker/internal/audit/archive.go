package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"keyward/broker/api"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

const (
	// rollingMonths is how many whole months the log goes back besides the current one; what is older is archived.
	rollingMonths = 12
	// archivedMonths is how many months more an archive is kept before it may be deleted.
	archivedMonths = 12
	// buryAtOnce is how many records are deleted in one transaction.
	buryAtOnce = 20_000
	maxReason  = 1024
	monthForm  = "2006-01"
)

// monthOf is the beginning of a time's month in UTC, shifted by months.
func monthOf(t time.Time, months int) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month()+time.Month(months), 1, 0, 0, 0, 0, time.UTC)
}

// Archives lists the months of the log that are archived, newest first, and what was deleted of it.
func (s *Service) Archives(ctx context.Context, p tenant.Principal) (api.AuditArchives, error) {
	out := api.AuditArchives{Archives: []api.AuditArchive{}, Deleted: []api.AuditDeletion{}}
	err := s.store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		list, err := archives(t)
		if err != nil {
			return err
		}
		out.Archives, out.Deleted = out.Archives[:0], out.Deleted[:0]
		for i := len(list) - 1; i >= 0; i-- {
			out.Archives = append(out.Archives, list[i])
		}
		buried, err := store.In[store.AuditTombstone](t).List(store.Desc("last_sequence"))
		for _, b := range buried {
			out.Deleted = append(out.Deleted, api.AuditDeletion{First: b.FirstSequence, Last: b.LastSequence, Since: b.Since, Until: b.Until, At: b.At,
				Actor: b.Actor, Reason: b.Reason, Hash: b.Hash, KeyID: b.KeyID})
		}
		return err
	})
	return out, err
}

// archives are the archived months that have records, oldest first. A record belongs to the month of the record before it
// when the clock went back between them: the parts of a log follow one another.
func archives(t *store.Tenant) ([]api.AuditArchive, error) {
	table := store.In[store.AuditRecord](t)
	end := monthOf(t.Now(), -rollingMonths)
	brief := store.Only("sequence", "at")
	var out []api.AuditArchive
	next, err := table.First(store.Asc("sequence"), brief)
	for err == nil && next.At.Before(end) {
		month := monthOf(next.At, 0)
		over := monthOf(month, 1)
		last, err := table.First(store.Before("at", over), store.AtLeast("sequence", next.Sequence), store.Desc("at"), store.Desc("sequence"), brief)
		if err != nil {
			return nil, err
		}
		deletable := monthOf(over, rollingMonths+archivedMonths)
		out = append(out, api.AuditArchive{Month: month.Format(monthForm), From: month, To: over, First: next.Sequence, Last: last.Sequence,
			Records: last.Sequence - next.Sequence + 1, DeletableFrom: deletable, Deletable: !t.Now().Before(deletable)})
		if next, err = table.First(store.AtLeast("sequence", last.Sequence+1), store.Asc("sequence"), brief); err != nil {
			return out, missing(err)
		}
	}
	return out, missing(err)
}

// missing takes the end of the log for no error.
func missing(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// DeleteArchives deletes the archives up to a month, that one included, for ever. In place of them stay signed tombstones,
// with which what follows verifies as before, and the record of the deletion.
func (s *Service) DeleteArchives(ctx context.Context, p tenant.Principal, in api.AuditDelete) error {
	in.Reason = strings.TrimSpace(in.Reason)
	fields := map[string]string{}
	if in.Reason == "" || len(in.Reason) > maxReason || !utf8.ValidString(in.Reason) {
		fields["reason"] = fmt.Sprintf("say why, in at most %d bytes", maxReason)
	}
	if in.Confirm != in.Month {
		fields["confirm"] = "is not the month; type it exactly to say that you mean it"
	}
	if _, err := time.Parse(monthForm, in.Month); err != nil {
		fields["month"] = "a month such as 2024-03"
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	if err := s.mayDelete(ctx, p, in.Month); err != nil {
		return err
	}
	// What is deleted is signed, and in the kept part of the tree, before it goes.
	if err := s.checkpoint(ctx, p.AccountID, 1); err != nil {
		return err
	}
	for more := true; more; {
		err := s.store.Tx(ctx, func(tx *store.Tx) (err error) {
			more, err = s.bury(tx.Tenant(p.AccountID), p, in)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) mayDelete(ctx context.Context, p tenant.Principal, month string) error {
	return s.store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		if err := stepup.Require(t, p); err != nil {
			return err
		}
		list, err := archives(t)
		if err != nil {
			return err
		}
		for _, a := range list {
			switch {
			case a.Month != month:
			case !a.Deletable:
				return problem.Conflict(fmt.Sprintf("The archive of %s is kept until %s.", month, a.DeletableFrom.Format(time.DateOnly)),
					fmt.Sprintf("Archives are kept for %d months after the %d months of the log itself; delete it then.", archivedMonths, rollingMonths))
			default:
				return nil
			}
		}
		return problem.NotFound("archive")
	})
}

// bury deletes the next records that go, and says whether there are more.
func (s *Service) bury(t *store.Tenant, p tenant.Principal, in api.AuditDelete) (more bool, err error) {
	list, err := archives(t)
	if err != nil || len(list) == 0 || list[0].Month > in.Month || !list[0].Deletable {
		return false, err
	}
	oldest := list[0]
	last := min(oldest.Last, oldest.First+buryAtOnce-1)
	records := store.In[store.AuditRecord](t)
	from, err := records.First(store.Eq("sequence", oldest.First))
	if err != nil {
		return false, err
	}
	to, err := records.First(store.Eq("sequence", last))
	if err != nil {
		return false, err
	}
	if blocks, err := keptBlocks(t); err != nil || blocks < last/blockSize {
		return false, errors.Join(err, errors.New("deleting an archive of the audit log: its tree is not complete; try again"))
	}
	tail, err := hashesOf(t, last/blockSize*blockSize+1, int(last%blockSize))
	if err != nil {
		return false, err
	}
	stone, err := chain.Bury(s.key, chain.Tombstone{AccountID: t.AccountID(), First: oldest.First, Last: last, Since: from.At, Until: to.At,
		Previous: from.Previous, Hash: to.Hash, At: t.Now(), Actor: p.Actor(), Reason: in.Reason})
	if err != nil {
		return false, err
	}
	if err := store.In[store.AuditTombstone](t).Insert(&store.AuditTombstone{FirstSequence: stone.First, LastSequence: stone.Last, Since: stone.Since,
		Until: stone.Until, Previous: stone.Previous, Hash: stone.Hash, Tail: join(tail), At: stone.At, Actor: stone.Actor, Reason: stone.Reason,
		KeyID: stone.KeyID, Signature: stone.Signature}); err != nil {
		return false, fmt.Errorf("keeping the tombstone of an archive: %w", err)
	}
	if err := Append(t, Entry{Category: Server, Event: "log.deleted", Actor: p.Actor(), Subject: oldest.Month, Detail: map[string]string{
		"first": fmt.Sprint(stone.First), "last": fmt.Sprint(stone.Last), "since": stone.Since.Format(time.RFC3339), "until": stone.Until.Format(time.RFC3339),
		"hash": fmt.Sprintf("%x", stone.Hash), "reason": in.Reason}}); err != nil {
		return false, err
	}
	if _, err := store.In[store.AuditCheckpoint](t).DeleteWhere(store.AtMost("sequence", last)); err != nil {
		return false, err
	}
	n, err := records.DeleteWhere(store.AtMost("sequence", last))
	if err == nil && n != last-oldest.First+1 {
		err = fmt.Errorf("deleting an archive of the audit log: %d records went where %d should: verify the log", n, last-oldest.First+1)
	}
	return true, err
}

func join(hashes [][]byte) []byte {
	var out []byte
	for _, h := range hashes {
		out = append(out, h...)
	}
	return out
}

// buriedHashes are the hashes, from number first on, of records that were deleted and belong to a block of which no node
// is kept; none when the log begins before that or later.
func buriedHashes(t *store.Tenant, first int64, limit int) ([][]byte, error) {
	stone, err := store.In[store.AuditTombstone](t).First(store.Desc("last_sequence"))
	if err != nil {
		return nil, missing(err)
	}
	begins := stone.LastSequence/blockSize*blockSize + 1
	if first < begins || first > stone.LastSequence || int64(len(stone.Tail)) != 32*(stone.LastSequence-begins+1) {
		return nil, nil
	}
	var out [][]byte
	for n := first; n <= stone.LastSequence && len(out) < limit; n++ {
		at := 32 * (n - begins)
		out = append(out, stone.Tail[at:at+32])
	}
	return out, nil
}

// tombstones stand for what was deleted, as package chain verifies them. Those that none of this broker's keys signed, of
// a log that came from another one, are left out with all others: a reader could not verify them.
func (s *Service) tombstones(t *store.Tenant) ([]chain.Tombstone, error) {
	rows, err := store.In[store.AuditTombstone](t).List(store.Asc("last_sequence"))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	known := map[string]bool{}
	for _, id := range s.known {
		known[id] = true
	}
	out := make([]chain.Tombstone, len(rows))
	for i, r := range rows {
		if !known[r.KeyID] {
			return nil, nil
		}
		out[i] = chain.Tombstone{AccountID: r.AccountID, First: r.FirstSequence, Last: r.LastSequence, Since: r.Since, Until: r.Until, Previous: r.Previous,
			Hash: r.Hash, At: r.At, Actor: r.Actor, Reason: r.Reason, KeyID: r.KeyID, Signature: r.Signature}
	}
	return out, nil
}
