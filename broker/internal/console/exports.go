package console

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
	"keyward/ui"
)

const (
	exportsPath        = "/inventory/exports"
	exportSettingsPath = "/admin/export-settings"
)

var crumbExports = []ui.Link{{Text: "Inventory"}, {Text: "Key Exports", URL: exportsPath}}

func showExports(v *visit) error {
	list, err := v.Exports.List(v.ctx, v.p)
	if err != nil {
		return err
	}
	page := ui.ExportsPage{
		Frame: v.frame("Key Exports", "Here you can view the exports of keys that people agree on.", crumbExports[0]),
		Empty: ui.Empty{Icon: "download", Title: "No exports", Text: "An export that takes several people is asked for on the Devices page: choose devices, then Export."},
	}
	page.Live = feed.TopicExports
	if v.may(rbac.DevicesExport) {
		page.Empty.Action = &ui.Button{Text: "Devices", Icon: "disk", URL: "/inventory/devices"}
	}
	for _, e := range list {
		page.Rows = append(page.Rows, ui.ExportRow{URL: exportsPath + "/" + e.ID, Status: ui.ExportBadge(string(e.Status)),
			Agreed: fmt.Sprintf("%d of %d", e.Agreed, e.PeopleNeeded), What: exportText(e), AskedBy: e.AskedBy, Reason: e.Reason,
			Asked: v.when(e.AskedAt), Expires: v.when(e.ExpiresAt)})
	}
	return v.show(http.StatusOK, "exports", page)
}

// exportText says in a few words what leaves with an export.
func exportText(e api.KeyExport) string {
	if e.Kind == api.ExportRecoveryKey {
		return "Recovery key"
	}
	names := make([]string, len(e.Devices))
	for i, d := range e.Devices {
		names[i] = d.Name
	}
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + " and " + strconv.Itoa(len(names)-3) + " more"
	}
	return strings.Join(names, ", ")
}

func showExport(v *visit) error {
	e, err := v.Exports.Get(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page, err := v.exportedPage(e)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "export", page)
}

func (v *visit) exportedPage(e api.KeyExport) (ui.ExportPage, error) {
	page := ui.ExportPage{
		Frame:  v.frame("Key Export", "Here you can see what is to leave the broker, and who agrees to that.", crumbExports...),
		Status: ui.ExportBadge(string(e.Status)), Back: ui.Link{Text: "Key Exports", URL: exportsPath},
		Facts: []ui.Pair{{Label: "Asked by", Value: e.AskedBy}, {Label: "Reason", Value: e.Reason}, {Label: "Asked", Value: v.exact(&e.AskedAt)},
			{Label: "Expires", Value: v.exact(&e.ExpiresAt)}},
		Approvals: v.exportApprovals(e),
	}
	page.Live = feed.TopicExports
	if e.EndedAt != nil {
		page.Facts = append(page.Facts, ui.Pair{Label: "Ended", Value: v.exact(e.EndedAt)}, ui.Pair{Label: "Ended by", Value: e.EndedBy}, ui.Pair{Label: "Why", Value: e.EndReason})
	}
	if k := e.RecoveryKey; k != nil {
		page.Detail = "Whoever holds enough shares of this recovery key can read every device of the account without the broker."
		page.Devices = []ui.Pair{{Label: "Recovery key", Value: k.KeyID, Code: true}, {Label: "Opens with", Value: fmt.Sprintf("%d of %d shares", k.Threshold, len(k.Holders))},
			{Label: "Holders", Value: strings.Join(k.Holders, "\n")}}
	}
	for _, d := range e.Devices {
		link := v.link(rbac.DevicesRead, d.Name, "/inventory/devices/", d.ID)
		what := "Key number " + strconv.FormatInt(d.Generation, 10)
		if d.PendingGeneration > 0 {
			what += ", and " + strconv.FormatInt(d.PendingGeneration, 10) + ", which is to replace it"
		}
		page.Devices = append(page.Devices, ui.Pair{Label: what, Value: link.Text, URL: link.URL})
	}
	return page, v.exportForms(&page, e)
}

func (v *visit) exportApprovals(e api.KeyExport) ui.Approvals {
	out := ui.Approvals{Text: fmt.Sprintf("%d of %d %s, %s who asked among them.", e.Agreed, e.PeopleNeeded, plural(e.PeopleNeeded, "person agrees", "people agree"), e.AskedBy)}
	for _, a := range e.Approvals {
		out.Rows = append(out.Rows, v.approvalRow(a, exportOpen(e)))
	}
	return out
}

func exportOpen(e api.KeyExport) bool {
	return e.Status == api.ExportWaiting || e.Status == api.ExportApproved
}

// exportForms offers what the viewer may do with an export that is open.
func (v *visit) exportForms(page *ui.ExportPage, e api.KeyExport) error {
	at := exportsPath + "/" + e.ID
	code, err := v.freshCode("Six digits of your authenticator, or a recovery code.")
	if err != nil {
		return err
	}
	withCode := func(fields ...ui.Field) []ui.Field {
		if code != nil {
			fields = append(fields, *code)
		}
		return fields
	}
	switch {
	case !exportOpen(e):
		page.Closed = "This export is over: nothing is left to decide."
	case e.Own && v.may(rbac.DevicesExport):
		if e.Status == api.ExportApproved && e.Kind == api.ExportDevices {
			page.Forms = append(page.Forms, ui.ExportForm{Title: "Fetch the Keys", Action: at + "/fetch", Submit: "Export", Download: true, Version: e.Version, Fields: withCode(passphraseFields()...),
				Text: "The archive leaves once. Each key in it is encrypted under the passphrase: whoever has both can read the device without this broker."})
		}
		if e.Status == api.ExportApproved && e.Kind == api.ExportRecoveryKey {
			page.Forms = append(page.Forms, ui.ExportForm{Title: "Set the Recovery Key", Action: at + "/set-recovery-key", Submit: "Set", Version: e.Version, Fields: withCode(),
				Text: "Machines fetch envelopes that are sealed to it from then on. Those that were sealed to the former key still open with its shares."})
		}
		if e.Status == api.ExportWaiting {
			page.Closed = "Others have to agree: another Security Administrator approves it on this page."
		}
		page.Forms = append(page.Forms, ui.ExportForm{Title: "Cancel", Text: "Nothing leaves the broker.", Action: at + "/cancel", Submit: "Cancel the Export", Danger: true, Version: e.Version})
	case v.may(rbac.KeyExportsDecide):
		page.Forms = append(page.Forms, ui.ExportForm{Title: "Decision", Action: at + "/approve", Submit: "Approve", Version: e.Version, Also: &ui.FormAction{Label: "Deny", Action: at + "/deny"},
			Text:   e.AskedBy + " can fetch it once enough people agree. An approval counts for a day.",
			Fields: withCode(ui.Field{Name: "reason", Label: "Reason", Type: "textarea", MaxLength: 1024, Help: "Kept in the audit log together with your name."})})
	default:
		page.Closed = "This export waits for a decision that your role cannot take."
	}
	return nil
}

func passphraseFields() []ui.Field {
	return []ui.Field{
		{Name: "passphrase", Label: "Passphrase", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "new-password",
			Help: "At least 8 characters. It is not kept anywhere and cannot be recovered.", Strength: true},
		{Name: "repeat", Label: "Confirm passphrase", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "new-password"},
	}
}

// wrongPassphrase is what is wrong with a passphrase and its repetition, by field.
func (v *visit) wrongPassphrase() map[string]string {
	reasons := map[string]string{}
	if passphrase := v.form("passphrase"); len([]rune(passphrase)) < 8 {
		reasons["passphrase"] = "enter at least 8 characters"
	} else if passphrase != v.form("repeat") {
		reasons["repeat"] = "this differs from the passphrase above"
	}
	return reasons
}

// sendArchive answers with an archive of exported keys.
func (v *visit) sendArchive(archive []byte) error {
	v.http.Set("Content-Type", "application/zip")
	v.http.Set("Content-Disposition", `attachment; filename="`+inventory.ExportName(v.now)+`"`)
	return v.http.Send(archive)
}

func approveExport(v *visit) error {
	if err := v.freshen(); err != nil {
		return v.exportAgain(err)
	}
	return v.decideExport(v.Exports.Approve, "export-approved")
}

func denyExport(v *visit) error { return v.decideExport(v.Exports.Deny, "export-denied") }

func cancelExport(v *visit) error { return v.decideExport(v.Exports.Cancel, "export-cancelled") }

func (v *visit) decideExport(do func(context.Context, tenant.Principal, string, api.Decision) (api.KeyExport, error), done string) error {
	version, err := v.version()
	if err != nil {
		return err
	}
	if _, err = do(v.ctx, v.p, v.id(), api.Decision{Reason: v.text("reason"), Version: version}); err != nil {
		return v.exportAgain(err)
	}
	return v.to(exportsPath+"/"+v.id(), done)
}

func fetchExport(v *visit) error {
	if wrong := v.wrongPassphrase(); len(wrong) > 0 {
		return v.exportAgain(problem.InvalidFields(wrong))
	}
	if err := v.freshen(); err != nil {
		return v.exportAgain(err)
	}
	var archive bytes.Buffer
	if err := v.Exports.Fetch(v.ctx, v.p, v.id(), api.KeyExportFetch{Passphrase: v.form("passphrase")}, &archive); err != nil {
		return v.exportAgain(err)
	}
	return v.sendArchive(archive.Bytes())
}

func setExportedRecoveryKey(v *visit) error {
	if err := v.freshen(); err != nil {
		return v.exportAgain(err)
	}
	if _, err := v.Exports.SetRecoveryKey(v.ctx, v.p, v.id()); err != nil {
		return v.exportAgain(err)
	}
	return v.to(exportsPath+"/"+v.id(), "saved")
}

// exportAgain shows an export as it is now, with the reason why nothing was done.
func (v *visit) exportAgain(cause error) error {
	status, flash, fields, ok := refusal(cause)
	if !ok {
		return cause
	}
	e, err := v.Exports.Get(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page, err := v.exportedPage(e)
	if err != nil {
		return err
	}
	var groups [][]ui.Field
	for _, f := range page.Forms {
		groups = append(groups, f.Fields)
	}
	explain(flash, mark(fields, groups...))
	page.Flash = flash
	return v.show(status, "export", page)
}

func showExportSettings(v *visit) error {
	in, err := v.Exports.Settings(v.ctx, v.p)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", v.exportSettingsPage(strconv.FormatInt(in.People, 10)))
}

func (v *visit) exportSettingsPage(people string) ui.FormPage {
	write := v.may(rbac.ExportSettingsWrite)
	page := ui.FormPage{
		Frame:  v.frame("Key Export Settings", "Here you can say how many people must agree before keys leave the broker.", crumbAdmin),
		Action: exportSettingsPath, Submit: "Save",
		Lead: []string{"Only Security Administrators take keys out of the broker: by an export of devices, or by a new recovery key. With one, each of them does so alone.",
			"With more, one asks with a reason, others approve, and then the one who asked fetches the keys. What waits already needs no fewer people than before."},
		Fields: []ui.Field{{Name: "people", Label: "People who must agree", Type: "number", Value: people, Min: "1", Max: "10", Required: true, Disabled: !write,
			Help: "The one who asks is one of them. No more than the account has Security Administrators."}},
	}
	if !write {
		page.Submit = ""
	}
	return page
}

func saveExportSettings(v *visit) error {
	people, err := v.number("people")
	if err == nil {
		err = v.Exports.SetSettings(v.ctx, v.p, api.ExportSettings{People: people})
	}
	if err == nil {
		return v.to(exportSettingsPath, "saved")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page := v.exportSettingsPage(v.text("people"))
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
