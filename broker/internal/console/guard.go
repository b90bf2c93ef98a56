package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/httpapi"
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
			if err := httpapi.CheckOrigin(f); err != nil {
				return err
			}
			return handle(v)
		})
	}
}

// guarded runs a handler for a person who is logged on and whose role may perform the route's operation.
func (c *console) guarded(r Route) fiber.Handler {
	return func(f *fiber.Ctx) error {
		return c.serve(f, func(v *visit) error {
			token := f.Cookies(httpapi.SessionCookie)
			if token == "" {
				return v.askLogOn()
			}
			if err := v.authenticate(token); err != nil {
				if p, known := problem.From(err); known && p.Status == http.StatusUnauthorized {
					httpapi.ClearSession(f)
					return v.askLogOn()
				}
				return err
			}
			if err := httpapi.CheckCSRF(f, token); err != nil {
				return err
			}
			if v.p.Stage != api.StageComplete && !slices.Contains(stages[r.Path], v.p.Stage) {
				return v.complete()
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
	ctx, cancel := context.WithTimeout(f.UserContext(), callTimeout)
	defer cancel()
	v := &visit{console: c, http: f, ctx: ctx, now: c.Clock(), zone: time.UTC}
	if err := handle(v); err != nil {
		return v.showProblem(err)
	}
	return nil
}

func (v *visit) authenticate(token string) error {
	p, err := v.Accounts.AuthenticateAny(v.ctx, token, v.http.IP())
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
	return v.http.Redirect(withNext("/logon", localPath(v.http.OriginalURL(), "/")), fiber.StatusSeeOther)
}

// withNext is the address of a page that goes on to another.
func withNext(page, next string) string {
	if next == "/" {
		return page
	}
	return page + "?next=" + url.QueryEscape(next)
}

// showProblem answers an error with a page. Errors that are not the visitor's go to the log and are not shown.
func (v *visit) showProblem(err error) error {
	var fe *fiber.Error
	if errors.As(err, &fe) {
		return err // fiber's own, for example a body that is too large
	}
	p, known := problem.From(err)
	request := httpapi.RequestID(v.http)
	if !known {
		v.Logger.Error("console page failed", "method", v.http.Method(), "path", v.http.Route().Path, "request", request, "error", err)
	}
	return v.show(p.Status, "problem", v.problemPage(p, request))
}
