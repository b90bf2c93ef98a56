package account_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/account"
	"keyward/broker/internal/store"
)

func TestRoles_countUsers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		roles, err := w.Roles(ctx, w.admin)
		if err != nil || len(roles) != 5 {
			t.Fatalf("%d roles (%v)", len(roles), err)
		}
		for _, r := range roles {
			want := int64(0)
			if r.Role == api.RoleAccountAdmin || r.Role == api.RoleKeyApprover {
				want = 1
			}
			if r.Users != want || r.Title == "" || len(r.Capabilities) == 0 {
				t.Errorf("role %+v, want %d users, a title and capabilities", r, want)
			}
		}
	})
}

func TestTokens_areShownOnceAndWithdrawn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		made, err := w.CreateToken(ctx, w.admin, api.EnrolmentTokenWrite{Description: "rack 4", Uses: 3, ExpireSeconds: 3600})
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(made.Token, ".")
		if len(parts) != 4 || parts[0] != api.TokenPrefix || parts[1] != made.ID || len(parts[2]) != 43 || len(parts[3]) != 43 {
			t.Errorf("token text of %d parts", len(parts))
		}
		list, err := w.Tokens(ctx, w.admin)
		if err != nil || len(list) != 1 || list[0].Token != "" || list[0].UsesLeft != 3 || list[0].CreatedBy != "user:ann" {
			t.Errorf("listed %+v (%v)", list, err)
		}
		if err := w.store.View(ctx, func(tx *store.Tx) error {
			row, err := tx.FindEnrolToken(made.ID)
			if strings.Contains(string(row.SecretHash), parts[2]) {
				t.Error("the secret is stored")
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := w.DeleteToken(ctx, w.admin, made.ID); err != nil {
			t.Error(err)
		}
		if err := w.DeleteToken(ctx, w.admin, made.ID); slug(err) != "not-found" {
			t.Errorf("withdrawing again: %v", err)
		}
		for name, in := range map[string]api.EnrolmentTokenWrite{
			"no uses": {Uses: 0, ExpireSeconds: 3600}, "too many": {Uses: 1 << 30, ExpireSeconds: 3600}, "a second": {Uses: 1, ExpireSeconds: 1},
			"for ever": {Uses: 1, ExpireSeconds: 1 << 62}, "negative": {Uses: 1, ExpireSeconds: -1},
		} {
			if _, err := w.CreateToken(ctx, w.admin, in); slug(err) != "invalid" {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestTimeSettings(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		zones, layouts := w.TimeChoices()
		if err := w.SetTimeSettings(ctx, w.admin, api.TimeSettings{TimeZone: "Europe/Berlin", DateFormat: layouts[1]}); err != nil {
			t.Fatal(err)
		}
		a, err := w.Account(ctx, w.approver) // all members see it
		if err != nil || a.TimeZone != "Europe/Berlin" || a.DateFormat != layouts[1] {
			t.Errorf("account %+v (%v)", a, err)
		}
		for _, in := range []api.TimeSettings{{TimeZone: "Mars/Base", DateFormat: layouts[0]}, {TimeZone: "Local", DateFormat: layouts[0]}, {TimeZone: "UTC", DateFormat: "%Y"}} {
			if err := w.SetTimeSettings(ctx, w.admin, in); slug(err) != "invalid" {
				t.Errorf("%+v: %v", in, err)
			}
		}
		for _, z := range zones {
			if _, err := time.LoadLocation(z); err != nil {
				t.Errorf("zone %s is offered and cannot be used: %v", z, err)
			}
		}
		now := time.Now()
		for _, l := range layouts {
			if back, err := time.Parse(l, now.Format(l)); err != nil || back.Day() != now.Day() {
				t.Errorf("layout %q: %v", l, err)
			}
		}
	})
}

// Tenants never see each other: every method with another tenant's principal and this tenant's IDs.
func TestTenants_neverSeeEachOther(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if _, err := w.Create(ctx, "Other", account.First{Name: "ann", Role: api.RoleAccountAdmin, Password: approverPassword}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.LogOn(ctx, api.LogOn{Account: "other", User: "ann", Password: adminPassword}, "", ""); slug(err) != "log-on-refused" {
			t.Errorf("one tenant's password opens another: %v", err)
		}
		on, err := w.LogOn(ctx, api.LogOn{Account: "other", User: "ann", Password: approverPassword}, "", "")
		if err != nil {
			t.Fatal(err)
		}
		them, err := w.Authenticate(ctx, on.Token, "")
		if err != nil || them.AccountID == w.id {
			t.Fatalf("principal %+v (%v)", them, err)
		}
		token, err := w.CreateToken(ctx, w.admin, api.EnrolmentTokenWrite{Uses: 1, ExpireSeconds: 60})
		if err != nil {
			t.Fatal(err)
		}
		second := func(_ any, err error) error { return err }
		for name, err := range map[string]error{
			"user":         second(w.User(ctx, them, w.approver.UserID)),
			"update user":  second(w.UpdateUser(ctx, them, w.approver.UserID, api.UserWrite{Name: "x", Role: api.RoleAuditor})),
			"delete user":  w.DeleteUser(ctx, them, w.approver.UserID),
			"end session":  w.EndSession(ctx, them, w.approver.SessionID),
			"delete token": w.DeleteToken(ctx, them, token.ID),
		} {
			if slug(err) != "not-found" {
				t.Errorf("%s across tenants: %v, want not-found", name, err)
			}
		}
		users, err1 := w.Users(ctx, them)
		tokens, err2 := w.Tokens(ctx, them)
		sessions, err3 := w.Sessions(ctx, them)
		a, err4 := w.Account(ctx, them)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			t.Fatal(err)
		}
		if len(users) != 1 || len(tokens) != 0 || len(sessions) != 1 || a.Name != "Other" {
			t.Errorf("the other tenant sees %d users, %d tokens, %d sessions, account %s", len(users), len(tokens), len(sessions), a.Name)
		}
		if _, err := w.Find(ctx, "nowhere"); slug(err) != "not-found" {
			t.Errorf("finding no account: %v", err)
		}
	})
}
