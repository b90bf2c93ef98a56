package console

import (
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/ui"
)

func askUnconfigure(v *visit) error {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", v.unconfigurePage(d))
}

func (v *visit) unconfigurePage(d api.Device) ui.FormPage {
	page := ui.FormPage{
		Frame: v.frame("Unconfigure Device", "", crumbDevices...), Action: "/inventory/devices/" + d.ID + "/unconfigure",
		Warning: "The device's key is destroyed for ever. What the device holds can never be decrypted again, by anybody.",
		Facts: []ui.Pair{{Label: "Device", Value: d.Name}, {Label: "Device ID", Value: d.Identity}, {Label: "Status", Value: string(d.Status)},
			{Label: "Mount point", Value: d.MountPoint}},
		Fields: []ui.Field{{Name: "confirm", Label: "Type the device's name to confirm: " + d.Name, Type: "text", Required: true, Match: d.Name, Autocomplete: "off"}},
		Submit: "Unconfigure", Danger: true, Cancel: deviceURL(d),
	}
	if !allowedOn(d).CanUnconfigure {
		page.Disabled, page.Warning = true, ""
		page.Refused = []ui.Pair{{Label: d.Name, Value: "It is " + string(d.Status) + ". A device that is Configured, Encrypted or in error can be unconfigured."}}
	}
	return page
}

func unconfigureDevice(v *visit) error {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	unconfigure := v.Inventory.Unconfigure
	if isRAID(d) {
		unconfigure = v.Inventory.UnconfigureRAIDSet
	}
	err = unconfigure(v.ctx, v.p, d.ID, api.UnconfigureWrite{Confirm: v.form("confirm")})
	if err == nil {
		return v.to("/inventory/devices", "unconfigured")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page := v.unconfigurePage(d)
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}

func askCopy(v *visit) error {
	page, err := v.copyPage()
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", page)
}

func (v *visit) copyPage() (ui.FormPage, error) {
	d, err := v.Inventory.Device(v.ctx, v.p, v.id())
	if err != nil {
		return ui.FormPage{}, err
	}
	all, _, err := v.Inventory.Devices(v.ctx, v.p, inventory.DeviceQuery{})
	if err != nil {
		return ui.FormPage{}, err
	}
	page := ui.FormPage{
		Frame: v.frame("Copy Configuration", "", crumbDevices...), Action: "/inventory/devices/" + d.ID + "/copy",
		Lead: []string{"For a clone that the cloud made of an encrypted device: it takes over the source's configuration and key and is not encrypted again. " +
			"The copy is marked unverified until a machine has opened the device with the copied key."},
		Submit: "Copy", Cancel: deviceURL(d),
	}
	source := ui.Field{Name: "source", Label: "Source device", Type: "select", Required: true, Options: options("", "", "Choose"),
		Help: "Only devices with an encryption key are listed."}
	for _, s := range all {
		if s.ID != d.ID && !isRAID(s) && inventory.Allowed(s.Status).CanCopyFrom && s.Key != nil {
			source.Options = append(source.Options, ui.Option{Value: s.ID, Label: s.Name + " (" + s.Identity + ")"})
		}
	}
	page.Fields = []ui.Field{source}
	if len(source.Options) == 1 {
		page.Disabled, page.Lead = true, append(page.Lead, "No other device has an encryption key yet.")
	}
	return page, nil
}

func copyConfiguration(v *visit) error {
	source := v.form("source")
	err := error(problem.Invalid("source", "choose the device to copy from"))
	if source != "" {
		err = v.Inventory.CopyConfiguration(v.ctx, v.p, v.id(), source)
	}
	if err == nil {
		return v.to("/inventory/devices/"+v.id(), "copied")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	page, err := v.copyPage()
	if err != nil {
		return err
	}
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}
