package console

import (
	"bytes"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
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

func (v *visit) exportPage(ids []string) (ui.FormPage, error) {
	page := ui.FormPage{
		Frame: v.frame("Export Device Keys", "", crumbDevices...), Action: "/inventory/devices/export",
		Lead: []string{"The archive holds one file a device. Each is encrypted under the passphrase: whoever has both can read the device without this broker. " +
			"The export is written to the audit log."},
		Fields: []ui.Field{
			{Name: "passphrase", Label: "Passphrase", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "new-password",
				Help: "At least 8 characters. It is not kept anywhere and cannot be recovered.", Strength: true},
			{Name: "repeat", Label: "Confirm passphrase", Type: "password", Required: true, MaxLength: 1024, Autocomplete: "new-password"},
		},
		Submit: "Export", Cancel: "/inventory/devices", Download: true,
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
	passphrase := v.form("passphrase")
	reasons := map[string]string{}
	if len([]rune(passphrase)) < 8 {
		reasons["passphrase"] = "enter at least 8 characters"
	} else if passphrase != v.form("repeat") {
		reasons["repeat"] = "this differs from the passphrase above"
	}
	var archive bytes.Buffer
	flash := &ui.Flash{Tone: ui.ToneBad, Title: "Nothing was exported", Text: "Correct what is marked below and try again."}
	status := http.StatusUnprocessableEntity
	if len(reasons) == 0 {
		err := v.Inventory.Export(v.ctx, v.p, api.ExportWrite{DeviceIDs: ids, Passphrase: passphrase}, &archive)
		if err == nil {
			v.http.Set("Content-Type", "application/zip")
			v.http.Set("Content-Disposition", `attachment; filename="`+inventory.ExportName(v.now)+`"`)
			return v.http.Send(archive.Bytes())
		}
		var ok bool
		if status, flash, reasons, ok = refusal(err); !ok {
			return err
		}
	}
	page, err := v.exportPage(ids)
	if err != nil {
		return err
	}
	explain(flash, mark(reasons, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
