package console_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"keyward/broker/internal/console"
	"keyward/broker/internal/httpapi"
	"keyward/rbac"
)

// examples are things of the site that fit a route's {id}.
var examples = []struct{ prefix, id string }{
	{"/instances/", "instance-1"}, {"/key-requests/", "request-1"}, {"/policies/", "policy-2"}, {"/inventory/images/", "image-1"},
	{"/inventory/devices/", "device-3"}, {"/inventory/raid-sets/", "device-9"}, {"/admin/users/", "user-2"}, {"/admin/tokens/", "token-1"}, {"/admin/sessions/", "none"},
	{"/notices/", "notice-1"}, {"/inventory/exports/", "export-1"},
}

func pathOf(r console.Route) string {
	path := r.Path
	for _, e := range examples {
		if strings.HasPrefix(path, e.prefix) {
			path = strings.Replace(path, ":id", e.id, 1)
		}
	}
	return path
}

// C-10, A-05: what the matrix refuses is refused by the server, for every role and every route, and nothing else is.
func TestRoutes_everyRoleOnEveryRoute(t *testing.T) {
	t.Parallel()
	operations := map[rbac.Operation]bool{}
	for _, op := range rbac.Operations() {
		operations[op] = true
	}
	for _, r := range console.Routes() {
		if !operations[r.Operation] {
			t.Errorf("%s %s declares %q, which is no operation of the matrix", r.Method, r.Path, r.Operation)
		}
		for _, role := range rbac.Roles() {
			s := newSite(t) // a fresh site, so that one role's write does not change what another finds
			p := s.as(role.Name)
			var a answer
			if r.Method == http.MethodGet {
				a = p.get(pathOf(r))
			} else {
				a = p.post(pathOf(r), nil)
			}
			allowed := s.access.Allowed(role.Name, r.Operation)
			switch {
			case allowed && (a.status == http.StatusForbidden || a.status == http.StatusNotFound || a.status >= 500):
				t.Errorf("%s may perform %s, but %s %s answers %d\n%.400s", role.Name, r.Operation, r.Method, r.Path, a.status, main(a.body))
			case !allowed && a.status != http.StatusForbidden:
				t.Errorf("%s may not perform %s, but %s %s answers %d", role.Name, r.Operation, r.Method, r.Path, a.status)
			}
		}
	}
}

func TestRoutes_withoutSessionNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, r := range console.Routes() {
		p := s.stranger()
		if r.Method == http.MethodPost {
			p.post(pathOf(r), nil).wants(t, r.Path, http.StatusUnauthorized)
			continue
		}
		a := p.get(pathOf(r))
		if r.Path == "/events/rows" {
			a.wants(t, r.Path, http.StatusUnauthorized)
		} else if a.status != http.StatusSeeOther || !strings.HasPrefix(a.location, "/logon") {
			t.Errorf("%s without a session answers %d to %q", r.Path, a.status, a.location)
		}
	}
}

func TestRoutes_writesNeedTheSessionsOwnTokenAndOurOwnPage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := httpapi.CSRFToken(s.broker.Session("kim"))
	for _, r := range console.Routes() {
		if r.Method != http.MethodPost {
			continue
		}
		for name, token := range map[string]string{"no token": "", "another session's token": other, "rubbish": "x"} {
			p := s.as("account-administrator")
			p.post(pathOf(r), url.Values{httpapi.CSRFField: {token}}).wants(t, r.Path+" with "+name, http.StatusForbidden)
		}
		for header, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"} {
			p := s.as("account-administrator")
			p.headers = map[string]string{header: value}
			p.post(pathOf(r), nil).wants(t, r.Path+" from "+value, http.StatusForbidden)
		}
	}
	p := s.stranger()
	p.headers = map[string]string{"Sec-Fetch-Site": "cross-site"}
	p.post("/logon", url.Values{"account": {"x"}}).wants(t, "log-on from another site", http.StatusForbidden)
}

// C-10: what a role may not do is not offered either.
func TestPages_offerOnlyWhatIsPermitted(t *testing.T) {
	t.Parallel()
	cases := []struct {
		role, path     string
		offers, absent []string
	}{
		{"account-administrator", "/key-requests/request-1", []string{">Approve<", ">Deny<"}, nil},
		{"key-approver", "/key-requests/request-1", []string{">Approve<", ">Deny<"}, []string{"Assign to Policy"}},
		{"auditor", "/key-requests/request-1", []string{"that your role cannot take"}, []string{">Approve<", ">Deny<", "/approve"}},
		{"security-administrator", "/key-requests/request-1", nil, []string{">Approve<", ">Deny<", `href="/policies`, `href="/inventory/images`}},
		{"account-administrator", "/key-requests/request-3", []string{"Assign to Policy"}, []string{">Approve<"}},
		{"key-approver", "/key-requests/request-3", []string{"Account Administrator puts"}, []string{"Assign to Policy", ">Approve<"}},
		{"account-administrator", "/key-requests/request-4", []string{">Revoke<"}, []string{">Approve<"}},
		{"auditor", "/key-requests/request-4", nil, []string{">Revoke<"}},
		{"account-administrator", "/inventory/devices", []string{">Encrypt<", ">Delete<", ">Create RAID Set<"}, []string{">Export<"}},
		{"security-administrator", "/inventory/devices", []string{">Export<"}, []string{">Encrypt<", ">Delete<", ">Create RAID Set<"}},
		{"key-approver", "/inventory/devices", nil, []string{">Export<", ">Encrypt<", ">Delete<", ">Create RAID Set<", `type="checkbox"`}},
		{"account-administrator", "/inventory/devices/device-3", []string{">Encrypt<", ">Unconfigure<", ">Save<"}, []string{">Export<"}},
		{"account-administrator", "/inventory/devices/device-4", []string{">Copy Configuration from Another Device<"}, []string{">Encrypt<", ">Unconfigure<"}},
		{"security-administrator", "/inventory/devices/device-1", []string{">Export<"}, []string{">Save<", ">Unconfigure<"}},
		{"account-administrator", "/inventory/devices/device-1", []string{">Rotate Key<"}, []string{">Cancel Rotation<"}},
		{"account-administrator", "/inventory/devices/device-2", []string{">Cancel Rotation<", "cannot give a volume"}, []string{">Rotate Key<"}},
		{"security-administrator", "/inventory/devices/device-2", []string{"cannot give a volume"}, []string{">Rotate Key<", ">Cancel Rotation<"}},
		{"security-administrator", "/inventory/exports/export-1", []string{">Approve<", ">Deny<"}, []string{">Export<"}},
		{"security-administrator", "/inventory/exports/export-2", []string{">Export<", ">Cancel the Export<"}, []string{">Approve<", ">Deny<"}},
		{"auditor", "/inventory/exports/export-1", []string{"that your role cannot take"}, []string{">Approve<", ">Deny<", ">Export<"}},
		{"security-administrator", "/admin/recovery-key", []string{">Replace<", ">Remove<"}, nil},
		{"auditor", "/admin/recovery-key", []string{"2 of 3 shares", "Out of date"}, []string{">Replace<", ">Remove<"}},
		{"account-administrator", "/admin/export-settings", []string{">Save<"}, nil},
		{"security-administrator", "/admin/export-settings", []string{"People who must agree"}, []string{">Save<"}},
		{"account-administrator", "/policies", []string{">Add Policy<", ">Delete<"}, nil},
		{"key-approver", "/policies", nil, []string{">Add Policy<", ">Delete<"}},
		{"key-approver", "/policies/policy-2", nil, []string{">Save<", ">Add Rule<"}},
		{"auditor", "/inventory/images/image-1", nil, []string{">Save<"}},
		{"data-analyst", "/logs", []string{"Export CSV"}, nil},
		{"account-administrator", "/admin/users", []string{">Add User<", ">Enrolment Tokens<"}, nil},
		{"auditor", "/admin/users", nil, []string{">Add User<", ">Delete<"}},
		{"auditor", "/admin/tokens", nil, []string{">Create Token<", ">Delete<"}},
		{"auditor", "/admin/time", nil, []string{">Save<"}},
		{"account-administrator", "/admin/deep-security", []string{">Save<", ">Test Connection<"}, nil},
		{"auditor", "/admin/deep-security", []string{"Deep Security Settings"}, []string{">Save<", ">Test Connection<"}},
	}
	s := newSite(t)
	for _, c := range cases {
		a := s.as(c.role).get(c.path)
		a.wants(t, c.role+" on "+c.path, http.StatusOK, c.offers...)
		for _, text := range c.absent {
			if strings.Contains(main(a.body), text) {
				t.Errorf("%s on %s is offered %q", c.role, c.path, text)
			}
		}
	}
}

// D-01: the menu has what the role may open.
func TestMenu_byRole(t *testing.T) {
	t.Parallel()
	all := map[string]string{"Running Instances": "/instances", "Policies": "/policies", "Images": "/inventory/images", "Devices": "/inventory/devices",
		"Query": "/logs", "User Management": "/admin/users", "Change Password": "/admin/password", "Sessions": "/admin/sessions", "Time Information": "/admin/time",
		"Deep Security Settings": "/admin/deep-security", "Jobs": "/inventory/jobs", "Recovery Key": "/admin/recovery-key", "Key Exports": "/inventory/exports", "Key Export Settings": "/admin/export-settings"}
	lacks := map[string][]string{
		"account-administrator":  {"Key Exports"},
		"security-administrator": {"Policies", "Images", "User Management", "Time Information", "Deep Security Settings"},
		"data-analyst":           {"Running Instances", "Policies", "Images", "Devices", "Jobs", "User Management", "Time Information", "Deep Security Settings", "Recovery Key", "Key Exports", "Key Export Settings"},
		"auditor":                nil,
		"key-approver":           {"Query", "User Management", "Time Information", "Deep Security Settings", "Recovery Key", "Key Exports", "Key Export Settings"},
	}
	s := newSite(t)
	for role, missing := range lacks {
		p := s.as(role)
		page := p.get("/admin/password").body
		menu, _, _ := strings.Cut(page[strings.Index(page, `id="nav"`):], "</nav>")
		absent := map[string]bool{}
		for _, title := range missing {
			absent[title] = true
		}
		for title, path := range all {
			if present := strings.Contains(menu, `href="`+path+`"`); present == absent[title] {
				t.Errorf("%s: menu entry %s present %v", role, title, present)
			}
		}
		start := map[bool]string{true: "/logs", false: "/instances"}[absent["Running Instances"]]
		p.get("/").leadsTo(t, role+" at the start", start)
	}
}
