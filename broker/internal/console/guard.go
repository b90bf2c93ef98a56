package console

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"keyward/broker/internal/problem"
)

// contentPolicy lets pages load our own style sheet, modules and pictures and nothing else; no script or style stands
// inside a page. "ui" is the one Trusted Types policy, in ui/static/js/page.js.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types ui"

// open runs a handler that needs no session.
func (c *console) open(handle func(*visit) error) fiber.Handler {
	return func(f *fiber.Ctx) error {
		return c.serve(f, func(v *visit) error {
			if f.Method() != http.MethodGet && !sameOrigin(f) {
				return crossOrigin()
			}
			return handle(v)
		})
	}
}

// guarded runs a handler for a person who is logged on and whose role may perform the route's operation.
func (c *console) guarded(r Route) fiber.Handler {
	return func(f *fiber.Ctx) error {
		return c.serve(f, func(v *visit) error {
			token := f.Cookies(cookieSession)
			if token == "" {
				return v.askLogOn()
			}
			if err := v.authenticate(token); err != nil {
				if p, known := problem.From(err); known && p.Status == http.StatusUnauthorized {
					v.dropCookie(cookieSession)
					return v.askLogOn()
				}
				return err
			}
			if f.Method() != http.MethodGet && f.Method() != http.MethodHead {
				if !sameOrigin(f) || !validCSRF(token, v.form("csrf")) {
					return crossOrigin()
				}
			}
			if !v.may(r.Operation) {
				return problem.Forbidden(string(r.Operation))
			}
			return r.handle(v)
		})
	}
}

// serve sets what every answer has and turns errors into pages.
func (c *console) serve(f *fiber.Ctx, handle func(*visit) error) error {
	f.Set("Content-Security-Policy", contentPolicy)
	f.Set("X-Content-Type-Options", "nosniff")
	f.Set("X-Frame-Options", "DENY")
	f.Set("Referrer-Policy", "same-origin")
	f.Set("Cross-Origin-Opener-Policy", "same-origin")
	f.Set("Cross-Origin-Resource-Policy", "same-origin")
	f.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()")
	f.Set("Cache-Control", "no-store")
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	v := &visit{console: c, http: f, ctx: ctx, now: c.Clock(), zone: time.UTC}
	if err := handle(v); err != nil {
		return v.showProblem(err)
	}
	return nil
}

func (v *visit) authenticate(token string) error {
	p, err := v.Accounts.Authenticate(v.ctx, token, v.http.IP())
	if err != nil {
		return err
	}
	v.p, v.token = p, token
	if v.account, err = v.Accounts.Account(v.ctx, p); err != nil {
		return err
	}
	if zone, err := time.LoadLocation(v.account.TimeZone); err == nil {
		v.zone = zone
	}
	return nil
}

// askLogOn leads to the log-on page and back. A stream or a form cannot come back, so they only learn the status.
func (v *visit) askLogOn() error {
	if v.http.Method() != http.MethodGet || strings.HasPrefix(v.http.Path(), "/events/") {
		return problem.Unauthenticated()
	}
	next := localPath(v.http.OriginalURL(), "/")
	if next == "/" {
		return v.http.Redirect("/logon", fiber.StatusSeeOther)
	}
	return v.http.Redirect("/logon?next="+url.QueryEscape(next), fiber.StatusSeeOther)
}

// showProblem answers an error with a page. Errors that are not the visitor's go to the log and are not shown.
func (v *visit) showProblem(err error) error {
	var fe *fiber.Error
	if errors.As(err, &fe) {
		return err // fiber's own, for example a body that is too large
	}
	p, known := problem.From(err)
	request := v.http.GetRespHeader(fiber.HeaderXRequestID)
	if request == "" {
		request = uuid.NewString()
	}
	if !known {
		v.Logger.Error("console page failed", "method", v.http.Method(), "path", v.http.Route().Path, "request", request, "error", err)
	}
	return v.show(p.Status, "problem", v.problemPage(p, request))
}

// sameOrigin refuses writes that another site starts. Browsers say where a request comes from in Sec-Fetch-Site, or at
// least in Origin; a write that says neither comes from no browser that could have been tricked into sending the cookie
// (the rules of net/http.CrossOriginProtection).
func sameOrigin(f *fiber.Ctx) bool {
	switch f.Get("Sec-Fetch-Site") {
	case "same-origin", "none":
		return true
	case "":
	default:
		return false
	}
	origin := f.Get(fiber.HeaderOrigin)
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && u.Host == f.Get(fiber.HeaderHost)
}

func crossOrigin() error {
	return problem.New(http.StatusForbidden, "cross-site", "Refused to protect you",
		"The form was not sent from a page of this console, or its session has changed since the page was opened.",
		"Open the page again and repeat the action.")
}

// csrfToken is bound to the session: whoever knows it knows the session already. It is a hash, so a page that leaks it
// does not leak the session.
func csrfToken(session string) string {
	sum := sha256.Sum256([]byte("keyward console form\x00" + session))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func validCSRF(session, token string) bool {
	return subtle.ConstantTimeCompare([]byte(csrfToken(session)), []byte(token)) == 1
}
