package account_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/account"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

var ctx = context.Background()

const (
	adminPassword    = "Correct-Horse-7"
	approverPassword = "Battery+Staple8"
)

// world is a service with one account on a clock that tests move.
type world struct {
	*account.Service
	t     *testing.T
	store *store.Store
	now   *atomic.Int64
	id    string
	// admin and approver are logged on.
	admin, approver tenant.Principal
}

func (w *world) advance(d time.Duration) { w.now.Add(int64(d)) }

// each runs f on both databases.
func each(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		now := &atomic.Int64{}
		now.Store(time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC).UnixNano())
		clock := func() time.Time { return time.Unix(0, now.Load()) }
		s := storetest.Open(t, dsn, clock)
		root, err := keystore.CreateRootFile(filepath.Join(t.TempDir(), "root.key"))
		if err != nil {
			t.Fatal(err)
		}
		svc := account.New(account.Deps{Store: s, Root: root, ServiceURL: "https://broker:8444", CAPin: make([]byte, 32), Clock: clock})
		svc.HashCheaply()
		a, err := svc.Create(ctx, "Acme", account.First{Name: "ann", Role: api.RoleAccountAdmin, Password: adminPassword},
			account.First{Name: "kim", Role: api.RoleKeyApprover, Password: approverPassword})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{Service: svc, t: t, store: s, now: now, id: a.ID}
		w.admin, w.approver = w.logOn("ann", adminPassword), w.logOn("kim", approverPassword)
		f(t, w)
	})
}

func (w *world) logOn(user, password string) tenant.Principal {
	w.t.Helper()
	on, err := w.LogOn(ctx, api.LogOn{Account: "acme", User: user, Password: password}, "192.0.2.1", "test")
	if err != nil {
		w.t.Fatalf("log-on of %s: %v", user, err)
	}
	p, err := w.Authenticate(ctx, on.Token, "192.0.2.1")
	if err != nil {
		w.t.Fatalf("first use of the session of %s: %v", user, err)
	}
	return p
}

func (w *world) tries(user, password string) error {
	_, err := w.LogOn(ctx, api.LogOn{Account: w.id, User: user, Password: password}, "192.0.2.9", "test")
	return err
}

// events counts the audit log's records of an event.
func (w *world) events(event string) int {
	w.t.Helper()
	n := 0
	page, err := audit.New(w.store, make([]byte, 64), nil).Query(ctx, w.admin, audit.Filter{Size: 100})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range page.Records {
		if r.Event == event {
			n++
		}
	}
	return n
}

func slug(err error) string {
	var p *problem.Problem
	if errors.As(err, &p) {
		return p.Slug()
	}
	if err != nil {
		return "error: " + err.Error()
	}
	return ""
}

func TestCreate_isAllOrNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		first := account.First{Name: "ann", Role: api.RoleAccountAdmin, Password: adminPassword}
		for name, c := range map[string]struct {
			name  string
			users []account.First
			want  string
		}{
			"the name is taken":  {"ACME", []account.First{first}, "name-taken"},
			"no name":            {" ", []account.First{first}, "invalid"},
			"no administrator":   {"new", []account.First{{Name: "kim", Role: api.RoleKeyApprover, Password: adminPassword}}, "invalid"},
			"nobody":             {"new", nil, "invalid"},
			"a weak password":    {"new", []account.First{{Name: "ann", Role: api.RoleAccountAdmin, Password: "short"}}, "invalid"},
			"one name two users": {"new", []account.First{first, first}, "name-taken"},
		} {
			if _, err := w.Create(ctx, c.name, c.users...); slug(err) != c.want {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		}
		if err := w.store.View(ctx, func(tx *store.Tx) error {
			n, err := store.Global[store.Account](tx).Count()
			if n != 1 {
				t.Errorf("%d accounts, want the first one only", n)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		a, err := w.Account(ctx, w.admin)
		if err != nil || a.Name != "Acme" || a.ID != w.id || a.ServiceURL != "https://broker:8444" || a.TimeZone != "UTC" {
			t.Errorf("account %+v (%v)", a, err)
		}
	})
}

func TestLogOn_tellsAStrangerNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var texts []string
		for _, in := range []api.LogOn{
			{Account: "acme", User: "ann", Password: "wrong"},
			{Account: "acme", User: "nobody", Password: adminPassword},
			{Account: "nowhere", User: "ann", Password: adminPassword},
			{Account: "acme", User: "%", Password: adminPassword},
			{Account: "acme", User: "", Password: ""},
		} {
			_, err := w.LogOn(ctx, in, "192.0.2.9", "test")
			if slug(err) != "log-on-refused" {
				t.Errorf("%+v: %v", in, err)
				continue
			}
			texts = append(texts, err.Error())
		}
		for _, s := range texts {
			if s != texts[0] {
				t.Errorf("two refusals differ: %q and %q", s, texts[0])
			}
		}
		if w.events("user.log-on-failed") != 2 { // ann's, and the first of the strangers
			t.Errorf("%d failed log-ons are recorded, want 2", w.events("user.log-on-failed"))
		}
		if w.events("user.logged-on") != 2 {
			t.Errorf("%d log-ons are recorded, want 2", w.events("user.logged-on"))
		}
	})
}

func TestLogOn_ignoresTheCaseOfNamesButNotOfPasswords(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if err := w.tries("ANN", adminPassword); err != nil {
			t.Errorf("user in capitals: %v", err)
		}
		if err := w.tries("ann", strings.ToLower(adminPassword)); err == nil {
			t.Error("the password in small letters was accepted")
		}
	})
}

func TestLogOn_locksAfterFiveWrongPasswords(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for range account.LockAfter - 1 {
			_ = w.tries("kim", "wrong")
		}
		if err := w.tries("kim", approverPassword); err != nil {
			t.Fatalf("right password after four wrong ones: %v", err)
		}
		for range account.LockAfter { // a success started the count again
			_ = w.tries("kim", "wrong")
		}
		if err := w.tries("kim", approverPassword); slug(err) != "log-on-refused" {
			t.Errorf("right password of a locked user: %v", err)
		}
		u, err := w.User(ctx, w.admin, w.approver.UserID)
		if err != nil || u.LockedUntil == nil || u.LockedUntil.Sub(time.Unix(0, w.now.Load())) != account.LockFor {
			t.Errorf("the administrator sees %+v (%v)", u, err)
		}
		if err := w.tries("ann", adminPassword); err != nil {
			t.Errorf("another user is locked too: %v", err)
		}
		w.advance(account.LockFor)
		if err := w.tries("kim", "wrong"); slug(err) != "log-on-refused" {
			t.Errorf("wrong password after the lock: %v", err)
		}
		if err := w.tries("kim", approverPassword); err != nil {
			t.Errorf("right password after the lock and one wrong: %v", err)
		}
	})
}

// Guesses in parallel must not be more than guesses one after another: the check happens after the slow hash.
func TestLogOn_parallelGuessesAreCounted(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var wg sync.WaitGroup
		for range account.LockAfter + 3 {
			wg.Go(func() { _ = w.tries("kim", "wrong") })
		}
		wg.Wait()
		if err := w.tries("kim", approverPassword); slug(err) != "log-on-refused" {
			t.Errorf("after eight wrong passwords at once: %v, want the lock", err)
		}
	})
}

func TestUsers_createChangeDelete(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		u, err := w.CreateUser(ctx, w.admin, api.UserWrite{Name: "lee", Role: api.RoleAuditor, Password: "Just+Enough1", Email: "lee@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		p := w.logOn("lee", "Just+Enough1")
		if p.Role != api.RoleAuditor {
			t.Errorf("lee has role %q", p.Role)
		}
		u, err = w.UpdateUser(ctx, w.admin, u.ID, api.UserWrite{Name: "lea", DisplayName: "Lea Lee", Role: api.RoleDataAnalyst})
		if err != nil || u.Name != "lea" || u.Role != api.RoleDataAnalyst || u.Email != "" {
			t.Errorf("changed user %+v (%v)", u, err)
		}
		if q := w.logOn("lea", "Just+Enough1"); q.Role != api.RoleDataAnalyst {
			t.Errorf("after the change lea has role %q", q.Role)
		}
		if _, err := w.UpdateUser(ctx, w.admin, u.ID, api.UserWrite{Name: "KIM", Role: api.RoleDataAnalyst}); slug(err) != "name-taken" {
			t.Errorf("renaming to a taken name: %v", err)
		}
		if _, err := w.UpdateUser(ctx, w.admin, u.ID, api.UserWrite{Name: "lea", Role: api.RoleDataAnalyst, Password: "Something+Else2"}); err != nil {
			t.Fatal(err)
		}
		if list, _ := w.Sessions(ctx, p); len(list) != 0 {
			t.Errorf("a new password left %d sessions", len(list))
		}
		if err := w.DeleteUser(ctx, w.admin, u.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := w.User(ctx, w.admin, u.ID); slug(err) != "not-found" {
			t.Errorf("a deleted user: %v", err)
		}
		if err := w.DeleteUser(ctx, w.admin, u.ID); slug(err) != "not-found" {
			t.Errorf("deleting again: %v", err)
		}
		for event, n := range map[string]int{"user.created": 3, "user.changed": 2, "user.deleted": 1} {
			if w.events(event) != n {
				t.Errorf("%d records of %s, want %d", w.events(event), event, n)
			}
		}
	})
}

func TestUsers_badInputIsRefusedByField(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		good := api.UserWrite{Name: "lee", Role: api.RoleAuditor, Password: "Just+Enough1"}
		for field, change := range map[string]func(*api.UserWrite){
			"name":         func(u *api.UserWrite) { u.Name = "a b" },
			"role":         func(u *api.UserWrite) { u.Role = "root" },
			"password":     func(u *api.UserWrite) { u.Password = "" },
			"email":        func(u *api.UserWrite) { u.Email = "Lee <lee@example.com>" },
			"display_name": func(u *api.UserWrite) { u.DisplayName = "a\x1b[31m" },
		} {
			in := good
			change(&in)
			_, err := w.CreateUser(ctx, w.admin, in)
			var p *problem.Problem
			if !errors.As(err, &p) || p.Fields[field] == "" || len(p.Fields) != 1 {
				t.Errorf("bad %s: %v", field, err)
			}
		}
		in := good
		in.Password = "Lee.lee.lee.1+"
		in.Name = "lee.lee"
		if _, err := w.CreateUser(ctx, w.admin, in); slug(err) != "invalid" {
			t.Errorf("a password made of the name: %v", err)
		}
		if _, err := w.CreateUser(ctx, w.admin, api.UserWrite{Name: "Ann", Role: api.RoleAuditor, Password: "Just+Enough1"}); slug(err) != "name-taken" {
			t.Errorf("a taken name in capitals: %v", err)
		}
	})
}

func TestUsers_theLastAdministratorStays(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		demote := api.UserWrite{Name: "ann", Role: api.RoleAuditor}
		if _, err := w.UpdateUser(ctx, w.admin, w.admin.UserID, demote); slug(err) != "last-administrator" {
			t.Errorf("demoting the last administrator: %v", err)
		}
		if err := w.DeleteUser(ctx, w.approver, w.admin.UserID); slug(err) != "last-administrator" {
			t.Errorf("deleting the last administrator: %v", err)
		}
		if err := w.DeleteUser(ctx, w.admin, w.admin.UserID); slug(err) != "conflict" {
			t.Errorf("deleting oneself: %v", err)
		}
		second, err := w.CreateUser(ctx, w.admin, api.UserWrite{Name: "bob", Role: api.RoleAccountAdmin, Password: "Just+Enough1"})
		if err != nil {
			t.Fatal(err)
		}
		// Both at once want to remove the other: one of them must stay.
		bob := w.logOn("bob", "Just+Enough1")
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() { errs[0] = w.DeleteUser(ctx, w.admin, second.ID) })
		wg.Go(func() { errs[1] = w.DeleteUser(ctx, bob, w.admin.UserID) })
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Errorf("two administrators delete each other: %v and %v, want one to fail", errs[0], errs[1])
		}
	})
}

func TestChangePassword(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		other := w.logOn("kim", approverPassword)
		const next = "Fresh+Password9"
		for name, in := range map[string]api.PasswordChange{
			"wrong current": {Current: "wrong", New: next}, "weak new": {Current: approverPassword, New: "weak"}, "the same": {Current: approverPassword, New: approverPassword},
		} {
			if err := w.ChangePassword(ctx, w.approver, in); slug(err) != "invalid" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := w.ChangePassword(ctx, w.approver, api.PasswordChange{Current: approverPassword, New: next}); err != nil {
			t.Fatal(err)
		}
		list, err := w.Sessions(ctx, w.approver)
		if err != nil || len(list) != 1 || list[0].ID == other.SessionID {
			t.Errorf("sessions after the change: %+v (%v), want only the one that made it", list, err)
		}
		if w.tries("kim", approverPassword) == nil || w.tries("kim", next) != nil {
			t.Error("the old password still counts, or the new one does not")
		}
		for range account.LockAfter {
			_ = w.ChangePassword(ctx, w.approver, api.PasswordChange{Current: "wrong", New: approverPassword})
		}
		if err := w.ChangePassword(ctx, w.approver, api.PasswordChange{Current: next, New: approverPassword}); slug(err) != "invalid" {
			t.Errorf("guessing the current password does not lock: %v", err)
		}
	})
}
