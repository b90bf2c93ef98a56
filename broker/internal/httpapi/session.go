package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/account"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// SessionCookie holds a browser's session token. It is HttpOnly, Secure and SameSite=Strict.
const SessionCookie = "keyward_session"

// CSRFHeader and CSRFField carry the CSRF token of a write that a browser's cookie authenticates.
const (
	CSRFHeader = "X-CSRF-Token"
	CSRFField  = "csrf_token"
)

// Sessions finds the person of a session token and notes that the session is in use.
type Sessions interface {
	Authenticate(ctx context.Context, token, address string) (tenant.Principal, error)
	// AuthenticateAny is Authenticate for sessions that are not complete too: the principal has the stage.
	AuthenticateAny(ctx context.Context, token, address string) (tenant.Principal, error)
}

// Roles decides what a role may do; *rbac.Enforcer does.
type Roles interface {
	Allowed(role string, op rbac.Operation) bool
}

// PeopleGate admits people by session and role. Scripts send "Authorization: Bearer TOKEN"; browsers send the cookie, and
// with every write the proof that the page it came from is ours.
type PeopleGate struct {
	Sessions Sessions
	Roles    Roles
}

// Admit implements Gate.
func (g *PeopleGate) Admit(c *fiber.Ctx, rt Route) (tenant.Principal, error) {
	if rt.Open {
		return tenant.Principal{}, nil
	}
	if rt.Operation == "" {
		return tenant.Principal{}, problem.Unauthenticated()
	}
	token, cookie := sessionToken(c)
	if token == "" {
		return tenant.Principal{}, problem.Unauthenticated()
	}
	authenticate := g.Sessions.Authenticate
	if len(rt.Stages) > 0 {
		authenticate = g.Sessions.AuthenticateAny
	}
	p, err := authenticate(c.UserContext(), token, c.IP())
	if err != nil {
		return tenant.Principal{}, err
	}
	if p.Stage != api.StageComplete && !slices.Contains(rt.Stages, p.Stage) {
		return tenant.Principal{}, account.StageProblem(p.Stage)
	}
	if cookie {
		if err := CheckCSRF(c, token); err != nil {
			return tenant.Principal{}, err
		}
	}
	if !g.Roles.Allowed(string(p.Role), rt.Operation) {
		return tenant.Principal{}, problem.Forbidden(string(rt.Operation))
	}
	return p, nil
}

// sessionToken finds the token of a request and whether it came by cookie. A header wins: a browser never adds one by
// itself, so it proves that the caller meant it.
func sessionToken(c *fiber.Ctx) (token string, cookie bool) {
	if h := c.Get(fiber.HeaderAuthorization); h != "" {
		scheme, t, _ := strings.Cut(h, " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(t), false
		}
		return "", false
	}
	return c.Cookies(SessionCookie), true
}

// SetSession gives a browser its session.
func SetSession(c *fiber.Ctx, token string, expires time.Time) {
	c.Cookie(&fiber.Cookie{Name: SessionCookie, Value: token, Path: "/", Expires: expires, Secure: true, HTTPOnly: true, SameSite: fiber.CookieSameSiteStrictMode})
}

// ClearSession takes it away.
func ClearSession(c *fiber.Ctx) {
	SetSession(c, "", time.Unix(1, 0))
}

// CSRFToken is the token of a session's pages. It is made of the session token by a one-way function, so it needs no
// storage, is worthless for another session, and shows nothing of the session token or of its stored hash.
func CSRFToken(sessionToken string) string {
	sum := sha256.Sum256([]byte("keyward csrf token v1\x00" + sessionToken))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// CheckCSRF refuses a write that did not come from one of our own pages. Two defences stand side by side: the browser's
// own word on where the request came from (Sec-Fetch-Site, else Origin), and a token bound to the session.
func CheckCSRF(c *fiber.Ctx, sessionToken string) error {
	if safeMethod(c.Method()) {
		return nil
	}
	if err := CheckOrigin(c); err != nil {
		return err
	}
	got := c.Get(CSRFHeader)
	if got == "" && isForm(c) {
		got = c.FormValue(CSRFField)
	}
	if subtle.ConstantTimeCompare([]byte(got), []byte(CSRFToken(sessionToken))) != 1 {
		return csrfRefused("The request carries no valid CSRF token.")
	}
	return nil
}

// CheckOrigin refuses a write that a browser sent on behalf of another site, as net/http.CrossOriginProtection does. It
// also guards log-on, which has no session yet.
func CheckOrigin(c *fiber.Ctx) error {
	if safeMethod(c.Method()) {
		return nil
	}
	switch c.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return nil
	case "":
	default:
		return csrfRefused("The browser says that another site sent the request.")
	}
	origin := c.Get(fiber.HeaderOrigin)
	if origin == "" {
		return nil // not a browser, or one that says nothing and is left to the token
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" || u.Host != string(c.Request().Host()) {
		return csrfRefused("The request came from the page of another site.")
	}
	return nil
}

func csrfRefused(detail string) error {
	return problem.New(fiber.StatusForbidden, "cross-site", "The request did not come from the console", detail,
		"Open the page again and repeat the action; scripts use a bearer token instead of the cookie.")
}

func safeMethod(m string) bool {
	return m == fiber.MethodGet || m == fiber.MethodHead || m == fiber.MethodOptions
}

func isForm(c *fiber.Ctx) bool {
	kind := c.Get(fiber.HeaderContentType)
	return strings.HasPrefix(kind, fiber.MIMEApplicationForm) || strings.HasPrefix(kind, fiber.MIMEMultipartForm)
}
