package consoletest

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// LogOn takes the one password of all users.
func (b *Broker) LogOn(_ context.Context, in api.LogOn, _, _ string) (api.LoggedOn, error) {
	known := slices.ContainsFunc(b.users, func(u api.User) bool { return u.Name == in.User })
	if !known || in.Password != Password || in.Account != b.account.Name {
		return api.LoggedOn{}, problem.New(http.StatusUnauthorized, "log-on-failed", "Log-on failed",
			"Account, user or password is wrong.", "Check the three fields; after five failures a user is locked for 15 minutes.")
	}
	return api.LoggedOn{Token: b.Session(in.User), ExpiresAt: b.Clock().Add(12 * time.Hour)}, nil
}

// Authenticate finds a session.
func (b *Broker) Authenticate(_ context.Context, token, address string) (tenant.Principal, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.sessions[token]
	if !ok {
		return tenant.Principal{}, problem.Unauthenticated()
	}
	i, err := find(b.users, func(u api.User) bool { return u.ID == s.userID }, "user")
	if err != nil {
		return tenant.Principal{}, problem.Unauthenticated()
	}
	return tenant.Principal{AccountID: b.account.ID, UserID: s.userID, UserName: s.User, Role: b.users[i].Role, SessionID: s.ID, Address: address}, nil
}

// LogOff ends the caller's session.
func (b *Broker) LogOff(ctx context.Context, p tenant.Principal) error {
	return b.EndSession(ctx, p, p.SessionID)
}

// Account is the one account.
func (b *Broker) Account(context.Context, tenant.Principal) (api.Account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.account, nil
}

// Users lists all users.
func (b *Broker) Users(context.Context, tenant.Principal) ([]api.User, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.users), nil
}

// User finds one.
func (b *Broker) User(_ context.Context, _ tenant.Principal, id string) (api.User, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, err := find(b.users, func(u api.User) bool { return u.ID == id }, "user")
	if err != nil {
		return api.User{}, err
	}
	return b.users[i], nil
}

// CreateUser adds one.
func (b *Broker) CreateUser(_ context.Context, p tenant.Principal, in api.UserWrite) (api.User, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.write(p, "user", "user.created", in.Name); err != nil {
		return api.User{}, err
	}
	u := api.User{ID: uuid.NewString(), Name: in.Name, DisplayName: in.DisplayName, Email: in.Email, Role: in.Role, CreatedAt: b.Clock()}
	b.users = append(b.users, u)
	return u, nil
}

// UpdateUser changes one.
func (b *Broker) UpdateUser(_ context.Context, p tenant.Principal, id string, in api.UserWrite) (api.User, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, err := find(b.users, func(u api.User) bool { return u.ID == id }, "user")
	if err == nil {
		err = b.write(p, "user", "user.changed", in.Name)
	}
	if err != nil {
		return api.User{}, err
	}
	u := &b.users[i]
	u.Name, u.DisplayName, u.Email, u.Role = in.Name, in.DisplayName, in.Email, in.Role
	return *u, nil
}

// DeleteUser removes one.
func (b *Broker) DeleteUser(_ context.Context, p tenant.Principal, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.write(p, "user", "user.deleted", id); err != nil {
		return err
	}
	b.users = slices.DeleteFunc(b.users, func(u api.User) bool { return u.ID == id })
	return nil
}

// Roles describes the five roles.
func (b *Broker) Roles(context.Context, tenant.Principal) ([]api.RoleInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []api.RoleInfo
	for _, r := range rbac.Roles() {
		info := api.RoleInfo{Role: api.Role(r.Name), Title: r.Title, Description: r.Description, Capabilities: r.Capabilities}
		for _, u := range b.users {
			if u.Role == info.Role {
				info.Users++
			}
		}
		out = append(out, info)
	}
	return out, nil
}

// ChangePassword checks the current one.
func (b *Broker) ChangePassword(_ context.Context, p tenant.Principal, in api.PasswordChange) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.Current != Password {
		return problem.Invalid("current", "this is not your password")
	}
	return b.write(p, "user", "user.password-changed", p.UserName)
}

// Sessions lists the caller's.
func (b *Broker) Sessions(_ context.Context, p tenant.Principal) ([]api.Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []api.Session
	for _, s := range b.sessions {
		if s.userID == p.UserID {
			s.Current = s.ID == p.SessionID
			out = append(out, s.Session)
		}
	}
	slices.SortFunc(out, func(a, b api.Session) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return out, nil
}

// EndSession ends one of the caller's.
func (b *Broker) EndSession(_ context.Context, p tenant.Principal, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Refuse != nil {
		return b.Refuse
	}
	maps.DeleteFunc(b.sessions, func(_ string, s session) bool { return s.ID == id && s.userID == p.UserID })
	return nil
}

// TimeChoices offers a few.
func (b *Broker) TimeChoices() (zones, layouts []string) {
	return []string{"UTC", "Europe/Berlin", "America/Los_Angeles"}, []string{"02 Jan 2006 15:04:05 MST", "2006-01-02 15:04:05 MST"}
}

// SetTimeSettings keeps them.
func (b *Broker) SetTimeSettings(_ context.Context, p tenant.Principal, in api.TimeSettings) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.account.TimeZone, b.account.DateFormat = in.TimeZone, in.DateFormat
	return b.write(p, "server", "settings.time-changed", in.TimeZone)
}

// Tokens lists enrolment tokens.
func (b *Broker) Tokens(context.Context, tenant.Principal) ([]api.EnrolmentTokenInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.tokens), nil
}

// CreateToken adds one.
func (b *Broker) CreateToken(_ context.Context, p tenant.Principal, in api.EnrolmentTokenWrite) (api.EnrolmentTokenInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.write(p, "user", "enrolment-token.created", in.Description); err != nil {
		return api.EnrolmentTokenInfo{}, err
	}
	t := api.EnrolmentTokenInfo{ID: uuid.NewString(), Description: in.Description, UsesLeft: in.Uses, CreatedBy: p.UserName, CreatedAt: b.Clock(),
		ExpiresAt: b.Clock().Add(time.Duration(in.ExpireSeconds) * time.Second)}
	b.tokens = append(b.tokens, t)
	t.Token = "kw1." + t.ID + ".c2VjcmV0LW9mLXRoZS1lbnJvbG1lbnQtdG9rZW4tMzI.cGluLW9mLXRoZS1icm9rZXItY2EtcHVibGljLWtleS0zMg"
	return t, nil
}

// DeleteToken removes one.
func (b *Broker) DeleteToken(_ context.Context, p tenant.Principal, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.write(p, "user", "enrolment-token.deleted", id); err != nil {
		return err
	}
	b.tokens = slices.DeleteFunc(b.tokens, func(t api.EnrolmentTokenInfo) bool { return t.ID == id })
	return nil
}
