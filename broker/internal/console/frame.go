package console

import (
	"net/http"
	"strings"

	"keyward/broker/internal/httpapi"
	"keyward/broker/internal/problem"
	"keyward/rbac"
	"keyward/ui"
)

// The console's own cookies; none of them grants anything.
const (
	cookieDone    = "keyward_done"
	cookieTheme   = "keyward_theme"
	cookieSidebar = "keyward_sidebar"
)

// frame fills what surrounds a page's content.
func (v *visit) frame(title, intro string, crumbs ...ui.Link) ui.Frame {
	f := ui.Frame{Title: title, Intro: intro, Crumbs: crumbs, Here: localPath(v.http.OriginalURL(), "/")}
	if v.http.Method() != http.MethodGet {
		f.Here = "/"
	}
	if theme := v.http.Cookies(cookieTheme); theme == "light" || theme == "dark" {
		f.Theme = theme
	}
	if v.token == "" {
		return f
	}
	f.Collapsed = v.http.Cookies(cookieSidebar) == "collapsed"
	f.Viewer = &ui.Viewer{Name: v.p.UserName, Role: roleTitle(string(v.p.Role)), Account: v.account.Name}
	f.CSRF = httpapi.CSRFToken(v.token)
	f.Nav = v.nav()
	if flash, ok := doneMessages[v.http.Cookies(cookieDone)]; ok {
		f.Flash = &flash
		v.dropCookie(cookieDone)
	}
	return f
}

// menu is the main menu; an entry appears for those who may open it. Only pages that exist have one: Reports,
// notifications and the licence get theirs with their pages.
var menu = []struct {
	group, icon string
	items       []menuItem
}{
	{"", "", []menuItem{
		{"Running Instances", "activity", "/instances", rbac.RunningInstancesRead},
		{"Policies", "policy", "/policies", rbac.PoliciesRead},
	}},
	{"Inventory", "server", []menuItem{
		{"Images", "image", "/inventory/images", rbac.ImagesRead},
		{"Devices", "disk", "/inventory/devices", rbac.DevicesRead},
		{"Jobs", "progress", jobsPath, rbac.DevicesRead},
		{"Key Exports", "download", exportsPath, rbac.KeyExportsRead},
	}},
	{"Logs", "list", []menuItem{
		{"Query", "search", "/logs", rbac.LogsRead},
		{"Archived", "list", "/logs/archived", rbac.LogsRead},
		{"Proofs", "lock", "/logs/proofs", rbac.LogsRead},
	}},
	{"Administration", "cog", []menuItem{
		{"User Management", "users", "/admin/users", rbac.UsersRead},
		{"Deep Security Settings", "eye", deepSecurityPath, rbac.DeepSecurityRead},
		{"Recovery Key", "key", recoveryPath, rbac.RecoveryKeyRead},
		{"Key Export Settings", "download", exportSettingsPath, rbac.ExportSettingsRead},
		{"Change Password", "key", "/admin/password", rbac.PasswordOwn},
		{"Second Factor", "lock", "/admin/second-factor", rbac.SecondFactorOwn},
		{"Sessions", "user", "/admin/sessions", rbac.SessionsOwn},
		{"Time Information", "clock", "/admin/time", rbac.TimeSettingsRead},
	}},
}

type menuItem struct {
	title, icon, url string
	op               rbac.Operation
}

// alsoUnder are paths that belong to a menu entry although they do not start with its address.
var alsoUnder = map[string]string{
	"/key-requests": "/instances", "/inventory/raid-sets": "/inventory/devices",
	"/admin/roles": "/admin/users", "/admin/account": "/admin/users", "/admin/second-factor-settings": "/admin/users", "/admin/tokens": "/admin/users",
}

func (v *visit) nav() []ui.NavGroup {
	path := v.http.Path()
	for prefix, entry := range alsoUnder {
		if under(path, prefix) {
			path = entry
		}
	}
	here := "" // the entry that says most of the path
	for _, group := range menu {
		for _, item := range group.items {
			if under(path, item.url) && len(item.url) > len(here) {
				here = item.url
			}
		}
	}
	var nav []ui.NavGroup
	for _, group := range menu {
		entry := ui.NavGroup{Title: group.group, Icon: group.icon}
		for _, item := range group.items {
			if !v.may(item.op) {
				continue
			}
			current := item.url == here
			if group.group == "" {
				nav = append(nav, ui.NavGroup{Title: item.title, Icon: item.icon, URL: item.url, Current: current})
				continue
			}
			entry.Items = append(entry.Items, ui.NavItem{Title: item.title, Icon: item.icon, URL: item.url, Current: current})
		}
		if len(entry.Items) > 0 {
			nav = append(nav, entry)
		}
	}
	return nav
}

func under(path, entry string) bool { return path == entry || strings.HasPrefix(path, entry+"/") }

// showStart leads to the first page that the viewer's role may open.
func showStart(v *visit) error {
	for _, group := range menu {
		for _, item := range group.items {
			if v.may(item.op) {
				return v.http.Redirect(item.url, http.StatusSeeOther)
			}
		}
	}
	return problem.Forbidden(string(rbac.RunningInstancesRead))
}

func roleTitle(name string) string {
	for _, role := range rbac.Roles() {
		if role.Name == name {
			return role.Title
		}
	}
	return name
}

func (v *visit) problemPage(p *problem.Problem, request string) ui.ProblemPage {
	page := ui.ProblemPage{Frame: v.frame(p.Title, ""), Status: p.Status, Detail: p.Detail, Hint: p.Hint, Request: request}
	for _, name := range sortedKeys(p.Fields) {
		page.Fields = append(page.Fields, ui.Pair{Label: name, Value: p.Fields[name]})
	}
	page.Back = ui.Link{Text: "Back to the start page", URL: "/"}
	if v.token == "" {
		page.Back = ui.Link{Text: "Log on", URL: "/logon"}
	}
	return page
}
