package console

import (
	"bytes"
	"net/http"

	"keyward/broker/api"
	"keyward/ui"
)

func askExport(v *visit) error {
	ids, err := v.chosenIDs(v.queries("id"))
	if err != nil {
		return err
	}
	page, err := v.exportPage(ids)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", page)
}

// exportPage exports at once where one person is enough, and asks for the export where others have to agree.
func (v *visit) exportPage(ids []string) (ui.FormPage, error) {
	page := ui.FormPage{
		Frame: v.frame("Export Device Keys", "", crumbDevices...), Action: "/inventory/devices/export",
		Lead: []string{"The archive holds one file a device. Each is encrypted under the passphrase: whoever has both can read the device without this broker. " +
			"The export is written to the audit log."},
		Fields: passphraseFields(), Submit: "Export", Cancel: "/inventory/devices", Download: true,
	}
	settings, err := v.Exports.Settings(v.ctx, v.p)
	if err != nil {
		return page, err
	}
	if settings.People > 1 {
		page.Lead = []string{"Others have to agree before these keys leave the broker. Ask for the export here; when enough of them have approved it, fetch it on its page under a passphrase."}
		page.Fields = []ui.Field{{Name: "reason", Label: "Reason", Type: "textarea", Required: true, MaxLength: 1024, Help: "The others decide by it. It is kept in the audit log."}}
		page.Submit, page.Download = "Ask", false
	}
	devices, refused, err := v.chosen(ids, func(d api.Device) bool { return allowedOn(d).CanExport }, func(api.Device) string {
		return "Only a device that is Encrypted or In-use has a key to export."
	})
	if err != nil {
		return page, err
	}
	page.Refused, page.Disabled = refused, len(devices) == 0
	for _, d := range devices {
		page.Hidden = append(page.Hidden, ui.Pair{Label: "id", Value: d.ID})
		page.Facts = append(page.Facts, ui.Pair{Label: d.Name, Value: d.Identity})
	}
	return page, nil
}

func exportDevices(v *visit) error {
	ids, err := v.chosenIDs(v.forms("id"))
	if err != nil {
		return err
	}
	settings, err := v.Exports.Settings(v.ctx, v.p)
	if err != nil {
		return err
	}
	if settings.People > 1 {
		e, err := v.Exports.Ask(v.ctx, v.p, api.KeyExportWrite{DeviceIDs: ids, Reason: v.text("reason")})
		if err == nil {
			return v.to(exportsPath+"/"+e.ID, "export-asked")
		}
		return v.exportPageAgain(ids, err)
	}
	reasons := v.wrongPassphrase()
	if len(reasons) > 0 {
		page, err := v.exportPage(ids)
		if err != nil {
			return err
		}
		mark(reasons, page.Fields)
		page.Flash = &ui.Flash{Tone: ui.ToneBad, Title: "Nothing was exported", Text: "Correct what is marked below and try again."}
		return v.show(http.StatusUnprocessableEntity, "form", page)
	}
	var archive bytes.Buffer
	if err := v.Inventory.Export(v.ctx, v.p, api.ExportWrite{DeviceIDs: ids, Passphrase: v.form("passphrase")}, &archive); err != nil {
		return v.exportPageAgain(ids, err)
	}
	return v.sendArchive(archive.Bytes())
}

// exportPageAgain shows the form with what was wrong.
func (v *visit) exportPageAgain(ids []string, cause error) error {
	status, flash, fields, ok := refusal(cause)
	if !ok {
		return cause
	}
	page, err := v.exportPage(ids)
	if err != nil {
		return err
	}
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
