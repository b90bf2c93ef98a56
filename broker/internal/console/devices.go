package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/rbac"
	"keyward/ui"
)

var crumbDevices = []ui.Link{{Text: "Inventory"}, {Text: "Devices", URL: "/inventory/devices"}}

// deviceFilters are the statuses of the Devices page's chips.
var deviceFilters = []api.DeviceStatus{
	api.DeviceNotConfigured, api.DeviceConfigured, api.DeviceEncryptionPending, api.DeviceEncrypting, api.DeviceEncryptionError,
	api.DeviceEncrypted, api.DeviceInUse, api.DeviceUndetected, api.DeviceMissing,
}

func showDevices(v *visit) error {
	page, size := v.page()
	q := inventory.DeviceQuery{Search: v.query("q"), Page: page, Size: size}
	query := url.Values{}
	if q.Search != "" {
		query.Set("q", q.Search)
	}
	model := ui.DevicesPage{
		Frame:  v.frame("Devices", "Here you can view the devices that machines have published, configure and encrypt them.", crumbDevices[0]),
		Search: ui.Field{Name: "q", Label: "Search devices", Help: "Search", Value: q.Search},
	}
	model.Live = feed.TopicDevices
	chip := func(text string, status api.DeviceStatus) {
		link := url.Values{}
		if q.Search != "" {
			link.Set("q", q.Search)
		}
		if status != "" {
			link.Set("status", string(status))
		}
		current := v.query("status") == string(status)
		if current && status != "" {
			q.Status, model.Status = []api.DeviceStatus{status}, string(status)
			query.Set("status", string(status))
		}
		address := "/inventory/devices"
		if len(link) > 0 {
			address += "?" + link.Encode()
		}
		model.Chips = append(model.Chips, ui.Chip{Text: text, URL: address, Current: current})
	}
	chip("All", "")
	for _, status := range deviceFilters {
		chip(string(status), status)
	}
	devices, total, err := v.Inventory.Devices(v.ctx, v.p, q)
	if err != nil {
		return err
	}
	for _, d := range devices {
		model.Rows = append(model.Rows, v.deviceRow(d))
	}
	model.Actions = v.deviceActions()
	if v.may(rbac.RAIDSetsWrite) {
		model.Create = &ui.Button{Text: "Create RAID Set", Icon: "plus", URL: "/inventory/raid-sets/new", Primary: true}
	}
	model.Pager = ui.NewPager("/inventory/devices", query, page, size, total)
	model.Empty = v.noDevices(q)
	return v.show(http.StatusOK, "devices", model)
}

func (v *visit) noDevices(q inventory.DeviceQuery) ui.Empty {
	if q.Search != "" || len(q.Status) > 0 {
		return ui.Empty{Icon: "search", Title: "Nothing matches", Text: "No device has this status and these words in its name, identity or mount point.",
			Action: &ui.Button{Text: "Show all", URL: "/inventory/devices"}}
	}
	empty := ui.Empty{Icon: "disk", Title: "No devices yet", Text: "Devices appear when an enrolled machine publishes its inventory. Its root disk is never listed."}
	if v.may(rbac.EnrolmentTokensWrite) {
		empty.Action = &ui.Button{Text: "Create an enrolment token", URL: "/admin/tokens", Icon: "plus", Primary: true}
	}
	return empty
}

func isRAID(d api.Device) bool { return d.MemberIDs != nil }

func deviceURL(d api.Device) string {
	if isRAID(d) {
		return "/inventory/raid-sets/" + d.ID
	}
	return "/inventory/devices/" + d.ID
}

func allowedOn(d api.Device) inventory.Actions {
	if isRAID(d) {
		return inventory.AllowedRAID(d.Status)
	}
	a := inventory.Allowed(d.Status)
	if d.RAIDSetID != "" { // what happens to its set happens to it
		return inventory.Actions{CanEditName: a.CanEditName, CanExport: a.CanExport}
	}
	return a
}

func (v *visit) deviceRow(d api.Device) ui.DeviceRow {
	var allows []string
	a := allowedOn(d)
	for _, action := range []struct {
		name string
		can  bool
	}{{"encrypt", a.CanEncrypt}, {"export", a.CanExport}, {"delete", a.CanDelete}} {
		if action.can {
			allows = append(allows, action.name)
		}
	}
	detail := d.StatusDetail
	if detail == "" && d.Rotation != nil {
		detail = "Rotation of its key waits"
	}
	return ui.DeviceRow{
		ID: d.ID, Device: ui.Link{Text: d.Name, URL: deviceURL(d)}, Identity: d.Identity, Size: size(d.Size),
		Status: ui.DeviceBadge(string(d.Status)), Detail: detail, Mount: d.MountPoint,
		Policy:   v.link(rbac.PoliciesRead, d.PolicyName, "/policies/", d.PolicyID),
		Instance: v.link(rbac.RunningInstancesRead, d.InstanceName, "/instances/", d.InstanceID),
		RAID:     isRAID(d), Allows: strings.Join(allows, " "),
	}
}

func (v *visit) deviceActions() []ui.DeviceAction {
	all := []struct {
		op rbac.Operation
		ui.DeviceAction
	}{
		{rbac.DevicesEncrypt, ui.DeviceAction{Name: "encrypt", Text: "Encrypt", Icon: "lock", URL: "/inventory/devices/encrypt"}},
		{rbac.DevicesExport, ui.DeviceAction{Name: "export", Text: "Export", Icon: "download", URL: "/inventory/devices/export"}},
		{rbac.DevicesDelete, ui.DeviceAction{Name: "delete", Text: "Delete", Icon: "trash", URL: "/inventory/devices/delete", Danger: true}},
	}
	var actions []ui.DeviceAction
	for _, a := range all {
		if v.may(a.op) {
			actions = append(actions, a.DeviceAction)
		}
	}
	return actions
}

// chosen reads the devices named by ?id= (or the form's id) and parts them by whether the action is possible.
func (v *visit) chosen(ids []string, can func(api.Device) bool, why func(api.Device) string) (possible []api.Device, refused []ui.Pair, err error) {
	for _, id := range ids {
		d, err := v.Inventory.Device(v.ctx, v.p, id)
		if err != nil {
			return nil, nil, err
		}
		if can(d) {
			possible = append(possible, d)
		} else {
			refused = append(refused, ui.Pair{Label: d.Name, Value: "It is " + string(d.Status) + ". " + why(d)})
		}
	}
	slices.SortFunc(possible, func(a, b api.Device) int { return strings.Compare(a.Name, b.Name) })
	return possible, refused, nil
}
