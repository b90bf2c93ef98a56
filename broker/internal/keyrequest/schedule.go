package keyrequest

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/schedule"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// What an account's settings are until somebody saves them: every night, and a day to comply again.
var defaultChecks = api.CheckSettings{Schedule: api.ScheduleDaily, Time: "03:00", RetrySeconds: 86400}

// maxRetry is the longest period for key request attempts, in seconds.
const maxRetry = 30 * 86400

// checkPatience is how long a machine has to answer a check, three heartbeats at least.
const checkPatience = 2 * time.Minute

// settingsOf are the settings of an account that may never have saved any.
func settingsOf(acc store.Account) api.CheckSettings {
	if acc.Checks == nil {
		return defaultChecks
	}
	return *acc.Checks
}

// nextCheck is the first scheduled check after a moment; nil without a schedule.
func nextCheck(acc store.Account, after time.Time) (*time.Time, error) {
	s := settingsOf(acc)
	if s.Schedule == "" {
		return nil, nil
	}
	at, err := schedule.Parse(s.Time, s.Weekday)
	if err != nil {
		return nil, fmt.Errorf("schedule of account %s: %w", acc.ID, err)
	}
	zone, err := time.LoadLocation(acc.TimeZone)
	if err != nil {
		zone = time.UTC
	}
	next := at.Next(after, zone).UTC()
	return &next, nil
}

// CheckSchedule reads when keys are judged again, and how the last time went.
func (s *Service) CheckSchedule(ctx context.Context, p tenant.Principal) (api.CheckSchedule, error) {
	var out api.CheckSchedule
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		acc, err := store.Global[store.Account](tx).Get(p.AccountID)
		if err != nil {
			return err
		}
		out = api.CheckSchedule{CheckSettings: settingsOf(acc), TimeZone: acc.TimeZone, LastAt: acc.CheckAskedAt, NextAt: acc.CheckNextAt}
		if out.NextAt == nil {
			if out.NextAt, err = nextCheck(acc, t.Now()); err != nil {
				return err
			}
		}
		enabled, err := checkedPolicies(t)
		if err != nil {
			return err
		}
		out.Policies = int64(len(enabled))
		late, err := unanswered(t, acc, enabled)
		for _, r := range late {
			out.Waiting++
			if overdue(t.Now(), *acc.CheckAskedAt, enabled[r.PolicyID]) {
				out.Overdue++
			}
		}
		return err
	})
	return out, err
}

// SetCheckSettings changes them.
func (s *Service) SetCheckSettings(ctx context.Context, p tenant.Principal, in api.CheckSettings) error {
	in.Weekday = strings.ToLower(in.Weekday)
	if in.Schedule != api.ScheduleWeekly {
		in.Weekday = ""
	}
	fields := map[string]string{}
	switch in.Schedule {
	case "", api.ScheduleDaily, api.ScheduleWeekly:
	default:
		fields["schedule"] = "choose daily, weekly, or nothing"
	}
	if in.Schedule == "" {
		in.Time = ""
	} else if _, err := schedule.Parse(in.Time, ""); err != nil {
		fields["time"] = "a time from 00:00 to 23:59"
	}
	if in.Schedule == api.ScheduleWeekly {
		if _, err := schedule.Parse("00:00", cmp.Or(in.Weekday, "none")); err != nil {
			fields["weekday"] = "choose a day of the week"
		}
	}
	if in.RetrySeconds < 0 || in.RetrySeconds > maxRetry {
		fields["retry_seconds"] = "choose 0 (never again by itself) to 30 days"
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		accounts := store.Global[store.Account](tx)
		acc, err := accounts.Get(p.AccountID)
		if err != nil {
			return err
		}
		before := describeChecks(settingsOf(acc))
		acc.Checks = &in
		if acc.CheckNextAt, err = nextCheck(acc, t.Now()); err != nil {
			return err
		}
		if err := accounts.Update(&acc); err != nil {
			return err
		}
		t.AfterCommit(func() { s.Feed.Publish(p.AccountID, feed.TopicPolicies) })
		return audit.Append(t, audit.Entry{Category: audit.Server, Event: "settings.checks-changed", Actor: p.Actor(), Subject: acc.ID,
			Detail: map[string]string{"before": before, "after": describeChecks(in)}})
	})
}

func describeChecks(c api.CheckSettings) string {
	when := "not scheduled"
	if c.Schedule != "" {
		when = strings.TrimSpace(c.Schedule + " " + c.Weekday + " " + c.Time)
	}
	return fmt.Sprintf("%s, again within %d s", when, c.RetrySeconds)
}

// CheckNow asks a machine for fresh evidence. The answer is judged for its open requests by their policies; where a policy
// has no checks enabled, people are told and nothing is taken.
func (s *Service) CheckNow(ctx context.Context, p tenant.Principal, instanceID string) (api.CheckAsked, error) {
	var out api.CheckAsked
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		instances := store.In[store.Instance](t)
		inst, err := instances.Get(instanceID)
		if errors.Is(err, store.ErrNotFound) {
			return problem.NotFound("instance")
		}
		if err != nil {
			return err
		}
		if out.Requests, err = store.In[store.KeyRequest](t).Count(store.Eq("instance_id", instanceID), store.OneOf("status", underCheck())); err != nil {
			return err
		}
		now := t.Now()
		inst.CheckAskedAt, inst.CheckNonce = &now, checkNonce()
		out.InstanceID, out.AskedAt = inst.ID, now
		if err := instances.Update(&inst); err != nil {
			return err
		}
		t.AfterCommit(func() { s.Feed.Publish(p.AccountID, feed.Instance(instanceID), feed.TopicKeyRequests) })
		return audit.Append(t, audit.Entry{Category: "agent", Event: "integrity.check-asked", Actor: p.Actor(), Subject: inst.ID,
			Detail: map[string]string{"host_name": inst.HostName}})
	})
	return out, err
}

// CheckDevice is CheckNow for the machine that a device is on.
func (s *Service) CheckDevice(ctx context.Context, p tenant.Principal, deviceID string) (api.CheckAsked, error) {
	var machine string
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		d, err := store.In[store.Device](tx.Tenant(p.AccountID)).Get(deviceID)
		if errors.Is(err, store.ErrNotFound) {
			return problem.NotFound("device")
		}
		machine = d.InstanceID
		return err
	})
	if err != nil {
		return api.CheckAsked{}, err
	}
	return s.CheckNow(ctx, p, machine)
}

func checkNonce() string {
	raw := make([]byte, 24)
	rand.Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// schedules starts the checks that are due. The account's row is what brokers on one database agree by: of two that see
// the same check due, the second finds the row changed.
func (s *Service) schedules(ctx context.Context) error {
	var due []string
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		due = due[:0]
		accounts, err := store.Global[store.Account](tx).List()
		for _, a := range accounts {
			if a.CheckNextAt == nil && settingsOf(a).Schedule != "" || a.CheckNextAt != nil && !a.CheckNextAt.After(tx.Now()) {
				due = append(due, a.ID)
			}
		}
		return err
	})
	var errs []error
	for _, id := range due {
		if err := s.Store.Tx(ctx, func(tx *store.Tx) error { return s.startCheck(tx, id) }); err != nil && !errors.Is(err, store.ErrStale) {
			errs = append(errs, fmt.Errorf("starting the integrity check of account %s: %w", id, err))
		}
	}
	return errors.Join(append(errs, err)...)
}

// startCheck asks every machine of an account for fresh evidence, by one new challenge.
func (s *Service) startCheck(tx *store.Tx, accountID string) error {
	t := tx.Tenant(accountID)
	accounts := store.Global[store.Account](tx)
	acc, err := accounts.Get(accountID)
	if err != nil {
		return err
	}
	now := t.Now()
	run := acc.CheckNextAt != nil && !acc.CheckNextAt.After(now)
	if !run && acc.CheckNextAt != nil {
		return nil // another broker was quicker
	}
	if acc.CheckNextAt, err = nextCheck(acc, now); err != nil {
		return err
	}
	if !run {
		return accounts.Update(&acc)
	}
	enabled, err := checkedPolicies(t)
	if err != nil || len(enabled) == 0 {
		return errors.Join(err, accounts.Update(&acc))
	}
	acc.CheckAskedAt, acc.CheckNonce = &now, checkNonce()
	if err := accounts.Update(&acc); err != nil {
		return err
	}
	asked, err := unanswered(t, acc, enabled)
	if err != nil {
		return err
	}
	machines := map[string]bool{}
	for _, r := range asked {
		machines[r.InstanceID] = true
	}
	t.AfterCommit(func() {
		for id := range machines {
			s.Feed.Publish(accountID, feed.Instance(id))
		}
	})
	return audit.Append(t, audit.Entry{Category: "agent", Event: "integrity.check-scheduled", Actor: tenant.Broker(accountID).Actor(), Subject: accountID,
		Detail: map[string]string{"keys": fmt.Sprint(len(asked)), "machines": fmt.Sprint(len(machines))}})
}

// checkedPolicies are the policies with checks enabled, by ID.
func checkedPolicies(t *store.Tenant) (map[string]store.Policy, error) {
	rows, err := store.In[store.Policy](t).List(store.Eq("check_enabled", true), store.Only("id", "name", "check_enabled", "heartbeat_seconds"))
	out := make(map[string]store.Policy, len(rows))
	for _, r := range rows {
		out[r.ID] = r
	}
	return out, err
}

// unanswered are the delivered keys that have not been judged since the account's last scheduled check began.
func unanswered(t *store.Tenant, acc store.Account, enabled map[string]store.Policy, more ...store.Filter) ([]store.KeyRequest, error) {
	if acc.CheckAskedAt == nil || len(enabled) == 0 {
		return nil, nil
	}
	var ids []string
	for id := range enabled {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return store.In[store.KeyRequest](t).List(append(more, store.OneOf("status", holding), store.OneOf("policy_id", ids),
		store.Before("checked_at", *acc.CheckAskedAt), store.Only("id", "number", "status", "instance_id", "policy_id", "checked_at", "check_missed_at"))...)
}

// overdue says whether a check that was asked for at a time should have been answered by now.
func overdue(now, asked time.Time, pol store.Policy) bool {
	return now.Sub(asked) > max(checkPatience, 3*seconds(pol.HeartbeatSeconds))
}

// checkCommands are the checks that a machine has not answered.
func checkCommands(t *store.Tenant, inst store.Instance) ([]api.Command, error) {
	var out []api.Command
	if inst.CheckAskedAt != nil {
		out = append(out, api.Command{Kind: api.CommandCheck, Nonce: inst.CheckNonce, Reason: "A person wants this machine checked."})
	}
	acc, err := store.Global[store.Account](t.Tx()).Steady(t.AccountID())
	if err != nil || acc.CheckAskedAt == nil {
		return out, err
	}
	enabled, err := checkedPolicies(t)
	if err != nil {
		return out, err
	}
	late, err := unanswered(t, acc, enabled, store.Eq("instance_id", inst.ID))
	if len(late) > 0 {
		out = append(out, api.Command{Kind: api.CommandCheck, Nonce: acc.CheckNonce, Reason: "The scheduled integrity check."})
	}
	return out, err
}

// lateChecks are the requests whose machine has left a scheduled check unanswered, and of which people do not know yet.
func lateChecks(t *store.Tenant) ([]due, error) {
	acc, err := store.Global[store.Account](t.Tx()).Get(t.AccountID())
	if err != nil || acc.CheckAskedAt == nil || t.Now().Sub(*acc.CheckAskedAt) <= checkPatience {
		return nil, err
	}
	enabled, err := checkedPolicies(t)
	if err != nil {
		return nil, err
	}
	late, err := unanswered(t, acc, enabled)
	var out []due
	for _, r := range late {
		told := r.CheckMissedAt != nil && !r.CheckMissedAt.Before(*acc.CheckAskedAt)
		if !told && overdue(t.Now(), *acc.CheckAskedAt, enabled[r.PolicyID]) {
			out = append(out, due{account: t.AccountID(), id: r.ID, event: EventCheckOverdue, reason: reasons[EventCheckOverdue]})
		}
	}
	return out, err
}

// missedCheck tells people once that a machine has not answered a scheduled check.
func (s *Service) missedCheck(t *store.Tenant, f due) error {
	late, err := lateChecks(t)
	if err != nil || !slices.ContainsFunc(late, func(d due) bool { return d.id == f.id }) {
		return err
	}
	r, err := store.In[store.KeyRequest](t).Get(f.id)
	if err != nil {
		return err
	}
	now := t.Now()
	r.CheckMissedAt = &now
	_, err = s.move(t, tenant.Broker(t.AccountID()), &r, change{event: EventCheckOverdue, reason: f.reason})
	return err
}
