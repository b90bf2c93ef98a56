package console_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"keyward/broker/internal/console/consoletest"
	"keyward/broker/internal/httpapi"
)

func credentials(password string) url.Values {
	return url.Values{"account": {"Harbour Clinic"}, "user": {"ada"}, "password": {password}, "next": {"/policies?x=1"}}
}

// B-05: log on, the header on every page, log off.
func TestLogOn_andOff(t *testing.T) {
	t.Parallel()
	p := newSite(t).stranger()
	p.get("/policies?x=1").leadsTo(t, "a page without a session", "/logon?next=%2Fpolicies%3Fx%3D1")
	wrong := p.post("/logon", credentials("wrong"))
	wrong.wants(t, "a wrong password", http.StatusUnauthorized, "Log-on failed", `value="Harbour Clinic"`)
	if strings.Contains(wrong.body, "wrong\"") {
		t.Error("the page gives the password back")
	}
	right := p.post("/logon", credentials(consoletest.Password))
	right.leadsTo(t, "log-on", "/policies?x=1")
	cookie := right.header.Get("Set-Cookie")
	for _, attribute := range []string{"HttpOnly", "secure", "SameSite=Strict", "path=/"} {
		if !strings.Contains(strings.ToLower(cookie), strings.ToLower(attribute)) {
			t.Errorf("the session cookie lacks %s: %s", attribute, cookie)
		}
	}
	p.token = p.cookies[httpapi.SessionCookie]
	p.get("/policies").wants(t, "after log-on", http.StatusOK, "Logged in as: <strong>ada</strong>", ">Log Off<")
	p.post("/logoff", nil).leadsTo(t, "log-off", "/logon")
	p.cookies[httpapi.SessionCookie] = p.token
	p.get("/policies").leadsTo(t, "the old session after log-off", "/logon?next=%2Fpolicies")
}

func TestLogOn_leadsNowhereElse(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, next := range []string{"https://evil.example/", "//evil.example/", `/\evil.example`, "javascript:alert(1)", "/%2f/evil.example", "///evil.example", "evil", "/\t/evil.example",
		"https:evil.example", "/ok\r\nSet-Cookie: a=b"} {
		form := credentials(consoletest.Password)
		form.Set("next", next)
		a := s.stranger().post("/logon", form)
		u, err := url.Parse(a.location)
		if a.status != http.StatusSeeOther || err != nil || u.Host != "" || u.Scheme != "" || !strings.HasPrefix(a.location, "/") ||
			strings.HasPrefix(a.location, "//") || strings.HasPrefix(a.location, `/\`) {
			t.Errorf("next %q leads to %q (%d)", next, a.location, a.status)
		}
	}
}

func TestHeaders_onEveryAnswer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, path := range []string{"/logon", "/instances", "/inventory/devices/none"} {
		a := s.as("account-administrator").get(path)
		policy := a.header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "require-trusted-types-for 'script'", "trusted-types ui", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy lacks %q: %s", path, part, policy)
			}
		}
		if strings.Contains(policy, "unsafe") {
			t.Errorf("%s: the policy has an exception: %s", path, policy)
		}
		if a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: headers %v", path, a.header)
		}
	}
}

func TestPreferences_areKeptAndLeadBack(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("auditor")
	p.post("/preferences", url.Values{"theme": {"dark"}, "here": {"/logs?type=key"}}).leadsTo(t, "dark", "/logs?type=key")
	p.post("/preferences", url.Values{"sidebar": {"collapsed"}, "here": {"//evil.example"}}).leadsTo(t, "collapsed", "/")
	p.get("/logs").wants(t, "page", http.StatusOK, `data-theme="dark"`, "framed collapsed")
	p.post("/preferences", url.Values{"theme": {`"><script>`}}).leadsTo(t, "rubbish", "/")
	p.post("/preferences", url.Values{"theme": {"system"}, "sidebar": {"expanded"}}).leadsTo(t, "back", "/")
	if page := p.get("/logs").body; strings.Contains(page, "data-theme=") || strings.Contains(page, "framed collapsed") {
		t.Error("the preferences are not taken back")
	}
}
