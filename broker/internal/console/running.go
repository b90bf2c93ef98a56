package console

import (
	"net/http"
	"net/url"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/keyrequest"
	"keyward/rbac"
	"keyward/ui"
)

// statusFilters are the chips of the Running Instances page.
var statusFilters = []struct {
	name, text string
	statuses   []api.KeyStatus
}{
	{"", "All", nil},
	{"pending", "Pending", []api.KeyStatus{api.KeyPending}},
	{"approved", "Approved", []api.KeyStatus{api.KeyApproved, api.KeyDelivered}},
	{"revoking", "Being revoked", []api.KeyStatus{api.KeyRevokePending, api.KeyRevokeIgnored, api.KeyRevoking}},
	{"closed", "Denied or ended", []api.KeyStatus{api.KeyDenied, api.KeyRevoked, api.KeyExpired, api.KeyFailure}},
}

func showRunning(v *visit) error {
	page, size := v.page()
	filter := keyrequest.Filter{Query: v.query("q"), Page: page, Size: size}
	model := ui.RunningInstancesPage{
		Frame: v.frame("Running Instances",
			"Here you can view the machines that asked for the key of a device, and decide on the requests that wait."),
		Search: ui.Field{Name: "q", Label: "Search device, instance, image or policy", Help: "Search", Value: filter.Query},
	}
	model.Live = feed.TopicKeyRequests
	for _, f := range statusFilters {
		q := url.Values{}
		if filter.Query != "" {
			q.Set("q", filter.Query)
		}
		if f.name != "" {
			q.Set("status", f.name)
		}
		chip := ui.Chip{Text: f.text, URL: "/instances", Current: f.name == v.query("status")}
		if len(q) > 0 {
			chip.URL += "?" + q.Encode()
		}
		if chip.Current {
			filter.Statuses, model.Status = f.statuses, f.name
		}
		model.Chips = append(model.Chips, chip)
	}
	var err error
	if model.Notices, err = v.notices(); err != nil {
		return err
	}
	list, err := v.Requests.List(v.ctx, v.p, filter)
	if err != nil {
		return err
	}
	model.Counters = []ui.Counter{
		{Number: list.Instances, Text: plural(list.Instances, "Instance", "Instances"), Tone: ui.ToneIdle, Icon: "server"},
		{Number: list.Pending, Text: "Key(s) Pending", Tone: ui.ToneWarn, Icon: "clock"},
		{Number: list.Approved, Text: "Key(s) Approved", Tone: ui.ToneGood, Icon: "check"},
	}
	for _, r := range list.Rows {
		model.Rows = append(model.Rows, v.requestRow(r))
	}
	query := url.Values{}
	if filter.Query != "" {
		query.Set("q", filter.Query)
	}
	if model.Status != "" {
		query.Set("status", model.Status)
	}
	model.Pager = ui.NewPager("/instances", query, page, size, list.Total)
	model.Empty = v.noRequests(filter)
	return v.show(http.StatusOK, "running-instances", model)
}

func (v *visit) requestRow(r api.RunningInstance) ui.RequestRow {
	keyAge, checked := v.rowAges(r)
	return ui.RequestRow{
		KeyAge: keyAge, Checked: checked, Overdue: r.CheckOverdue,
		ID: r.RequestID, Number: r.Number, Key: ui.KeyBadge(string(r.Status)), Integrity: ui.IntegrityBadge(string(r.Integrity)),
		Unknown: ui.IntegrityReason(string(r.Integrity)), URL: "/key-requests/" + r.RequestID,
		Device:   v.link(rbac.DevicesRead, r.DeviceName, "/inventory/devices/", r.DeviceID),
		Image:    v.link(rbac.ImagesRead, r.ImageName, "/inventory/images/", r.ImageID),
		Instance: v.link(rbac.RunningInstancesRead, r.InstanceName, "/instances/", r.InstanceID),
		Policy:   v.link(rbac.PoliciesRead, r.PolicyName, "/policies/", r.PolicyID),
		Provider: r.Provider, Requested: v.when(r.RequestedAt),
	}
}

// link leads to a thing's page when the viewer may open it, and is plain text otherwise.
func (v *visit) link(op rbac.Operation, text, path, id string) ui.Link {
	if id == "" {
		return ui.Link{Text: text}
	}
	if text == "" {
		text = id
	}
	if !v.may(op) {
		return ui.Link{Text: text}
	}
	return ui.Link{Text: text, URL: path + url.PathEscape(id)}
}

func (v *visit) noRequests(f keyrequest.Filter) ui.Empty {
	if f.Query != "" || len(f.Statuses) > 0 {
		return ui.Empty{Icon: "search", Title: "Nothing matches", Text: "No key request has this status and these words in its names.",
			Action: &ui.Button{Text: "Show all", URL: "/instances"}}
	}
	empty := ui.Empty{Icon: "activity", Title: "No machine has asked for a key yet",
		Text: "A machine appears here when its agent asks for the key of an encrypted device. Enrol a machine first, then configure and encrypt its devices."}
	if v.may(rbac.EnrolmentTokensWrite) {
		empty.Action = &ui.Button{Text: "Create an enrolment token", URL: "/admin/tokens", Icon: "plus", Primary: true}
	}
	return empty
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
