package console

import (
	"net/http"

	"keyward/broker/api"
	"keyward/rbac"
	"keyward/ui"
)

var crumbAdmin = ui.Link{Text: "Administration"}

const introUsers = "Here you can view who may use this account, what each role may do, and how machines join."

// userTabs are the parts of User Management.
func (v *visit) userTabs() []ui.Tab {
	path := v.http.Path()
	var tabs []ui.Tab
	for _, t := range []struct {
		title, url string
		op         rbac.Operation
	}{{"Users", "/admin/users", rbac.UsersRead}, {"Roles", "/admin/roles", rbac.RolesRead},
		{"Second Factor", "/admin/second-factor-settings", rbac.SecondFactorSettingsRead}, {"Account", "/admin/account", rbac.AccountRead}, {"Enrolment Tokens", "/admin/tokens", rbac.EnrolmentTokensRead}} {
		if v.may(t.op) {
			tabs = append(tabs, ui.Tab{Title: t.title, URL: t.url, Current: under(path, t.url)})
		}
	}
	return tabs
}

func showUsers(v *visit) error {
	users, err := v.Accounts.Users(v.ctx, v.p)
	if err != nil {
		return err
	}
	page := ui.UsersPage{Frame: v.frame("User Management", introUsers, crumbAdmin), Tabs: v.userTabs(), CanWrite: v.may(rbac.UsersWrite)}
	if page.CanWrite {
		page.Create = &ui.Button{Text: "Add User", Icon: "plus", URL: "/admin/users/new", Primary: true}
	}
	for _, u := range users {
		row := ui.UserRow{ID: u.ID, User: ui.Link{Text: u.Name, URL: "/admin/users/" + u.ID}, Name: u.DisplayName, Email: u.Email,
			Role: roleTitle(string(u.Role)), Status: v.userBadge(u), LastLogOn: v.whenOptional(u.LastLogOnAt), Self: u.ID == v.p.UserID}
		page.Rows = append(page.Rows, row)
	}
	return v.show(http.StatusOK, "users", page)
}

func (v *visit) userBadge(u api.User) ui.Badge {
	if u.LockedUntil != nil && u.LockedUntil.After(v.now) {
		return ui.Badge{Text: "Locked until " + v.exact(u.LockedUntil), Icon: "lock", Tone: ui.ToneBad}
	}
	return ui.Badge{Text: "Active", Icon: "check", Tone: ui.ToneGood}
}

func newUser(v *visit) error {
	return v.show(http.StatusOK, "form", v.userPage("", api.UserWrite{Role: api.RoleDataAnalyst}))
}

func (v *visit) userPage(id string, in api.UserWrite) ui.FormPage {
	write := v.may(rbac.UsersWrite)
	page := ui.FormPage{
		Frame:  v.frame("Add User", "Here you can give a person a log-on with exactly one role.", crumbAdmin, ui.Link{Text: "User Management", URL: "/admin/users"}),
		Action: "/admin/users/new", Submit: "Save", Cancel: "/admin/users",
	}
	role := ui.Field{Name: "role", Label: "Role", Type: "select", Required: true, Disabled: !write, Help: "What a role may do is shown under Roles."}
	for _, r := range rbac.Roles() {
		role.Options = append(role.Options, ui.Option{Value: r.Name, Label: r.Title, Selected: r.Name == string(in.Role)})
	}
	password := ui.Field{Name: "password", Label: "Password", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "new-password", Strength: true,
		Help: "Tell it to the user, who changes it after the first log-on."}
	page.Fields = []ui.Field{
		{Name: "name", Label: "Log-on name", Type: "text", Value: in.Name, Required: true, MaxLength: 64, Disabled: !write, Autocomplete: "off",
			Help: "Letters, digits and . _ @ + -"},
		{Name: "display_name", Label: "Name", Type: "text", Value: in.DisplayName, MaxLength: 128, Disabled: !write, Autocomplete: "off"},
		{Name: "email", Label: "Email", Type: "email", Value: in.Email, MaxLength: 254, Disabled: !write, Autocomplete: "off"},
		role,
	}
	if id != "" {
		page.Frame = v.frame("User Information", "Here you can change a user's details and role.", crumbAdmin, ui.Link{Text: "User Management", URL: "/admin/users"})
		page.Action = "/admin/users/" + id
		password.Label, password.Required = "New password", false
		password.Help = "Leave empty to keep the password."
	}
	if !write {
		page.Submit = ""
		return page
	}
	page.Fields = append(page.Fields, password)
	return page
}

func (v *visit) userForm() api.UserWrite {
	return api.UserWrite{Name: v.text("name"), DisplayName: v.text("display_name"), Email: v.text("email"),
		Role: api.Role(v.form("role")), Password: v.form("password")}
}

func createUser(v *visit) error {
	in := v.userForm()
	if _, err := v.Accounts.CreateUser(v.ctx, v.p, in); err != nil {
		return v.userAgain(err, "", in)
	}
	return v.to("/admin/users", "created")
}

func showUser(v *visit) error {
	u, err := v.Accounts.User(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page := v.userPage(u.ID, api.UserWrite{Name: u.Name, DisplayName: u.DisplayName, Email: u.Email, Role: u.Role})
	page.Facts = append(page.Facts, ui.Pair{Label: "Second factor", Value: "none"})
	if u.SecondFactorSince != nil {
		page.Facts[0].Value = "since " + v.exact(u.SecondFactorSince)
		if v.may(rbac.UsersWrite) && u.ID != v.p.UserID {
			page.Links = append(page.Links, ui.Button{Text: "Reset second factor", Icon: "lock", URL: "/admin/users/" + u.ID + "/reset-factor", Dialog: true, Danger: true})
		}
	}
	return v.show(http.StatusOK, "form", page)
}

func saveUser(v *visit) error {
	in := v.userForm()
	if _, err := v.Accounts.UpdateUser(v.ctx, v.p, v.id(), in); err != nil {
		return v.userAgain(err, v.id(), in)
	}
	return v.to("/admin/users", "saved")
}

func (v *visit) userAgain(cause error, id string, in api.UserWrite) error {
	status, flash, fields, ok := refusal(cause)
	if !ok {
		return cause
	}
	page := v.userPage(id, in)
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}

func askDeleteUsers(v *visit) error {
	ids, err := v.chosenIDs(v.queries("id"))
	if err != nil {
		return err
	}
	page := ui.FormPage{Frame: v.frame("Delete Users", "", crumbAdmin, ui.Link{Text: "User Management", URL: "/admin/users"}),
		Action: "/admin/users/delete", Lead: []string{"Their sessions end at once. What they did stays in the log."},
		Submit: "Delete", Danger: true, Cancel: "/admin/users"}
	for _, id := range ids {
		u, err := v.Accounts.User(v.ctx, v.p, id)
		if err != nil {
			return err
		}
		page.Hidden = append(page.Hidden, ui.Pair{Label: "id", Value: u.ID})
		page.Facts = append(page.Facts, ui.Pair{Label: u.Name, Value: roleTitle(string(u.Role))})
	}
	return v.show(http.StatusOK, "form", page)
}

func deleteUsers(v *visit) error {
	ids, err := v.chosenIDs(v.forms("id"))
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := v.Accounts.DeleteUser(v.ctx, v.p, id); err != nil {
			return err
		}
	}
	return v.to("/admin/users", "deleted")
}
