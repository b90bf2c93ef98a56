package console

import (
	"fmt"
	"net/http"
	"strconv"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/rbac"
	"keyward/ui"
)

const deepSecurityPath = "/admin/deep-security"

func showDeepSecurity(v *visit) error {
	now, err := v.DeepSecurity.Settings(v.ctx, v.p)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", v.deepSecurityPage(now, written(now)))
}

// written is what the form starts from.
func written(s api.DeepSecuritySettings) api.DeepSecuritySettingsWrite {
	return api.DeepSecuritySettingsWrite{Enabled: s.Enabled, Server: s.Server, Port: s.Port, Authority: s.Authority}
}

// deepSecurityPage shows how the connection stands, and in as the form's content.
func (v *visit) deepSecurityPage(now api.DeepSecuritySettings, in api.DeepSecuritySettingsWrite) ui.FormPage {
	write := v.may(rbac.DeepSecurityWrite)
	stored := "No key is stored yet."
	if now.HasAPIKey {
		stored = "A key is stored and never shown. Leave this empty to keep it; another server or authority needs it again."
	}
	page := ui.FormPage{
		Frame:  v.frame("Deep Security Settings", "Here you can connect this account to a Deep Security Manager, so that rules can use what it knows of your machines.", crumbAdmin),
		Action: deepSecurityPath, Submit: "Save", Also: []ui.FormAction{{Label: "Test Connection", Action: deepSecurityPath + "/test"}},
		Lead: []string{"While the connection is disabled the manager is not contacted, and rules on Deep Security facts are not used."},
		Fields: []ui.Field{
			{Name: "enabled", Label: "Enable connection", Type: "checkbox", Checked: in.Enabled, Disabled: !write},
			{Name: "server", Label: "Server address", Type: "text", Value: in.Server, MaxLength: 253, Disabled: !write, Autocomplete: "off", Help: "A host name or address, for example dsm.example.org."},
			{Name: "port", Label: "Port", Type: "number", Value: strconv.Itoa(in.Port), Min: "1", Max: "65535", Required: true, Disabled: !write, Help: "4119, unless the manager was told otherwise."},
			{Name: "api_key", Label: "API key", Type: "password", MaxLength: 4096, Disabled: !write, Autocomplete: "off", Help: "Made in the manager under Administration, User Management, API Keys; the role Auditor is enough. " + stored},
			{Name: "authority", Label: "Authority of the manager's certificate (PEM)", Type: "textarea", Value: in.Authority, MaxLength: 65536, Disabled: !write, Help: "Needed for a manager with a certificate of its own making. Empty: the authorities that this broker's machine trusts."},
		},
	}
	if now.Enabled {
		page.Facts = v.connection(now)
	}
	if !write {
		page.Submit, page.Also = "", nil
	}
	return page
}

func (v *visit) connection(s api.DeepSecuritySettings) []ui.Pair {
	last := "never"
	if s.AnsweredAt != nil {
		last = fmt.Sprintf("%s, with %d computers", v.when(*s.AnsweredAt).Text, s.Computers)
	}
	badge := &ui.Badge{Text: "Connected", Tone: ui.ToneGood, Icon: "check"}
	switch {
	case s.Problem != "":
		badge = &ui.Badge{Text: "Failing", Tone: ui.ToneBad, Icon: "alert"}
	case s.AnsweredAt == nil:
		badge = &ui.Badge{Text: "Connecting", Tone: ui.ToneInfo, Icon: "clock"}
	}
	facts := []ui.Pair{{Label: "Connection", Badge: badge}, {Label: "Last answer", Value: last}}
	if s.Problem != "" {
		facts = append(facts, ui.Pair{Label: "Problem", Value: s.Problem})
	}
	return facts
}

func (v *visit) deepSecurityForm() (in api.DeepSecuritySettingsWrite, err error) {
	in = api.DeepSecuritySettingsWrite{Enabled: v.form("enabled") != "", Server: v.text("server"), APIKey: v.form("api_key"), Authority: v.form("authority")}
	port, err := v.number("port")
	if err == nil && (port < 1 || port > 65535) {
		err = problem.Invalid("port", "is between 1 and 65535")
	}
	in.Port = int(port)
	return in, err
}

func saveDeepSecurity(v *visit) error {
	in, err := v.deepSecurityForm()
	if err == nil {
		err = v.DeepSecurity.SetSettings(v.ctx, v.p, in)
	}
	if err == nil {
		return v.to(deepSecurityPath, "saved")
	}
	return v.deepSecurityAgain(in, err)
}

func testDeepSecurity(v *visit) error {
	in, err := v.deepSecurityForm()
	if err == nil {
		err = v.DeepSecurity.Test(v.ctx, v.p, in)
	}
	return v.deepSecurityAgain(in, err)
}

// deepSecurityAgain shows the form with what was typed, but for the key, and what came of it.
func (v *visit) deepSecurityAgain(in api.DeepSecuritySettingsWrite, err error) error {
	status := http.StatusOK
	flash, fields := &ui.Flash{Tone: ui.ToneGood, Title: "The manager answers.", Text: "Address, certificate and key are right. Nothing was saved yet."}, map[string]string(nil)
	if err != nil {
		var ok bool
		if status, flash, fields, ok = refusal(err); !ok {
			return err
		}
	}
	now, err := v.DeepSecurity.Settings(v.ctx, v.p)
	if err != nil {
		return err
	}
	page := v.deepSecurityPage(now, in)
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
