package console

import (
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/rbac"
	"keyward/ui"
)

func showInstance(v *visit) error {
	i, err := v.Inventory.Instance(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	image := v.link(rbac.ImagesRead, i.ImageName, "/inventory/images/", i.ImageID)
	page := ui.InstancePage{
		Frame:  v.frame(instanceName(i), "Here you can view a machine and the devices that it sees.", crumbRunning),
		Status: instanceBadge(i),
		Facts: []ui.Pair{
			{Label: "Host name", Value: i.HostName},
			{Label: "Instance ID", Value: i.Identity},
			{Label: "Provider", Value: i.Provider},
			{Label: "Location", Value: i.Location},
			{Label: "Image", Value: image.Text, URL: image.URL},
			{Label: "Agent version", Value: i.AgentVersion},
			{Label: "Source address", Value: i.SourceIP},
			{Label: "First seen", Value: v.exact(&i.FirstSeenAt)},
			{Label: "Last seen", Value: v.whenOptional(i.LastSeenAt).Text},
		},
		Empty: ui.Empty{Icon: "disk", Title: "No devices", Text: "This machine has not published a device besides its root disk."},
		Back:  ui.Link{Text: "Back", URL: "/instances"},
	}
	if page.Suspicion = i.Suspicion; i.Suspicion != "" && v.may(rbac.KeyRequestsDecide) {
		page.Clear = &ui.Button{Text: "There is only one", Icon: "check", URL: "/instances/" + i.ID + "/clear", Dialog: true}
	}
	page.Identity, page.Warning = v.identity(i), keyWarning(i)
	if v.may(rbac.InstancesWrite) {
		if k := i.KeyConflict; k != nil && k.Decision != api.KeyAccepted {
			page.Decide = append(page.Decide, ui.Button{Text: "Accept the other key", Icon: "check", URL: "/instances/" + i.ID + "/accept-key", Dialog: true})
			if k.Decision == "" {
				page.Decide = append(page.Decide, ui.Button{Text: "Refuse it", Icon: "ban", URL: "/instances/" + i.ID + "/refuse-key", Dialog: true, Primary: true})
			}
		}
		if i.CertificateRevokedAt == nil {
			page.Buttons = append(page.Buttons, ui.Button{Text: "Revoke certificate", Icon: "ban", URL: "/instances/" + i.ID + "/revoke-certificate", Dialog: true, Danger: true})
		}
	}
	page.Live = feed.TopicKeyRequests
	if v.may(rbac.IntegrityChecksRun) {
		page.Check = "/instances/" + i.ID + "/check"
	}
	if v.may(rbac.DevicesRead) {
		for _, d := range i.Devices {
			page.Devices = append(page.Devices, v.deviceRow(d))
		}
	}
	return v.show(http.StatusOK, "instance", page)
}

func instanceName(i api.Instance) string {
	if i.HostName != "" {
		return i.HostName
	}
	return i.Identity
}

func instanceBadge(i api.Instance) ui.Badge {
	switch {
	case i.CertificateRevokedAt != nil:
		return ui.Badge{Text: "Certificate revoked", Icon: "ban", Tone: ui.ToneBad}
	case i.Suspicion != "":
		return ui.Badge{Text: "May exist twice", Icon: "alert", Tone: ui.ToneBad}
	case i.Missing:
		return ui.Badge{Text: "Missing", Icon: "unknown", Tone: ui.ToneBad}
	case i.LastSeenAt == nil:
		return ui.Badge{Text: "Enrolled, not heard of yet", Icon: "clock", Tone: ui.ToneIdle}
	}
	return ui.Badge{Text: "Reporting", Icon: "activity", Tone: ui.ToneGood}
}

func askClear(v *visit) error {
	i, err := v.Inventory.Instance(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", v.clearPage(i, ""))
}

func (v *visit) clearPage(i api.Instance, reason string) ui.FormPage {
	return ui.FormPage{
		Frame:  v.frame("Clear Machine", "", crumbRunning, ui.Link{Text: instanceName(i), URL: "/instances/" + i.ID}),
		Action: "/instances/" + i.ID + "/clear",
		Lead: []string{"Whoever has a copy of this machine's disk has its identity. Clear it once you know that the copy is gone, or enrol the machine anew instead: then the copy's certificate is worth nothing.",
			"Policies give it keys again from then on. If both are heard of again, so is the suspicion."},
		Facts: []ui.Pair{{Label: "Suspicion", Value: i.Suspicion}, {Label: "Since", Value: v.exact(i.SuspectedAt)}},
		Fields: []ui.Field{{Name: "reason", Label: "Reason", Type: "textarea", Required: true, MaxLength: 1024, Value: reason,
			Help: "Kept in the audit log together with your name."}},
		Submit: "Clear", Danger: true, Cancel: "/instances/" + i.ID,
	}
}

func clearInstance(v *visit) error {
	err := v.Requests.Clear(v.ctx, v.p, v.id(), api.Clearance{Reason: v.text("reason")})
	if err == nil {
		return v.to("/instances/"+v.id(), "cleared")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	i, err := v.Inventory.Instance(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page := v.clearPage(i, v.text("reason"))
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
