package console

import (
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/rbac"
	"keyward/ui"
)

func showRoles(v *visit) error {
	roles, err := v.Accounts.Roles(v.ctx, v.p)
	if err != nil {
		return err
	}
	page := ui.RolesPage{Frame: v.frame("User Management", introUsers, crumbAdmin), Tabs: v.userTabs()}
	for _, r := range roles {
		page.Roles = append(page.Roles, ui.RoleCard{Title: r.Title, Description: r.Description, Capabilities: r.Capabilities, Users: r.Users, Own: r.Role == v.p.Role})
	}
	return v.show(http.StatusOK, "roles", page)
}

func showAccount(v *visit) error {
	a := v.account
	return v.show(http.StatusOK, "account", ui.AccountPage{
		Frame: v.frame("User Management", introUsers, crumbAdmin), Tabs: v.userTabs(),
		Facts: []ui.Pair{
			{Label: "Account name", Value: a.Name},
			{Label: "Account ID", Value: a.ID, Code: true},
			{Label: "Web service URL", Value: a.ServiceURL, Code: a.ServiceURL != ""},
			{Label: "Created", Value: v.exact(&a.CreatedAt)},
		},
		Command: enrolCommand(a),
	})
}

// enrolCommand is what an administrator runs on a machine. The token is pasted, not an argument: other users of the
// machine can see arguments.
func enrolCommand(a api.Account) string {
	return "keyward-agent enrol --url " + a.ServiceURL + " --account " + a.ID + " --token-file -"
}

func showTokens(v *visit) error {
	page, err := v.tokensPage()
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "tokens", page)
}

func (v *visit) tokensPage() (ui.TokensPage, error) {
	page := ui.TokensPage{
		Frame: v.frame("User Management", introUsers, crumbAdmin), Tabs: v.userTabs(), CanWrite: v.may(rbac.EnrolmentTokensWrite),
		Empty: ui.Empty{Icon: "key", Title: "No enrolment tokens", Text: "A machine joins the account with an enrolment token, which it trades for a certificate of its own."},
	}
	if page.CanWrite {
		page.Create = &ui.Button{Text: "Create Token", Icon: "plus", URL: "/admin/tokens/new", Primary: true}
	}
	tokens, err := v.Accounts.Tokens(v.ctx, v.p)
	if err != nil {
		return page, err
	}
	for _, t := range tokens {
		page.Rows = append(page.Rows, ui.TokenRow{Description: t.Description, UsesLeft: t.UsesLeft, Expires: v.when(t.ExpiresAt), Expired: t.ExpiresAt.Before(v.now),
			CreatedBy: t.CreatedBy, Created: v.when(t.CreatedAt),
			Revoke: &ui.Button{Text: "Delete", Icon: "trash", URL: "/admin/tokens/" + t.ID + "/delete", Dialog: true, Danger: true}})
	}
	return page, nil
}

var crumbsTokens = []ui.Link{crumbAdmin, {Text: "Enrolment Tokens", URL: "/admin/tokens"}}

func newToken(v *visit) error {
	return v.show(http.StatusOK, "form", v.tokenPage("", "1", "1d"))
}

func (v *visit) tokenPage(description, uses, expires string) ui.FormPage {
	return ui.FormPage{
		Frame: v.frame("Create Enrolment Token", "", crumbsTokens...), Action: "/admin/tokens/new", Submit: "Create Token", Cancel: "/admin/tokens",
		Fields: []ui.Field{
			{Name: "description", Label: "Description", Type: "text", Value: description, MaxLength: 128, Help: "For whom or what, for example the name of the machine."},
			{Name: "uses", Label: "Uses", Type: "number", Value: uses, Required: true, Min: "1", Max: "100000", Help: "How many machines may join with it."},
			{Name: "expire_seconds", Label: "Valid for", Type: "text", Value: expires, Required: true, Help: "A time such as 30m, 12h or 7d, at most 365d."},
		},
	}
}

// createToken answers with the token itself, once: a redirect would have to keep it somewhere.
func createToken(v *visit) error {
	in := api.EnrolmentTokenWrite{Description: v.text("description")}
	wrong := map[string]string{}
	uses, err := v.number("uses")
	if err != nil || uses < 1 || uses > 100_000 {
		wrong["uses"] = "enter a whole number from 1 to 100000"
	}
	in.Uses = int(uses)
	if in.ExpireSeconds, err = parseSpan(v.text("expire_seconds")); err != nil {
		wrong["expire_seconds"] = err.Error()
	}
	var token api.EnrolmentTokenInfo
	if len(wrong) > 0 {
		err = problem.InvalidFields(wrong)
	} else {
		token, err = v.Accounts.CreateToken(v.ctx, v.p, in)
	}
	if err != nil {
		status, flash, fields, ok := refusal(err)
		if !ok {
			return err
		}
		page := v.tokenPage(in.Description, v.text("uses"), v.text("expire_seconds"))
		explain(flash, mark(fields, page.Fields))
		page.Flash = flash
		return v.show(status, "form", page)
	}
	page, err := v.tokensPage()
	if err != nil {
		return err
	}
	page.Token, page.Command = token.Token, enrolCommand(v.account)
	return v.show(http.StatusOK, "tokens", page)
}

func askDeleteToken(v *visit) error {
	return v.show(http.StatusOK, "form", ui.FormPage{
		Frame: v.frame("Delete Enrolment Token", "", crumbsTokens...), Action: "/admin/tokens/" + v.id() + "/delete",
		Lead:   []string{"No machine can join with this token any more. Machines that joined with it stay."},
		Submit: "Delete", Danger: true, Cancel: "/admin/tokens",
	})
}

func deleteToken(v *visit) error {
	if err := v.Accounts.DeleteToken(v.ctx, v.p, v.id()); err != nil {
		return err
	}
	return v.to("/admin/tokens", "deleted")
}
