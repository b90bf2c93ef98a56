package console

import (
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/rbac"
	"keyward/ui"
)

func showPassword(v *visit) error {
	return v.show(http.StatusOK, "form", v.passwordPage())
}

func (v *visit) passwordPage() ui.FormPage {
	return ui.FormPage{
		Frame:  v.frame("Change Password", "Here you can change your own password. Your other sessions end when it changes.", crumbAdmin),
		Action: "/admin/password", Submit: "Save",
		Fields: []ui.Field{
			{Name: "current", Label: "Current password", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "current-password"},
			{Name: "new", Label: "New password", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "new-password", Strength: true,
				Help: "At least 8 characters with an upper-case letter, a lower-case letter, a numeral and a special character. Longer is stronger."},
			{Name: "confirm", Label: "Confirm new password", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "new-password"},
		},
	}
}

func savePassword(v *visit) error {
	err := error(problem.Invalid("confirm", "this differs from the new password"))
	if v.form("new") == v.form("confirm") {
		err = v.Accounts.ChangePassword(v.ctx, v.p, api.PasswordChange{Current: v.form("current"), New: v.form("new")})
	}
	if err == nil {
		return v.to("/admin/password", "password")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page := v.passwordPage()
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}

func showSessions(v *visit) error {
	sessions, err := v.Accounts.Sessions(v.ctx, v.p)
	if err != nil {
		return err
	}
	page := ui.SessionsPage{Frame: v.frame("Sessions", "Here you can view where you are logged on, and end sessions that you do not know.", crumbAdmin)}
	for _, s := range sessions {
		page.Rows = append(page.Rows, ui.SessionRow{ID: s.ID, Address: s.Address, UserAgent: s.UserAgent, Created: v.when(s.CreatedAt),
			LastSeen: v.when(s.LastSeenAt), Expires: v.when(s.ExpiresAt), Current: s.Current, Revoke: "/admin/sessions/" + s.ID + "/end"})
	}
	return v.show(http.StatusOK, "sessions", page)
}

func endSession(v *visit) error {
	if v.id() == v.p.SessionID {
		return logOff(v)
	}
	if err := v.Accounts.EndSession(v.ctx, v.p, v.id()); err != nil {
		return err
	}
	return v.to("/admin/sessions", "session-ended")
}

func showTime(v *visit) error {
	return v.show(http.StatusOK, "form", v.timePage(api.TimeSettings{TimeZone: v.account.TimeZone, DateFormat: v.account.DateFormat}))
}

func (v *visit) timePage(in api.TimeSettings) ui.FormPage {
	write := v.may(rbac.TimeSettingsWrite)
	zones, layouts := v.Accounts.TimeChoices()
	zone := ui.Field{Name: "time_zone", Label: "Time zone", Type: "select", Disabled: !write}
	for _, z := range zones {
		zone.Options = append(zone.Options, ui.Option{Value: z, Label: z, Selected: z == in.TimeZone})
	}
	zone.Options = keep(zone.Options, in.TimeZone)
	format := ui.Field{Name: "date_format", Label: "Date format", Type: "select", Disabled: !write}
	for _, l := range layouts {
		format.Options = append(format.Options, ui.Option{Value: l, Label: v.now.In(v.zone).Format(l), Selected: l == in.DateFormat})
	}
	format.Options = keep(format.Options, in.DateFormat)
	page := ui.FormPage{
		Frame:  v.frame("Time Information", "Here you can choose how times are shown to everybody in this account. Logs stay in UTC.", crumbAdmin),
		Action: "/admin/time", Fields: []ui.Field{zone, format}, Submit: "Save",
	}
	if !write {
		page.Submit = ""
	}
	return page
}

func saveTime(v *visit) error {
	in := api.TimeSettings{TimeZone: v.form("time_zone"), DateFormat: v.form("date_format")}
	err := v.Accounts.SetTimeSettings(v.ctx, v.p, in)
	if err == nil {
		return v.to("/admin/time", "saved")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page := v.timePage(in)
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
