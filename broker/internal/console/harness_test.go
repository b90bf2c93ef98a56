package console_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/internal/console"
	"keyward/broker/internal/console/consoletest"
	"keyward/broker/internal/httpapi"
	"keyward/rbac"
)

// site is a console over invented data.
type site struct {
	t      *testing.T
	broker *consoletest.Broker
	access *rbac.Enforcer
	app    *fiber.App
}

var testTime = time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)

func newSite(t *testing.T) *site {
	t.Helper()
	broker := consoletest.New(func() time.Time { return testTime })
	deps, err := broker.Deps()
	if err != nil {
		t.Fatal(err)
	}
	access, err := rbac.New()
	if err != nil {
		t.Fatal(err)
	}
	app := httpapi.NewApp(httpapi.AppOptions{Name: "test", Logger: deps.Logger, Base: context.Background()})
	console.Mount(app, deps)
	return &site{t: t, broker: broker, access: access, app: app}
}

// person is somebody with a browser.
type person struct {
	*site
	token   string
	cookies map[string]string
	headers map[string]string
}

func (s *site) as(role string) *person {
	token := s.broker.Session(consoletest.UserOf(role))
	return &person{site: s, token: token, cookies: map[string]string{httpapi.SessionCookie: token}, headers: map[string]string{"Sec-Fetch-Site": "same-origin"}}
}

func (s *site) stranger() *person {
	return &person{site: s, cookies: map[string]string{}, headers: map[string]string{"Sec-Fetch-Site": "same-origin"}}
}

type answer struct {
	status   int
	location string
	header   http.Header
	body     string
}

func (p *person) get(path string) answer {
	p.t.Helper()
	return p.send(httptest.NewRequest(http.MethodGet, path, nil))
}

// post sends a form with the session's token, unless the form brings one.
func (p *person) post(path string, form url.Values) answer {
	p.t.Helper()
	if form == nil {
		form = url.Values{}
	}
	if !form.Has(httpapi.CSRFField) {
		form.Set(httpapi.CSRFField, httpapi.CSRFToken(p.token))
	}
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return p.send(r)
}

func (p *person) send(r *http.Request) answer {
	p.t.Helper()
	for name, value := range p.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for name, value := range p.headers {
		r.Header.Set(name, value)
	}
	response, err := p.app.Test(r, int(20*time.Second/time.Millisecond))
	if err != nil {
		p.t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, c := range response.Cookies() {
		if c.MaxAge < 0 || c.Value == "" {
			delete(p.cookies, c.Name)
		} else {
			p.cookies[c.Name] = c.Value
		}
	}
	return answer{response.StatusCode, response.Header.Get("Location"), response.Header, string(body)}
}

func (a answer) wants(t *testing.T, what string, status int, texts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("%s: status %d, want %d\n%.600s", what, a.status, status, main(a.body))
	}
	for _, text := range texts {
		if !strings.Contains(a.body, text) {
			t.Errorf("%s: the page does not say %q", what, text)
		}
	}
}

func (a answer) leadsTo(t *testing.T, what, location string) {
	t.Helper()
	if a.status != http.StatusSeeOther || a.location != location {
		t.Errorf("%s: status %d to %q, want 303 to %q\n%.600s", what, a.status, a.location, location, main(a.body))
	}
}

func main(page string) string {
	if _, content, ok := strings.Cut(page, "<main"); ok {
		return content
	}
	return page
}
