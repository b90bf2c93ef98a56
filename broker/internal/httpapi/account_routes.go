package httpapi

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/account"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// Log-ons that one address may try: a burst, and then one each interval. The lock of each user is the other brake.
const (
	logOnBurst    = 30
	logOnInterval = 2 * time.Second
)

// Accounts is the account service with a brake on log-on. Console and interface share one, so that a guesser cannot use
// both doors.
type Accounts struct {
	*account.Service
	limit *limiter
}

// LimitLogOn puts the brake on a service.
func LimitLogOn(s *account.Service, clock func() time.Time) *Accounts {
	return &Accounts{Service: s, limit: newLimiter(logOnBurst, logOnInterval, clock)}
}

// LogOn is the service's LogOn, unless the address tried too often.
func (a *Accounts) LogOn(ctx context.Context, in api.LogOn, address, userAgent string) (api.LoggedOn, error) {
	if wait, ok := a.limit.allow(network(address)); !ok {
		return api.LoggedOn{}, problem.TooMany(wait)
	}
	return a.Service.LogOn(ctx, in, address, userAgent)
}

// network is what one caller can be expected to own: an IPv4 address, or the 64 bits of an IPv6 network.
func network(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	if a = a.Unmap().WithZone(""); a.Is4() {
		return a.String()
	}
	p, _ := a.Prefix(64)
	return p.String()
}

// body is the input of routes that take a T.
type body[T any] struct{ Body T }

// bodyByID is the input of routes that take a T for one object.
type bodyByID[T any] struct {
	ByID
	Body T
}

// timeChoices are the settings with what may be chosen.
type timeChoices struct {
	api.TimeSettings
	Zones       []string `json:"zones"`
	DateFormats []string `json:"date_formats"`
}

// RegisterAccount registers the routes of sessions, users, enrolment tokens, settings and the audit log under /api/v1.
func RegisterAccount(r *Router, a *Accounts, log *audit.Service) {
	registerSessions(r, a)
	registerFactors(r, a)
	registerUsers(r, a)
	registerTokens(r, a)
	registerSettings(r, a)
	registerAudit(r, log)
}

func registerSessions(r *Router, a *Accounts) {
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/sessions", Open: true, Summary: "Log on", Status: http.StatusCreated},
		func(ctx context.Context, _ tenant.Principal, in *body[api.LogOn]) (*answer[api.LoggedOn], error) {
			c := callerOf(ctx)
			return answerOf(a.LogOn(ctx, in.Body, c.address, c.userAgent))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/sessions", Operation: rbac.SessionsOwn, Summary: "List one's own sessions"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[[]api.Session], error) {
			return answerOf(a.Sessions(ctx, p))
		})
	handle(r, Route{Method: http.MethodDelete, Path: "/api/v1/sessions/{id}", Operation: rbac.SessionsOwn, Stages: []api.Stage{api.StageCode, api.StageEnrol}, Summary: `End one of one's own sessions; "current" logs off`},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*None, error) {
			id := in.ID
			if id == "current" || p.Stage != api.StageComplete {
				id = p.SessionID // a session that is not complete ends no other
			}
			return nil, a.EndSession(ctx, p, id)
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/me", Operation: rbac.SessionsOwn, Summary: "Who is logged on"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.User], error) {
			return answerOf(a.User(ctx, p, p.UserID))
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/password", Operation: rbac.PasswordOwn, Summary: "Change one's own password"},
		func(ctx context.Context, p tenant.Principal, in *body[api.PasswordChange]) (*None, error) {
			return nil, a.ChangePassword(ctx, p, in.Body)
		})
}

func registerUsers(r *Router, a *Accounts) {
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/users", Operation: rbac.UsersRead, Summary: "List users"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[[]api.User], error) {
			return answerOf(a.Users(ctx, p))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/users", Operation: rbac.UsersWrite, Summary: "Add a user", Status: http.StatusCreated},
		func(ctx context.Context, p tenant.Principal, in *body[api.UserWrite]) (*answer[api.User], error) {
			return answerOf(a.CreateUser(ctx, p, in.Body))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/users/{id}", Operation: rbac.UsersRead, Summary: "Read a user"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.User], error) {
			return answerOf(a.User(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/users/{id}", Operation: rbac.UsersWrite, Summary: "Change a user"},
		func(ctx context.Context, p tenant.Principal, in *bodyByID[api.UserWrite]) (*answer[api.User], error) {
			return answerOf(a.UpdateUser(ctx, p, in.ID, in.Body))
		})
	handle(r, Route{Method: http.MethodDelete, Path: "/api/v1/users/{id}", Operation: rbac.UsersWrite, Summary: "Delete a user"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*None, error) {
			return nil, a.DeleteUser(ctx, p, in.ID)
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/roles", Operation: rbac.RolesRead, Summary: "List roles, what they may do and how many users hold them"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[[]api.RoleInfo], error) {
			return answerOf(a.Roles(ctx, p))
		})
}

func registerTokens(r *Router, a *Accounts) {
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/enrolment-tokens", Operation: rbac.EnrolmentTokensRead, Summary: "List enrolment tokens"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[[]api.EnrolmentTokenInfo], error) {
			return answerOf(a.Tokens(ctx, p))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/enrolment-tokens", Operation: rbac.EnrolmentTokensWrite, Summary: "Make an enrolment token; its text is in this answer only", Status: http.StatusCreated},
		func(ctx context.Context, p tenant.Principal, in *body[api.EnrolmentTokenWrite]) (*answer[api.EnrolmentTokenInfo], error) {
			return answerOf(a.CreateToken(ctx, p, in.Body))
		})
	handle(r, Route{Method: http.MethodDelete, Path: "/api/v1/enrolment-tokens/{id}", Operation: rbac.EnrolmentTokensWrite, Summary: "Withdraw an enrolment token"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*None, error) {
			return nil, a.DeleteToken(ctx, p, in.ID)
		})
}

func registerSettings(r *Router, a *Accounts) {
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/account", Operation: rbac.AccountRead, Summary: "Describe the account"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.Account], error) {
			return answerOf(a.Account(ctx, p))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/time-settings", Operation: rbac.TimeSettingsRead, Summary: "Read time zone and date format, with what may be chosen"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[timeChoices], error) {
			acc, err := a.Account(ctx, p)
			out := timeChoices{TimeSettings: api.TimeSettings{TimeZone: acc.TimeZone, DateFormat: acc.DateFormat}}
			out.Zones, out.DateFormats = a.TimeChoices()
			return answerOf(out, err)
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/time-settings", Operation: rbac.TimeSettingsWrite, Summary: "Set time zone and date format"},
		func(ctx context.Context, p tenant.Principal, in *body[api.TimeSettings]) (*None, error) {
			return nil, a.SetTimeSettings(ctx, p, in.Body)
		})
}
