package console

import (
	"net/http"
	"strconv"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/rbac"
	"keyward/ui"
)

// stages are the pages that a session may use although it is not complete, by path.
var stages = map[string][]api.Stage{
	"/logon/code":                  {api.StageCode},
	"/logoff":                      {api.StageCode, api.StageEnrol},
	"/admin/second-factor":         {api.StageEnrol},
	"/admin/second-factor/start":   {api.StageEnrol},
	"/admin/second-factor/confirm": {api.StageEnrol},
}

// complete leads a session that is not complete to the page that completes it.
func (v *visit) complete() error {
	to := "/admin/second-factor"
	if v.p.Stage == api.StageCode {
		to = "/logon/code"
	}
	if v.http.Method() != http.MethodGet {
		return v.http.Redirect(to, fiber.StatusSeeOther)
	}
	return v.http.Redirect(withNext(to, localPath(v.http.OriginalURL(), "/")), fiber.StatusSeeOther)
}

func codeField() ui.Field {
	return ui.Field{Name: "code", Label: "Code", Type: "text", Required: true, MaxLength: 64, Autocomplete: "one-time-code",
		Help: "Six digits of your authenticator, or a recovery code."}
}

func showLogOnCode(v *visit) error {
	if v.p.Stage == api.StageComplete {
		return v.http.Redirect("/", fiber.StatusSeeOther)
	}
	return v.show(http.StatusOK, "logon-code", v.logOnCodePage(v.query("next")))
}

func (v *visit) logOnCodePage(next string) ui.LogOnCodePage {
	page := ui.LogOnCodePage{Frame: v.frame("Second Factor", "Your password is right. One thing more, and you are in."), Code: codeField(), Next: localPath(next, "/")}
	page.Viewer, page.Nav = nil, nil // nothing else can be opened yet
	return page
}

func logOnCode(v *visit) error {
	next := localPath(v.form("next"), "/")
	_, err := v.Accounts.ShowFactor(v.ctx, v.p, api.FactorCode{Code: v.text("code")})
	if err == nil {
		return v.http.Redirect(next, fiber.StatusSeeOther)
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page := v.logOnCodePage(next)
	one := []ui.Field{page.Code}
	explain(flash, mark(fields, one))
	page.Code, page.Flash = one[0], flash
	return v.show(status, "logon-code", page)
}

func showFactor(v *visit) error {
	page, err := v.factorPage()
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "second-factor", page)
}

func (v *visit) factorPage() (ui.SecondFactorPage, error) {
	page := ui.SecondFactorPage{Frame: v.frame("Second Factor", "Here you can protect your log-on with an authenticator besides your password.", crumbAdmin)}
	if v.p.Stage != api.StageComplete {
		page.Nav = nil
		page.Flash = &ui.Flash{Tone: ui.ToneInfo, Title: "This account requires a second factor", Text: "Set one up to go on."}
	}
	info, err := v.Accounts.FactorInfo(v.ctx, v.p)
	if err != nil {
		return page, err
	}
	if info.Since == nil {
		page.Forms = []ui.FactorForm{{Title: "Set up a second factor", Action: "/admin/second-factor/start", Submit: "Begin",
			Text:   "You need an app that makes codes by time (TOTP). From then on you are asked for a code when you log on.",
			Fields: []ui.Field{{Name: "password", Label: "Your password", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "current-password"}}}}
		return page, nil
	}
	page.Facts = []ui.Pair{{Label: "Set up", Value: v.exact(info.Since)}, {Label: "Recovery codes left", Value: strconv.FormatInt(info.CodesLeft, 10)}}
	if info.StepUp {
		until := "not shown within the last minutes"
		if info.FreshUntil != nil {
			until = "until " + v.exact(info.FreshUntil)
		}
		page.Facts = append(page.Facts, ui.Pair{Label: "Counts for approvals and exports", Value: until})
		page.Forms = append(page.Forms, ui.FactorForm{Title: "Show a code", Action: "/admin/second-factor/show", Submit: "Show",
			Text: "Approvals and exports need a code of the last five minutes.", Fields: []ui.Field{codeField()}})
	}
	page.Forms = append(page.Forms,
		ui.FactorForm{Title: "New recovery codes", Action: "/admin/second-factor/codes", Submit: "Make new codes", Text: "The former ones end at once.", Fields: []ui.Field{codeField()}},
		ui.FactorForm{Title: "Remove the second factor", Action: "/admin/second-factor/remove", Submit: "Remove", Danger: true,
			Text: "Remove it before you set up another authenticator.", Fields: []ui.Field{codeField()}})
	return page, nil
}

// factorAgain shows the page with what was wrong beside the field of the form that was sent.
func (v *visit) factorAgain(cause error, action string, setup *ui.FactorSetup) error {
	status, flash, fields, ok := refusal(cause)
	if !ok {
		return cause
	}
	page, err := v.factorPage()
	if err != nil {
		return err
	}
	if setup != nil {
		page.Setup, page.Forms = setup, []ui.FactorForm{confirmForm()}
	}
	var rest []string
	for i := range page.Forms {
		if page.Forms[i].Action == action {
			rest = mark(fields, page.Forms[i].Fields)
		}
	}
	explain(flash, rest)
	page.Flash = flash
	return v.show(status, "second-factor", page)
}

func confirmForm() ui.FactorForm {
	code := codeField()
	code.Help = "The six digits that the authenticator shows now."
	return ui.FactorForm{Title: "Confirm it", Action: "/admin/second-factor/confirm", Submit: "Confirm", Fields: []ui.Field{code},
		Text: "The second factor counts once the broker has seen a code of it. Your other sessions end then."}
}

// startFactor answers with the key itself, once: a redirect would have to keep it somewhere.
func startFactor(v *visit) error {
	out, err := v.Accounts.StartFactor(v.ctx, v.p, api.FactorStart{Password: v.form("password")})
	if err != nil {
		return v.factorAgain(err, "/admin/second-factor/start", nil)
	}
	page, err := v.factorPage()
	if err != nil {
		return err
	}
	page.Setup = &ui.FactorSetup{Picture: ui.PNG(out.Image), Secret: out.Secret}
	page.Forms = []ui.FactorForm{confirmForm()}
	return v.show(http.StatusOK, "second-factor", page)
}

func confirmFactor(v *visit) error {
	codes, err := v.Accounts.ConfirmFactor(v.ctx, v.p, api.FactorCode{Code: v.text("code")})
	if err != nil {
		return v.factorAgain(err, "/admin/second-factor/confirm", nil)
	}
	v.p.Stage = api.StageComplete
	return v.showCodes(codes, "The second factor is set up.")
}

func newRecoveryCodes(v *visit) error {
	codes, err := v.Accounts.NewRecoveryCodes(v.ctx, v.p, api.FactorCode{Code: v.text("code")})
	if err != nil {
		return v.factorAgain(err, "/admin/second-factor/codes", nil)
	}
	return v.showCodes(codes, "New recovery codes were made.")
}

func (v *visit) showCodes(codes api.RecoveryCodes, done string) error {
	page, err := v.factorPage()
	if err != nil {
		return err
	}
	flash := good(done, "Keep the recovery codes below before you leave this page.")
	page.Flash, page.Codes = &flash, codes.Codes
	return v.show(http.StatusOK, "second-factor", page)
}

func showFactorCode(v *visit) error {
	if _, err := v.Accounts.ShowFactor(v.ctx, v.p, api.FactorCode{Code: v.text("code")}); err != nil {
		return v.factorAgain(err, "/admin/second-factor/show", nil)
	}
	return v.to("/admin/second-factor", "factor-shown")
}

func removeFactor(v *visit) error {
	if err := v.Accounts.RemoveFactor(v.ctx, v.p, api.FactorCode{Code: v.text("code")}); err != nil {
		return v.factorAgain(err, "/admin/second-factor/remove", nil)
	}
	return v.to("/admin/second-factor", "factor-removed")
}

func askResetFactor(v *visit) error {
	u, err := v.Accounts.User(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", ui.FormPage{
		Frame:  v.frame("Reset Second Factor", "", crumbAdmin, ui.Link{Text: "User Management", URL: "/admin/users"}),
		Action: "/admin/users/" + u.ID + "/reset-factor",
		Lead:   []string{"Make sure that it is really this person who asks. The password alone opens the log-on afterwards, until a new second factor is set up."},
		Facts:  []ui.Pair{{Label: "User", Value: u.Name}, {Label: "Set up", Value: v.exact(u.SecondFactorSince)}},
		Submit: "Reset", Danger: true, Cancel: "/admin/users/" + u.ID,
	})
}

func resetFactor(v *visit) error {
	err := v.Accounts.ResetFactor(v.ctx, v.p, v.id())
	if err == nil {
		return v.to("/admin/users/"+v.id(), "factor-reset")
	}
	u, known := v.Accounts.User(v.ctx, v.p, v.id())
	if known != nil {
		return known
	}
	return v.userAgain(err, u.ID, api.UserWrite{Name: u.Name, DisplayName: u.DisplayName, Email: u.Email, Role: u.Role})
}

func showFactorSettings(v *visit) error {
	in, err := v.Accounts.FactorSettings(v.ctx, v.p)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", v.factorSettingsPage(in))
}

func (v *visit) factorSettingsPage(in api.FactorSettings) ui.FormPage {
	write := v.may(rbac.SecondFactorSettingsWrite)
	page := ui.FormPage{
		Frame: v.frame("User Management", introUsers, crumbAdmin), Tabs: v.userTabs(), Action: "/admin/second-factor-settings", Submit: "Save",
		Lead: []string{"A second factor is a code by time that a person's authenticator shows, or a recovery code. Each person sets it up under Administration > Second Factor."},
		Fields: []ui.Field{
			{Name: "second_factor", Label: "Second factor", Type: "select", Disabled: !write, Options: options(in.SecondFactor, "optional", "Each person decides", "required", "Required of everybody"),
				Help: "When it is required, people without one get no further than its set-up, from their next click on."},
			{Name: "step_up", Label: "Approvals and exports need a code of the last five minutes", Type: "checkbox", Checked: in.StepUp, Disabled: !write,
				Help: "So does every change of these settings. Set up your own second factor before you switch it on."},
		},
	}
	if !write {
		page.Submit = ""
	}
	return page
}

func saveFactorSettings(v *visit) error {
	in := api.FactorSettings{SecondFactor: v.form("second_factor"), StepUp: v.form("step_up") == "yes"}
	err := v.Accounts.SetFactorSettings(v.ctx, v.p, in)
	if err == nil {
		return v.to("/admin/second-factor-settings", "saved")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page := v.factorSettingsPage(in)
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
