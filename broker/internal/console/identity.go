package console

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
	"keyward/ui"
)

// identity is how a machine proves who it is.
func (v *visit) identity(i api.Instance) []ui.Pair {
	how := "By an enrolment token"
	if i.FromImage {
		how = "By itself, with its image's certificate"
	}
	pairs := []ui.Pair{{Label: "Enrolled", Value: how}}
	if i.CertificateRevokedAt != nil {
		pairs = append(pairs, ui.Pair{Label: "Certificate revoked", Value: v.exact(i.CertificateRevokedAt)})
	} else {
		pairs = append(pairs, ui.Pair{Label: "Certificate ends", Value: v.exact(i.CertificateExpiresAt)})
	}
	if i.TPM == nil {
		pairs = append(pairs, ui.Pair{Label: "Key", Value: "In software: whoever is root on the machine can copy it"})
	} else {
		pairs = append(pairs, tpmPairs(i.TPM)...)
	}
	if i.CloudIdentity != "" {
		pairs = append(pairs, ui.Pair{Label: "Cloud instance", Value: i.CloudIdentity, Code: true})
	}
	if k := i.KeyConflict; k != nil {
		pairs = append(pairs, ui.Pair{Label: "Other key", Value: k.KeySHA256, Code: true}, ui.Pair{Label: "It came from", Value: k.Address + ", host name " + k.HostName},
			ui.Pair{Label: "First seen", Value: v.exact(&k.At)})
	}
	return pairs
}

// tpmPairs are what is known of a machine's TPM.
func tpmPairs(t *api.TPMInfo) []ui.Pair {
	key, trust := "In software, beside a TPM", "Pinned at first sight"
	if t.HoldsKey {
		key = "In the TPM"
	}
	if t.Maker != "" {
		trust = "Endorsed by " + t.Maker
	}
	return []ui.Pair{{Label: "Key", Value: key}, {Label: "TPM", Value: trust}, {Label: "Endorsement key", Value: t.EndorsementSHA256, Code: true}}
}

// keyWarning says what another key that claims to be the machine means.
func keyWarning(i api.Instance) string {
	if i.KeyConflict == nil {
		return ""
	}
	switch i.KeyConflict.Decision {
	case api.KeyAccepted:
		return "Another key was accepted for this machine: it takes over when that machine asks again."
	case api.KeyRefused:
		return "Another key that claimed to be this machine was refused."
	}
	return "Another key claims to be this machine: it is a copy of it, or the machine itself with a new disk. It is kept out until a person decides."
}

// identityForm is one decision about a machine's or an image's identity.
type identityForm struct {
	name, title, lead, warning, submit, done string
	danger                                   bool
	do                                       func(*visit) func(context.Context, tenant.Principal, string, api.Decision) error
}

var (
	revokeCertificate = identityForm{name: "revoke-certificate", title: "Revoke Certificate", submit: "Revoke", done: "certificate-revoked", danger: true,
		lead:    "The machine is refused from now on, until it enrols again with a token.",
		warning: "It cannot call any more, so keys that it holds end with their lease: its volumes become inaccessible then.",
		do: func(v *visit) func(context.Context, tenant.Principal, string, api.Decision) error {
			return v.Inventory.RevokeCertificate
		}}
	acceptKey = identityForm{name: "accept-key", title: "Accept Other Key", submit: "Accept", done: "key-accepted", danger: true,
		lead:    "The other key enrols as this machine when it asks again. The certificate that the machine has now ends then.",
		warning: "Accept it only if you know that the machine's disk was made anew. The keys of its devices wait for a person's approval.",
		do: func(v *visit) func(context.Context, tenant.Principal, string, api.Decision) error {
			return v.Inventory.AcceptKey
		}}
	refuseKey = identityForm{name: "refuse-key", title: "Refuse Other Key", submit: "Refuse", done: "key-refused",
		lead: "The machine keeps the key that it enrolled with, and the other key is refused.",
		do: func(v *visit) func(context.Context, tenant.Principal, string, api.Decision) error {
			return v.Inventory.RefuseKey
		}}
	revokeImageCertificate = identityForm{name: "revoke-certificate", title: "Revoke Certificate of Image", submit: "Revoke", done: "image-certificate-revoked", danger: true,
		lead:    "Machines that are started from this image can no longer enrol by themselves. Those that are enrolled stay so.",
		warning: "Every copy of the image holds this certificate: to use one again, enrol the template anew and build the image again.",
		do: func(v *visit) func(context.Context, tenant.Principal, string, api.Decision) error {
			return v.Inventory.RevokeImageCertificate
		}}
)

func (f identityForm) page(v *visit, base string, facts []ui.Pair, crumbs []ui.Link) ui.FormPage {
	return ui.FormPage{
		Frame: v.frame(f.title, "", crumbs...), Action: base + "/" + f.name, Lead: []string{f.lead}, Warning: f.warning, Facts: facts,
		Fields: []ui.Field{{Name: "reason", Label: "Reason", Type: "textarea", MaxLength: 1024, Value: v.text("reason"), Help: "Kept in the audit log together with your name."}},
		Submit: f.submit, Danger: f.danger, Cancel: base,
	}
}

// ofInstance asks, and on a form carries out.
func (f identityForm) ofInstance(v *visit) error {
	i, err := v.Inventory.Instance(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	facts := []ui.Pair{{Label: "Instance", Value: instanceName(i)}, {Label: "Instance ID", Value: i.Identity}}
	if k := i.KeyConflict; k != nil && f.name != revokeCertificate.name {
		facts = append(facts, ui.Pair{Label: "Other key", Value: k.KeySHA256, Code: true}, ui.Pair{Label: "It came from", Value: k.Address})
	}
	base := "/instances/" + i.ID
	return f.answer(v, base, f.page(v, base, facts, []ui.Link{crumbRunning, v.link(rbac.RunningInstancesRead, instanceName(i), "/instances/", i.ID)}))
}

func (f identityForm) ofImage(v *visit) error {
	i, err := v.Inventory.Image(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	base := "/inventory/images/" + i.ID
	facts := []ui.Pair{{Label: "Image", Value: i.Name}, {Label: "Certificate ends", Value: v.exact(i.CertificateExpiresAt)}}
	return f.answer(v, base, f.page(v, base, facts, append(crumbImages[:len(crumbImages):len(crumbImages)], ui.Link{Text: i.Name, URL: base})))
}

func (f identityForm) answer(v *visit, base string, page ui.FormPage) error {
	if v.http.Method() == http.MethodGet {
		return v.show(http.StatusOK, "form", page)
	}
	err := f.do(v)(v.ctx, v.p, v.id(), api.Decision{Reason: v.text("reason")})
	if err == nil {
		return v.to(base, f.done)
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
