package console

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/tenant"
	"keyward/ui"
)

// approveRequest shows the second factor first where the form brings a code.
func approveRequest(v *visit) error {
	if err := v.freshen(); err != nil {
		return v.requestAgain(err)
	}
	return v.decide(v.Requests.Approve, "approved")
}

// freshen shows the second factor where the form brings a code of it.
func (v *visit) freshen() error {
	code := v.text("code")
	if code == "" {
		return nil
	}
	until, err := v.Accounts.ShowFactor(v.ctx, v.p, api.FactorCode{Code: code})
	if err != nil {
		return err
	}
	shown := until.Add(-stepup.FreshFor)
	v.p.FactorAt = &shown
	return nil
}

// freshCode is the field for a code where the account wants a fresh second factor and the session has none; nil otherwise.
func (v *visit) freshCode(help string) (*ui.Field, error) {
	info, err := v.Accounts.FactorInfo(v.ctx, v.p)
	if err != nil || !info.StepUp || info.FreshUntil != nil {
		return nil, err
	}
	code := codeField()
	code.Required, code.Help = false, help
	return &code, nil
}

func denyRequest(v *visit) error { return v.decide(v.Requests.Deny, "denied") }

// decide carries out a decision on the version that the person saw. When somebody else was quicker, the page is shown as
// it is now, with the reason why nothing was done.
func (v *visit) decide(do func(context.Context, tenant.Principal, string, api.Decision) error, done string) error {
	version, err := v.version()
	if err != nil {
		return err
	}
	err = do(v.ctx, v.p, v.id(), api.Decision{Reason: v.text("reason"), Version: version})
	if err == nil {
		if r, err := v.Requests.Get(v.ctx, v.p, v.id()); done == "approved" && err == nil && r.Status == api.KeyPending {
			return v.to("/key-requests/"+v.id(), "seconded")
		}
		return v.to("/instances", done)
	}
	return v.requestAgain(err)
}

func (v *visit) requestAgain(cause error) error {
	status, flash, fields, ok := refusal(cause)
	if !ok {
		return cause
	}
	r, err := v.Requests.Get(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page, err := v.requestPage(r)
	if err != nil {
		return err
	}
	if page.Decide != nil {
		page.Decide.Reason.Value = v.text("reason")
		if page.Decide.Code != nil && fields["code"] != "" {
			page.Decide.Code.Error = sentence(fields["code"])
			delete(fields, "code")
		}
	}
	explain(flash, mark(fields))
	page.Flash = flash
	return v.show(status, "key-request", page)
}

func assignRequest(v *visit) error {
	err := v.Requests.AssignPolicy(v.ctx, v.p, v.id(), api.PolicyAssignment{PolicyID: v.form("policy_id")})
	if err != nil {
		return v.requestAgain(err)
	}
	return v.to("/key-requests/"+v.id(), "assigned")
}

func askRevoke(v *visit) error {
	r, err := v.Requests.Get(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", ui.FormPage{
		Frame:  v.frame("Revoke Key", "", crumbRunning, ui.Link{Text: "Key Request", URL: "/key-requests/" + v.id()}),
		Action: "/key-requests/" + v.id() + "/revoke",
		Lead:   []string{"The machine stops what depends on the volume, flushes it, gives it up and wipes the key. Without contact it does so when its lease ends."},
		Warning: "Programs that write to the device now may lose what they have not written yet. " +
			"From here on only a person can give the key back.",
		Facts: []ui.Pair{{Label: "Device", Value: r.DeviceName}, {Label: "Instance", Value: r.InstanceName},
			{Label: "Mount point", Value: r.Device.MountPoint}, {Label: "Lease ends", Value: v.exact(r.LeaseExpiresAt)}},
		Fields: []ui.Field{{Name: "reason", Label: "Reason", Type: "textarea", MaxLength: 1024, Help: "Kept in the audit log together with your name."}},
		Submit: "Revoke", Danger: true, Cancel: "/key-requests/" + v.id(),
	})
}

func revokeRequest(v *visit) error {
	if err := v.Requests.Revoke(v.ctx, v.p, v.id(), api.Decision{Reason: v.text("reason")}); err != nil {
		return v.requestAgain(err)
	}
	return v.to("/key-requests/"+v.id(), "revoking")
}
