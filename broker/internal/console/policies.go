package console

import (
	"net/http"
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/rbac"
	"keyward/ui"
)

var crumbPolicies = ui.Link{Text: "Policies", URL: "/policies"}

func showPolicies(v *visit) error {
	policies, err := v.Policies.List(v.ctx, v.p)
	if err != nil {
		return err
	}
	write := v.may(rbac.PoliciesWrite)
	page := ui.PoliciesPage{
		Frame:     v.frame("Policies", "Here you can say which machines are given the keys of which devices, and under which conditions."),
		CanDelete: write,
		Empty:     ui.Empty{Icon: "policy", Title: "No policies yet", Text: "The default policy appears with the first machine that is enrolled."},
	}
	if write {
		page.Create = &ui.Button{Text: "Add Policy", Icon: "plus", URL: "/policies/new", Primary: true}
	}
	if v.may(rbac.IntegritySettingsRead) {
		page.Checks = &ui.Button{Text: "Scheduled Integrity Check Settings", Icon: "clock", URL: "/policies/checks"}
	}
	slices.SortStableFunc(policies, func(a, b api.Policy) int { return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)) })
	for _, p := range policies {
		row := ui.PolicyRow{
			ID: p.ID, Policy: ui.Link{Text: p.Name, URL: "/policies/" + p.ID}, Description: p.Description, Default: p.Default,
			Rules: len(p.Rules), Images: len(p.ImageIDs), Devices: len(p.DeviceIDs),
			OnMatch: actionName(p.OnMatch), OnFailure: actionName(p.OnFailure), Deletable: write && !p.Default,
		}
		if p.OnMatch == api.ActionManual && p.ApproveAfterSeconds > 0 {
			row.OnMatch += ", approved after " + seconds(p.ApproveAfterSeconds)
		}
		page.Rows = append(page.Rows, row)
	}
	return v.show(http.StatusOK, "policies", page)
}

func askDeletePolicies(v *visit) error {
	ids, err := v.chosenIDs(v.queries("id"))
	if err != nil {
		return err
	}
	page := ui.FormPage{
		Frame: v.frame("Delete Policies", "", crumbPolicies), Action: "/policies/delete",
		Lead:   []string{"Images that are in no other policy return to the default policy."},
		Submit: "Delete", Danger: true, Cancel: "/policies",
	}
	for _, id := range ids {
		p, err := v.Policies.Get(v.ctx, v.p, id)
		if err != nil {
			return err
		}
		switch {
		case p.Default:
			page.Refused = append(page.Refused, ui.Pair{Label: p.Name, Value: "The default policy cannot be deleted."})
		case len(p.DeviceIDs) > 0:
			page.Refused = append(page.Refused, ui.Pair{Label: p.Name, Value: "It contains devices. Assign them to another policy first."})
		default:
			page.Hidden = append(page.Hidden, ui.Pair{Label: "id", Value: p.ID})
			page.Facts = append(page.Facts, ui.Pair{Label: "Policy", Value: p.Name})
		}
	}
	if page.Disabled = len(page.Hidden) == 0; page.Disabled {
		page.Lead = nil
	}
	return v.show(http.StatusOK, "form", page)
}

func deletePolicies(v *visit) error {
	ids, err := v.chosenIDs(v.forms("id"))
	if err != nil {
		return err
	}
	if err := v.Policies.Delete(v.ctx, v.p, ids...); err != nil {
		return err
	}
	return v.to("/policies", "deleted")
}

func newPolicy(v *visit) error {
	page, err := v.policyPage(api.Policy{OnMatch: api.ActionManual, OnFailure: api.ActionManual, LeaseSeconds: 300, HeartbeatSeconds: 30})
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "policy", page)
}

func showPolicy(v *visit) error {
	p, err := v.Policies.Get(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page, err := v.policyPage(p)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "policy", page)
}

// savePolicy creates or changes a policy, or only works on the form: a button named "edit" adds or removes a rule or
// condition, or previews the policy, and shows the form again without saving anything.
func savePolicy(v *visit) error {
	current := api.Policy{}
	if v.id() != "" {
		var err error
		if current, err = v.Policies.Get(v.ctx, v.p, v.id()); err != nil {
			return err
		}
	}
	in, wrong := v.policyForm(current)
	switch v.form("edit") {
	case "preview":
		return v.showPreview(in, wrong, false)
	case "replay":
		return v.showPreview(in, wrong, true)
	}
	if edit := v.form("edit"); edit != "" {
		in.Rules = editRules(in.Rules, edit, api.FactName(v.form("new-fact")), v.Policies.Facts())
		page, err := v.policyPage(in)
		if err != nil {
			return err
		}
		return v.show(http.StatusOK, "policy", page)
	}
	err := error(nil)
	if len(wrong) > 0 {
		err = problem.InvalidFields(wrong)
	} else if v.id() == "" {
		in, err = v.create(in)
	} else {
		_, err = v.Policies.Update(v.ctx, v.p, v.id(), in)
	}
	if err == nil {
		return v.to(after(v, "/policies", "/policies/"+in.ID), "saved")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page, err := v.policyPage(in)
	if err != nil {
		return err
	}
	markPolicy(&page, flash, fields)
	page.Flash = flash
	return v.show(status, "policy", page)
}

// create keeps what was entered when the policy is refused.
func (v *visit) create(in api.Policy) (api.Policy, error) {
	created, err := v.Policies.Create(v.ctx, v.p, in)
	if err != nil {
		return in, err
	}
	return created, nil
}
