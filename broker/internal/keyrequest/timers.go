package keyrequest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/challenge"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// due is something whose time has come.
type due struct {
	account, id string
	event       Event // empty: the ID is that of a missing instance
	reason      string
}

// textGone is what people read of a request whose device has lost its key.
const textGone = "The device was unconfigured or deleted since the request."

// Tick does what time does: leases that ended, approvals by time, revocations that are due or overdue, requests that
// nobody collected or decided, machines that fell silent. It is called every second; each change is a transaction of its
// own that looks again, so several brokers may do it at once and none of them twice.
func (s *Service) Tick(ctx context.Context) error {
	if err := s.schedules(ctx); err != nil {
		return err
	}
	var found []due
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		found = found[:0]
		return tx.EachTenant(func(t *store.Tenant) error {
			list, err := s.dueIn(t)
			found = append(found, list...)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("looking for key requests that are due: %w", err)
	}
	var errs []error
	for _, f := range found {
		err := s.Store.Tx(ctx, func(tx *store.Tx) error {
			t := tx.Tenant(f.account)
			switch f.event {
			case "":
				return s.missing(t, f.id)
			case EventCheckOverdue:
				return s.missedCheck(t, f)
			}
			return s.fire(t, f)
		})
		if err != nil && !errors.Is(err, store.ErrStale) {
			errs = append(errs, fmt.Errorf("%s of key request or instance %s: %w", f.event, f.id, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) dueIn(t *store.Tenant) ([]due, error) {
	requests := store.In[store.KeyRequest](t)
	part := store.Only("id", "status", "device_id", "approve_at", "lease_expires_at", "revoke_due_at", "expires_at", "created_at", "updated_at", "retry_until")
	var out []due
	seen := map[string]bool{}
	for _, late := range dueFilters(t.Now()) {
		rows, err := requests.List(append(late, part)...)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if e := dueEvent(t.Now(), r); e != "" && !seen[r.ID] {
				seen[r.ID] = true
				out = append(out, due{t.AccountID(), r.ID, e, reasons[e]})
			}
		}
	}
	held, err := requests.List(store.Eq("status", api.KeyPending), store.OneOf("waits_for", []string{waitsForPool, waitsForSilence}), store.Only("id"))
	if err != nil {
		return nil, err
	}
	for _, r := range held {
		out = append(out, due{t.AccountID(), r.ID, EventReappraised, ""})
	}
	waiting, err := requests.List(store.OneOf("status", []api.KeyStatus{api.KeyPending, api.KeyApproved}), store.Only("id", "status", "device_id"))
	if err != nil {
		return nil, err
	}
	gone, err := withoutVolume(t, waiting)
	if err != nil {
		return nil, err
	}
	for _, id := range gone {
		out = append(out, due{t.AccountID(), id, EventExpired, textGone})
	}
	late, err := lateChecks(t)
	if err != nil {
		return nil, err
	}
	out = append(out, late...)
	least, err := leastSilence(t)
	if err != nil {
		return nil, err
	}
	instances, err := store.In[store.Instance](t).List(store.Eq("missing", false), store.NotNull("last_seen_at"),
		store.Before("last_seen_at", t.Now().Add(-least)), store.Only("id", "missing", "last_seen_at", "pace_seconds"))
	if err != nil {
		return nil, err
	}
	// A policy may allow its machines to be silent for days: what is read of them every second is not read one by one.
	ids := make([]string, len(instances))
	for k, i := range instances {
		ids[k] = i.ID
	}
	policies, err := inventory.SightedPoliciesOf(t, ids)
	if err != nil {
		return nil, err
	}
	for _, i := range instances {
		beat, silence, err := pacesUnder(t, policies[i.ID])
		if err != nil {
			return nil, err
		}
		if s.silent(t, i, beat, silence) {
			out = append(out, due{account: t.AccountID(), id: i.ID})
		}
	}
	return out, nil
}

// dueFilters select, by indexes, the requests whose time may have come; dueEvent says what it brings. Most requests of a
// large account are delivered and renewed all the time, and are not read every second.
func dueFilters(now time.Time) [][]store.Filter {
	passed := func(column string, at time.Time) store.Filter { return store.Before(column, at.Add(time.Microsecond)) }
	return [][]store.Filter{
		{passed("lease_expires_at", now.Add(-LeaseMargin))},
		{passed("approve_at", now)},
		{passed("revoke_due_at", now)},
		{passed("retry_until", now), store.Eq("status", api.KeyRevoked)},
		{store.Eq("status", api.KeyPending), passed("expires_at", now)},
		{store.Eq("status", api.KeyPending), store.IsNull("expires_at"), passed("created_at", now.Add(-pendingLife))},
		{store.Eq("status", api.KeyApproved), passed("updated_at", now.Add(-approvedLife))},
	}
}

// leastSilence is the shortest silence after which any machine of the account can be missing: only those that were
// silent for so long are looked at one by one.
func leastSilence(t *store.Tenant) (time.Duration, error) {
	policies, err := store.In[store.Policy](t).List(store.Only("heartbeat_seconds", "missing_after_seconds"))
	least := time.Duration(0)
	for _, p := range policies {
		if own := silenceOf(p); least == 0 || own < least {
			least = own
		}
	}
	return max(least, minSilence), err
}

// withoutVolume lists the requests that wait for a key which is no more.
func withoutVolume(t *store.Tenant, requests []store.KeyRequest) ([]string, error) {
	waiting := map[string][]string{}
	for _, r := range requests {
		if r.Status == api.KeyPending || r.Status == api.KeyApproved {
			waiting[r.DeviceID] = append(waiting[r.DeviceID], r.ID)
		}
	}
	if len(waiting) == 0 {
		return nil, nil
	}
	// In pieces: a statement has a limited number of values.
	for ids := range slices.Chunk(slices.Collect(maps.Keys(waiting)), 1000) {
		devices, err := store.In[store.Device](t).List(store.OneOf("id", ids), store.NotNull("volume"), store.Only("id"))
		if err != nil {
			return nil, err
		}
		for _, d := range devices {
			delete(waiting, d.ID)
		}
	}
	return slices.Concat(slices.Collect(maps.Values(waiting))...), nil
}

// dueEvent is what time does to a request now; empty when nothing.
func dueEvent(now time.Time, r store.KeyRequest) Event {
	passed := func(at *time.Time) bool { return at != nil && !at.After(now) }
	switch {
	case KeyOut(r.Status) && r.LeaseExpiresAt != nil && !r.LeaseExpiresAt.Add(LeaseMargin).After(now):
		return EventLeaseEnded
	case r.Status == api.KeyPending && passed(r.ApproveAt):
		return EventTimer
	case r.Status == api.KeyRevokePending && passed(r.RevokeDueAt):
		return EventDue
	case r.Status == api.KeyRevoking && passed(r.RevokeDueAt):
		return EventOverdue
	case r.Status == api.KeyRevoked && passed(r.RetryUntil):
		return EventPeriodOver
	case r.Status == api.KeyPending && (passed(r.ExpiresAt) || r.ExpiresAt == nil && !r.CreatedAt.Add(pendingLife).After(now)):
		return EventExpired
	case r.Status == api.KeyApproved && !r.UpdatedAt.Add(approvedLife).After(now):
		return EventExpired
	}
	return ""
}

// reasons are what people read of what time did.
var reasons = map[Event]string{
	EventLeaseEnded:   "The lease ended without contact; the machine has given the key up by itself.",
	EventTimer:        "Approved by itself: every rule matched and nobody acted in time.",
	EventDue:          "The grace period of the failed check is over.",
	EventOverdue:      "The machine has not confirmed the revocation yet; its lease ends in any case.",
	EventPeriodOver:   "The machine has not complied again within the period for key request attempts.",
	EventCheckOverdue: "The machine has not answered the scheduled integrity check.",
	EventExpired:      "Nobody decided on the request, or the machine did not collect the key in time.",
}

// fire looks again, within the transaction, whether the time has come.
func (s *Service) fire(t *store.Tenant, f due) error {
	r, err := store.In[store.KeyRequest](t).Get(f.id)
	if err != nil {
		return err
	}
	if f.event == EventReappraised {
		return s.lookAgain(t, r)
	}
	if f.reason == textGone {
		if ids, err := withoutVolume(t, []store.KeyRequest{r}); err != nil || len(ids) == 0 {
			return err
		}
	} else if dueEvent(t.Now(), r) != f.event {
		return nil
	}
	c := change{event: f.event, reason: f.reason}
	if f.event == EventTimer {
		decides, err := mayDecide(t, r)
		if err != nil {
			return err
		}
		c.ctx = Ctx{TimerDue: true, PolicyDecides: decides}
		if !decides || r.Integrity != api.IntegrityGood {
			r.ApproveAt = nil // a person's word, or a rating that changed, stands above the timer
			return store.In[store.KeyRequest](t).Update(&r)
		}
	}
	_, err = s.move(t, tenant.Broker(t.AccountID()), &r, c)
	return err
}

// lookAgain judges a request anew when what the broker itself waits for has come about.
func (s *Service) lookAgain(t *store.Tenant, r store.KeyRequest) error {
	switch {
	case r.Status != api.KeyPending:
		return nil
	case r.WaitsFor == waitsForPool:
		return s.fromPool(t, r)
	case r.WaitsFor == waitsForSilence:
		return s.afterSilence(t, r)
	}
	return nil
}

// minSilence is the shortest silence after which a machine is missing.
const minSilence = 15 * time.Second

// silent says that a machine has been without contact for longer than its policies allow (paces), and that this broker could have
// heard it. A policy that wants more heartbeats than the machine was told of does not make it silent before the next one.
func (s *Service) silent(t *store.Tenant, i store.Instance, beat int64, silence time.Duration) bool {
	if i.Missing || i.LastSeenAt == nil {
		return false
	}
	if i.PaceSeconds > beat {
		silence = max(silence, seconds(i.PaceSeconds)+minSilence)
	}
	heard := *i.LastSeenAt
	if s.began.After(heard) {
		heard = s.began
	}
	return t.Now().Sub(heard) > silence
}

// missing takes a machine that fell silent off the running ones. Keys that it holds stay out until their lease ends.
func (s *Service) missing(t *store.Tenant, id string) error {
	instances := store.In[store.Instance](t)
	i, err := instances.Get(id)
	if err != nil {
		return err
	}
	beat, silence, err := paces(t, id)
	if err != nil || !s.silent(t, i, beat, silence) {
		return err
	}
	i.Missing = true
	if err := instances.Update(&i); err != nil {
		return err
	}
	p := tenant.Broker(t.AccountID())
	if err := audit.Append(t, audit.Entry{Category: "agent", Event: "instance.missing", Actor: p.Actor(), Subject: id,
		Detail: map[string]string{"host_name": i.HostName, "last_seen": i.LastSeenAt.UTC().Format(time.RFC3339)}}); err != nil {
		return err
	}
	// What was taken waits for its period to end, also while the machine is away.
	open, err := store.In[store.KeyRequest](t).List(store.Eq("instance_id", id), store.OneOf("status", append(underCheck(), api.KeyRevoking)))
	if err != nil {
		return err
	}
	for _, r := range open {
		if _, err := s.move(t, p, &r, change{event: EventInstanceMissing, reason: "The machine fell silent."}); err != nil {
			return err
		}
	}
	account := t.AccountID()
	t.AfterCommit(func() { s.Feed.Publish(account, feed.TopicInstances, feed.TopicKeyRequests) })
	return nil
}

// noticeLife is how long a notice is kept after it was put aside; what it told of is in the audit log for ever.
const noticeLife = 30 * 24 * time.Hour

// Clean removes nonces, stored answers and notices that have ended. It is called every few minutes.
func (s *Service) Clean(ctx context.Context) error {
	var accounts []string
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		accounts = accounts[:0]
		return tx.EachTenant(func(t *store.Tenant) error {
			accounts = append(accounts, t.AccountID())
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, id := range accounts {
		err := s.Store.Tx(ctx, func(tx *store.Tx) error {
			t := tx.Tenant(id)
			if err := challenge.Clean(t); err != nil {
				return err
			}
			if _, err := store.In[store.Notice](t).DeleteWhere(store.Before("seen_at", t.Now().Add(-noticeLife))); err != nil {
				return err
			}
			return idempotency.Clean(t)
		})
		if err != nil {
			return fmt.Errorf("removing what has ended: %w", err)
		}
	}
	return nil
}
