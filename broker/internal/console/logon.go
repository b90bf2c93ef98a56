package console

import (
	"net/http"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/account"
	"keyward/broker/internal/httpapi"
	"keyward/broker/internal/problem"
	"keyward/ui"
)

func showLogOn(v *visit) error {
	return v.show(http.StatusOK, "logon", v.logOnPage("", "", v.query("next")))
}

func (v *visit) logOnPage(account, user, next string) ui.LogOnPage {
	return ui.LogOnPage{
		Frame:    v.frame("Log On", "Keys for encrypted devices, given only to machines that pass."),
		Account:  ui.Field{Name: "account", Label: "Account", Type: "text", Value: account, Required: true, MaxLength: 64, Autocomplete: "organization"},
		User:     ui.Field{Name: "user", Label: "User", Type: "text", Value: user, Required: true, MaxLength: 254, Autocomplete: "username"},
		Password: ui.Field{Name: "password", Label: "Password", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "current-password"},
		Next:     localPath(next, "/"),
	}
}

func logOn(v *visit) error {
	in := api.LogOn{Account: v.text("account"), User: v.text("user"), Password: v.form("password")}
	next := localPath(v.form("next"), "/")
	session, err := v.Accounts.LogOn(v.ctx, in, v.http.IP(), v.http.Get(fiber.HeaderUserAgent))
	if err != nil {
		p, known := problem.From(err)
		if !known {
			return err
		}
		page := v.logOnPage(in.Account, in.User, next)
		page.Flash = &ui.Flash{Tone: ui.ToneBad, Title: p.Title, Text: p.Detail, Hint: p.Hint}
		return v.show(p.Status, "logon", page)
	}
	httpapi.SetSession(v.http, session.Token, session.ExpiresAt)
	if session.Stage == api.StageCode {
		// The cookie must outlive the code's few minutes; how long the session counts is the broker's business.
		httpapi.SetSession(v.http, session.Token, session.ExpiresAt.Add(account.SessionLife))
		next = withNext("/logon/code", next)
	}
	return v.http.Redirect(next, fiber.StatusSeeOther)
}

func logOff(v *visit) error {
	if err := v.Accounts.LogOff(v.ctx, v.p); err != nil {
		return err
	}
	httpapi.ClearSession(v.http)
	return v.http.Redirect("/logon", fiber.StatusSeeOther)
}
