package console

import (
	"cmp"
	"net/http"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/rbac"
	"keyward/ui"
)

// maxChosen bounds one action on chosen rows.
const maxChosen = 100

func (v *visit) chosenIDs(values []string) ([]string, error) {
	if len(values) == 0 {
		return nil, problem.Invalid("id", "nothing is chosen: go back and tick at least one row")
	}
	if len(values) > maxChosen {
		return nil, problem.Invalid("id", "too many rows are chosen at once")
	}
	return values, nil
}

func askEncrypt(v *visit) error {
	ids, err := v.chosenIDs(v.queries("id"))
	if err != nil {
		return err
	}
	page, err := v.encryptPage(ids)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", page)
}

func (v *visit) encryptPage(ids []string) (ui.FormPage, error) {
	page := ui.FormPage{
		Frame: v.frame("Encrypt Devices", "", crumbDevices...), Action: "/inventory/devices/encrypt",
		Warning: "Encryption destroys everything that the device holds now. There is no way back.",
		Submit:  "Encrypt", Danger: true, Cancel: "/inventory/devices",
	}
	devices, refused, err := v.chosen(ids, func(d api.Device) bool { return allowedOn(d).CanEncrypt }, notEncryptable)
	if err != nil {
		return page, err
	}
	page.Refused = refused
	page.Disabled = len(devices) == 0
	for _, d := range devices {
		page.Hidden = append(page.Hidden, ui.Pair{Label: "id", Value: d.ID})
		page.Facts = append(page.Facts, ui.Pair{Label: d.Name, Value: strings.TrimSpace(size(d.Size) + ", holds: " + contents(d))})
		if !isEmpty(d) {
			page.Fields = append(page.Fields, ui.Field{Name: "destroy." + d.ID, Type: "checkbox", Required: true,
				Label: "Destroy what " + d.Name + " holds: " + contents(d)})
		}
		page.Fields = append(page.Fields, ui.Field{Name: "confirm." + d.ID, Label: "Type the device's name to confirm: " + d.Name,
			Type: "text", Required: true, Match: d.Name, Autocomplete: "off"})
	}
	if len(devices) > 0 {
		page.Fields = append(page.Fields, ui.Field{Name: "wait", Label: "Wait for the machine", Type: "text", Value: cmp.Or(v.text("wait"), span(api.DefaultEncryptWait)),
			Help: "At most 30d. A machine that has not begun by then is not waited for: the device is Configured again, and nothing on it has changed."})
	}
	return page, nil
}

func notEncryptable(d api.Device) string {
	if d.RAIDSetID != "" {
		return "A member is encrypted with its RAID set."
	}
	return "Only a configured device or RAID set can be encrypted."
}

func isEmpty(d api.Device) bool { return d.Contents == "empty" }

func contents(d api.Device) string {
	if d.Contents == "" {
		return "unknown"
	}
	return d.Contents
}

// encryptDevices checks every confirmation before it orders the first encryption.
func encryptDevices(v *visit) error {
	ids, err := v.chosenIDs(v.forms("id"))
	if err != nil {
		return err
	}
	page, err := v.encryptPage(ids)
	if err != nil {
		return err
	}
	wrong := map[string]string{}
	for _, f := range page.Fields {
		switch {
		case f.Match != "" && v.form(f.Name) != f.Match:
			wrong[f.Name] = "this is not the device's name"
		case f.Type == "checkbox" && !v.has(f.Name):
			wrong[f.Name] = "tick this to say that the contents may be destroyed"
		}
	}
	wait, err := parseSpan(v.text("wait"))
	if err != nil || wait > api.MaxEncryptWait {
		wrong["wait"] = "enter a time such as 30m, 12h or 2d, at most 30d"
	}
	if len(wrong) > 0 || len(page.Refused) > 0 {
		mark(wrong, page.Fields)
		page.Flash = &ui.Flash{Tone: ui.ToneBad, Title: "Nothing was encrypted", Text: "Correct what is marked below and try again."}
		return v.show(http.StatusUnprocessableEntity, "form", page)
	}
	for _, id := range ids {
		err := v.Inventory.Encrypt(v.ctx, v.p, id, api.EncryptWrite{Confirm: v.form("confirm." + id), Destroy: v.has("destroy." + id), WaitSeconds: wait})
		if err != nil {
			return err
		}
	}
	return v.to("/inventory/devices", "encrypting")
}

func askCancel(v *visit) error {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page := ui.FormPage{
		Frame: v.frame("Cancel Encryption", "", crumbDevices...), Action: "/inventory/devices/" + d.ID + "/cancel",
		Lead:   []string{"The machine has not started yet. The device becomes Configured again; nothing on it changes."},
		Facts:  []ui.Pair{{Label: "Device", Value: d.Name}},
		Submit: "Cancel Encryption", Cancel: deviceURL(d), Disabled: !allowedOn(d).CanCancel,
	}
	if page.Disabled {
		page.Lead = nil
		page.Refused = []ui.Pair{{Label: d.Name, Value: "It is " + string(d.Status) + ". Only a pending encryption can be cancelled."}}
	}
	return v.show(http.StatusOK, "form", page)
}

func cancelEncryption(v *visit) error {
	if err := v.Inventory.CancelEncryption(v.ctx, v.p, v.id()); err != nil {
		return err
	}
	return v.to("/inventory/devices", "cancelled")
}

func askDeleteDevices(v *visit) error {
	ids, err := v.chosenIDs(v.queries("id"))
	if err != nil {
		return err
	}
	devices, refused, err := v.chosen(ids, func(d api.Device) bool { return allowedOn(d).CanDelete },
		func(api.Device) string {
			return "Only a device that no inventory lists any more (Undetected), or a RAID set that is Not configured or misses a device, can be deleted."
		})
	if err != nil {
		return err
	}
	page := ui.FormPage{
		Frame: v.frame("Delete Devices", "", crumbDevices...), Action: "/inventory/devices/delete", Refused: refused,
		Warning: "The keys of these devices are destroyed for ever. What they hold can never be read again.",
		Submit:  "Delete", Danger: true, Cancel: "/inventory/devices", Disabled: len(devices) == 0,
	}
	for _, d := range devices {
		page.Hidden = append(page.Hidden, ui.Pair{Label: "id", Value: d.ID})
		page.Facts = append(page.Facts, ui.Pair{Label: d.Name, Value: d.Identity})
	}
	if page.Disabled {
		page.Warning = ""
	}
	return v.show(http.StatusOK, "form", page)
}

func deleteDevices(v *visit) error {
	ids, err := v.chosenIDs(v.forms("id"))
	if err != nil {
		return err
	}
	for _, id := range ids {
		d, err := v.Inventory.Device(v.ctx, v.p, id)
		if err != nil {
			return err
		}
		remove := v.Inventory.DeleteDevice
		if isRAID(d) {
			if !v.may(rbac.RAIDSetsWrite) {
				return problem.Forbidden(string(rbac.RAIDSetsWrite))
			}
			remove = v.Inventory.DeleteRAIDSet
		}
		if err := remove(v.ctx, v.p, id); err != nil {
			return err
		}
	}
	return v.to("/inventory/devices", "deleted")
}
