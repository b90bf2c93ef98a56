package console

import (
	"bytes"
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
	"keyward/ui"
)

// callTimeout bounds the service calls of one page. A client that goes away does not cancel them, so they end by time.
const callTimeout = 10 * time.Second

// visit is one request of a person, with what the handlers need to answer it.
type visit struct {
	*console
	http *fiber.Ctx
	ctx  context.Context
	p    tenant.Principal
	// account gives name, zone and format; zero before log-on.
	account api.Account
	zone    *time.Location
	now     time.Time
	token   string
}

func (v *visit) may(op rbac.Operation) bool { return v.Access.Allowed(string(v.p.Role), op) }

// id is the path's {id}.
func (v *visit) id() string { return v.http.Params("id") }

func (v *visit) query(name string) string { return strings.TrimSpace(v.http.Query(name)) }

// queries returns every value of a repeated query parameter, without repetitions.
func (v *visit) queries(name string) []string {
	var values []string
	seen := map[string]bool{}
	for _, raw := range v.http.Context().QueryArgs().PeekMulti(name) {
		if value := string(raw); value != "" && !seen[value] {
			seen[value] = true
			values = append(values, value)
		}
	}
	return values
}

// has says whether the form carries the field at all; controls that are switched off are not sent.
func (v *visit) has(name string) bool { return v.http.Context().PostArgs().Has(name) }

func (v *visit) form(name string) string { return string(v.http.Context().PostArgs().Peek(name)) }

// text is a form value without surrounding space.
func (v *visit) text(name string) string { return strings.TrimSpace(v.form(name)) }

func (v *visit) forms(name string) []string {
	var values []string
	for _, raw := range v.http.Context().PostArgs().PeekMulti(name) {
		values = append(values, string(raw))
	}
	return values
}

// show answers with a page.
func (v *visit) show(status int, page string, model any) error {
	var out bytes.Buffer
	if err := ui.Render(&out, page, model); err != nil {
		return err
	}
	v.http.Status(status)
	v.http.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
	return v.http.Send(out.Bytes())
}

// to answers a form with the page to look at next, which greets with the message of done.
func (v *visit) to(path, done string) error {
	if done != "" {
		v.setCookie(cookieDone, done, time.Minute)
	}
	return v.http.Redirect(path, fiber.StatusSeeOther)
}

func (v *visit) setCookie(name, value string, life time.Duration) {
	v.http.Cookie(&fiber.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: int(life / time.Second), Secure: true, HTTPOnly: true,
		SameSite: fiber.CookieSameSiteStrictMode,
	})
}

func (v *visit) dropCookie(name string) {
	v.http.Cookie(&fiber.Cookie{
		Name: name, Path: "/", Expires: time.Unix(1, 0), MaxAge: -1, Secure: true, HTTPOnly: true,
		SameSite: fiber.CookieSameSiteStrictMode,
	})
}

func (v *visit) when(t time.Time) ui.When { return ui.NewWhen(t, v.now, v.zone, v.layout()) }

func (v *visit) whenOptional(t *time.Time) ui.When {
	if t == nil {
		return ui.NewWhen(time.Time{}, v.now, v.zone, v.layout())
	}
	return v.when(*t)
}

// exact is a time in the account's zone and format.
func (v *visit) exact(t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.In(v.zone).Format(v.layout())
}

func (v *visit) layout() string {
	if v.account.DateFormat != "" {
		return v.account.DateFormat
	}
	return "2 Jan 2006 15:04:05 MST"
}

// localPath keeps a path of this console and drops everything that could lead elsewhere.
func localPath(raw, fallback string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || !strings.HasPrefix(u.Path, "/") ||
		strings.HasPrefix(raw, "//") || strings.ContainsAny(raw, "\\\r\n\t") {
		return fallback
	}
	// Path and query only, written anew: what cannot be said this way is no page of ours.
	clean := url.URL{Path: u.Path, RawQuery: u.Query().Encode()}
	if path := clean.EscapedPath(); strings.HasPrefix(path, "//") {
		return fallback
	}
	return clean.String()
}
