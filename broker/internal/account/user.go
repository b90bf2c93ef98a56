package account

import (
	"context"
	"fmt"
	"net/mail"
	"slices"
	"unicode"
	"unicode/utf8"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

func viewUser(u store.User) api.User {
	return api.User{ID: u.ID, Name: u.Name, DisplayName: u.DisplayName, Email: u.Email, Role: u.Role, LockedUntil: u.LockedUntil,
		LastLogOnAt: u.LastLogOnAt, CreatedAt: u.CreatedAt, SecondFactorSince: u.FactorSince}
}

// Users lists the account's users by name.
func (s *Service) Users(ctx context.Context, p tenant.Principal) ([]api.User, error) {
	out := []api.User{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		rows, err := store.In[store.User](tx.Tenant(p.AccountID)).List(store.Asc("name"))
		for _, u := range rows {
			out = append(out, viewUser(u))
		}
		return err
	})
	return out, err
}

// User returns one user.
func (s *Service) User(ctx context.Context, p tenant.Principal, id string) (api.User, error) {
	var row store.User
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		row, err = store.In[store.User](tx.Tenant(p.AccountID)).Get(id)
		return missing(err, "user")
	})
	return viewUser(row), err
}

// CreateUser adds a user with exactly one role.
func (s *Service) CreateUser(ctx context.Context, p tenant.Principal, in api.UserWrite) (api.User, error) {
	if err := s.checkUser(in, true); err != nil {
		return api.User{}, err
	}
	hash, err := s.hashing.hash(ctx, in.Password)
	if err != nil {
		return api.User{}, err
	}
	var row store.User
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		row = store.User{Name: in.Name, DisplayName: in.DisplayName, Email: in.Email, Role: in.Role, PasswordHash: hash}
		return insertUser(tx.Tenant(p.AccountID), p, &row)
	})
	return viewUser(row), err
}

func insertUser(t *store.Tenant, p tenant.Principal, row *store.User) error {
	if err := store.In[store.User](t).Insert(row); err != nil {
		return taken(err, "user", row.Name)
	}
	return audit.Append(t, audit.Entry{Category: audit.User, Event: "user.created", Actor: p.Actor(), Subject: row.ID,
		Detail: map[string]string{"name": row.Name, "role": string(row.Role)}})
}

// UpdateUser changes a user. A new password ends the user's sessions and lifts a lock.
func (s *Service) UpdateUser(ctx context.Context, p tenant.Principal, id string, in api.UserWrite) (api.User, error) {
	if err := s.checkUser(in, false); err != nil {
		return api.User{}, err
	}
	hash := ""
	if in.Password != "" {
		var err error
		if hash, err = s.hashing.hash(ctx, in.Password); err != nil {
			return api.User{}, err
		}
	}
	var row store.User
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		table := store.In[store.User](t)
		var err error
		if row, err = table.Get(id); err != nil {
			return missing(err, "user")
		}
		if row.Role == api.RoleAccountAdmin && in.Role != row.Role {
			if err := anotherAdmin(t, id); err != nil {
				return err
			}
		}
		detail := map[string]string{"name": in.Name}
		note := func(field, before, after string) {
			if before != after {
				detail[field] = fmt.Sprintf("%s -> %s", before, after)
			}
		}
		note("name", row.Name, in.Name)
		note("role", string(row.Role), string(in.Role))
		note("display_name", row.DisplayName, in.DisplayName)
		note("email", row.Email, in.Email)
		row.Name, row.DisplayName, row.Email, row.Role = in.Name, in.DisplayName, in.Email, in.Role
		if hash != "" {
			detail["password"] = "set"
			row.PasswordHash, row.FailedLogOns, row.LockedUntil = hash, 0, nil
			if err := endSessions(t, id, p.SessionID); err != nil {
				return err
			}
		}
		if err := table.Update(&row); err != nil {
			return missing(taken(err, "user", in.Name), "user")
		}
		return audit.Append(t, audit.Entry{Category: audit.User, Event: "user.changed", Actor: p.Actor(), Subject: id, Detail: detail})
	})
	if err != nil {
		return api.User{}, err
	}
	return viewUser(row), nil
}

// DeleteUser removes a user and ends the user's sessions.
func (s *Service) DeleteUser(ctx context.Context, p tenant.Principal, id string) error {
	if id == p.UserID && id != "" {
		return problem.Conflict("You cannot delete yourself.", "Ask another Account Administrator.")
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		row, err := store.In[store.User](t).Get(id)
		if err != nil {
			return missing(err, "user")
		}
		if row.Role == api.RoleAccountAdmin {
			if err := anotherAdmin(t, id); err != nil {
				return err
			}
		}
		if err := store.In[store.User](t).Delete(id); err != nil {
			return missing(err, "user")
		}
		return audit.Append(t, audit.Entry{Category: audit.User, Event: "user.deleted", Actor: p.Actor(), Subject: id,
			Detail: map[string]string{"name": row.Name, "role": string(row.Role)}})
	})
}

// anotherAdmin refuses to leave an account that nobody can manage.
func anotherAdmin(t *store.Tenant, id string) error {
	n, err := store.In[store.User](t).Count(store.Eq("role", api.RoleAccountAdmin), store.Ne("id", id))
	if err == nil && n == 0 {
		err = problem.New(409, "last-administrator", "The last Account Administrator stays", "Nobody else could manage the account.", "Make another user Account Administrator first.")
	}
	return err
}

// ChangePassword changes the caller's own password and ends all other sessions. The current one is asked for again, with
// the lock that guards log-on: a session that was left open must not give the password away.
func (s *Service) ChangePassword(ctx context.Context, p tenant.Principal, in api.PasswordChange) error {
	if err := s.checkPassword("new", in.New, p.UserName); err != nil {
		return err
	}
	if in.New == in.Current {
		return problem.Invalid("new", "the new password is the current one")
	}
	var user store.User
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		user, err = store.In[store.User](tx.Tenant(p.AccountID)).Get(p.UserID)
		return missing(err, "user")
	})
	if err != nil {
		return err
	}
	ok, _, err := s.hashing.matches(ctx, in.Current, user.PasswordHash)
	if err != nil {
		return err
	}
	hash, err := s.hashing.hash(ctx, in.New)
	if err != nil {
		return err
	}
	var refusal error
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		u, err := store.In[store.User](t).Get(p.UserID)
		if err != nil {
			return missing(err, "user")
		}
		if refusal, err = s.judge(t, u, ok && u.PasswordHash == user.PasswordHash, p.Address); err != nil || refusal != nil {
			return err
		}
		u.PasswordHash, u.FailedLogOns = hash, 0
		if err := store.In[store.User](t).Update(&u); err != nil {
			return err
		}
		if err := endSessions(t, u.ID, p.SessionID); err != nil {
			return err
		}
		return audit.Append(t, audit.Entry{Category: audit.User, Event: "user.password-changed", Actor: p.Actor(), Subject: u.ID,
			Detail: map[string]string{"address": p.Address}})
	})
	if err == nil && refusal != nil {
		err = problem.Invalid("current", "the current password is wrong, or the user is locked after too many wrong ones")
	}
	return err
}

// Roles lists the five roles with how many users hold each.
func (s *Service) Roles(ctx context.Context, p tenant.Principal) ([]api.RoleInfo, error) {
	out := []api.RoleInfo{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		for _, r := range rbac.Roles() {
			n, err := store.In[store.User](tx.Tenant(p.AccountID)).Count(store.Eq("role", r.Name))
			if err != nil {
				return err
			}
			out = append(out, api.RoleInfo{Role: api.Role(r.Name), Title: r.Title, Description: r.Description, Capabilities: r.Capabilities, Users: n})
		}
		return nil
	})
	return out, err
}

func (s *Service) checkUser(in api.UserWrite, create bool) error {
	fields := map[string]string{}
	if !validName(in.Name, userName) {
		fields["name"] = "1 to 64 letters, digits and . _ @ + -"
	}
	if !slices.ContainsFunc(rbac.Roles(), func(r rbac.RoleInfo) bool { return r.Name == string(in.Role) }) {
		fields["role"] = "one of the five roles"
	}
	if utf8.RuneCountInString(in.DisplayName) > 128 || !printable(in.DisplayName) {
		fields["display_name"] = "at most 128 printable characters"
	}
	if in.Email != "" {
		if a, err := mail.ParseAddress(in.Email); err != nil || a.Address != in.Email || len(in.Email) > 254 {
			fields["email"] = "an address such as name@example.com"
		}
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	if create || in.Password != "" {
		return s.checkPassword("password", in.Password, in.Name)
	}
	return nil
}

func printable(s string) bool {
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return false
		}
	}
	return true
}
