package console

import (
	"net/http"
	"strconv"
	"time"

	"keyward/broker/api"
	"keyward/rbac"
	"keyward/ui"
)

// checkFields are the part of a policy's actions that comes after delivery.
func checkFields(p api.Policy, locked bool) []ui.Field {
	return []ui.Field{
		{Name: "check_enabled", Label: "Enable scheduled integrity checking", Type: "checkbox", Checked: p.CheckEnabled, Disabled: locked,
			Help: "Judges delivered keys again by these rules, at the times of the Scheduled Integrity Check Settings and whenever a check is asked for. Without it a machine is judged once, when it asks."},
		{Name: "check_every_heartbeat", Label: "Check with every heartbeat too", Type: "checkbox", Checked: p.CheckEveryHeartbeat, Disabled: locked},
		{Name: "on_check_failure", Label: "If one or more rule fails in a check", Type: "select", Disabled: locked,
			Options: options(string(p.OnCheckFailure), string(api.CheckNotify), "Notify only", string(api.CheckRevoke), "Revoke encryption key"),
			Help:    "Revoking while programs write may lose or corrupt what they have not written yet."},
		{Name: "postpone_seconds", Label: "Postpone revoke for", Type: "text", Value: span(p.PostponeSeconds), Disabled: locked,
			Help: "A time such as 15m or 2h in which the machine is warned, may comply again, and a person may ignore the failure. Empty revokes at once."},
		{Name: "missing_after_seconds", Label: "Missing after", Type: "text", Value: span(p.MissingAfterSeconds), Disabled: locked,
			Help: "The silence after which a machine leaves Running Instances, 15s at least. Empty for three heartbeats."},
	}
}

// checkForm reads them.
func (v *visit) checkForm(in *api.Policy, wrong map[string]string) {
	in.CheckEnabled, in.CheckEveryHeartbeat = v.form("check_enabled") == "yes", v.form("check_every_heartbeat") == "yes"
	in.OnCheckFailure = api.CheckAction(v.form("on_check_failure"))
	for name, to := range map[string]*int64{"postpone_seconds": &in.PostponeSeconds, "missing_after_seconds": &in.MissingAfterSeconds} {
		n, err := parseSpan(v.text(name))
		if err != nil {
			wrong[name] = err.Error()
			continue
		}
		*to = n
	}
}

func showChecks(v *visit) error {
	s, err := v.Requests.CheckSchedule(v.ctx, v.p)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", v.checksPage(s, s.CheckSettings, span(s.RetrySeconds)))
}

func (v *visit) checksPage(s api.CheckSchedule, in api.CheckSettings, retry string) ui.FormPage {
	write := v.may(rbac.IntegritySettingsWrite)
	weekday := ui.Field{Name: "weekday", Label: "Day of the week", Type: "select", Disabled: !write, Help: "For a weekly schedule.",
		Options: []ui.Option{{Label: "every day", Selected: in.Weekday == ""}}}
	for d := time.Sunday; d <= time.Saturday; d++ {
		name := weekdayName(d)
		weekday.Options = append(weekday.Options, ui.Option{Value: name, Label: d.String(), Selected: name == in.Weekday})
	}
	page := ui.FormPage{
		Frame: v.frame("Scheduled Integrity Check Settings",
			"Here you can say when machines that hold keys are judged again. It counts for every policy with scheduled integrity checking enabled.", crumbPolicies),
		Action: "/policies/checks", Submit: "Save", Cancel: "/policies",
		Facts: []ui.Pair{
			{Label: "Time zone", Value: s.TimeZone},
			{Label: "Policies that check", Value: strconv.FormatInt(s.Policies, 10)},
			{Label: "Last check", Value: v.exact(s.LastAt)},
			{Label: "Next check", Value: v.exact(s.NextAt)},
		},
		Fields: []ui.Field{
			{Name: "schedule", Label: "Schedule", Type: "select", Disabled: !write,
				Options: options(in.Schedule, "", "Not scheduled", api.ScheduleDaily, "Every day", api.ScheduleWeekly, "Every week")},
			weekday,
			{Name: "time", Label: "Time", Type: "text", Value: in.Time, MaxLength: 5, Disabled: !write, Autocomplete: "off",
				Help: "From 00:00 to 23:59 in the account's time zone. A time that a change of the clocks skips counts as the end of the skip; one that the day has twice, as the first."},
			{Name: "retry_seconds", Label: "Period for Key Request Attempt(s)", Type: "text", Value: retry, Disabled: !write,
				Help: "How long a machine whose key a check has taken is given it again as soon as it complies: a time such as 2h or 7d, at most 30d. Empty for never."},
		},
	}
	if s.Waiting > 0 {
		page.Facts = append(page.Facts, ui.Pair{Label: "Keys not checked yet", Value: strconv.FormatInt(s.Waiting, 10)})
	}
	if s.Overdue > 0 {
		page.Warning = strconv.FormatInt(s.Overdue, 10) + " " + plural(s.Overdue, "key has", "keys have") +
			" not been checked although it was due: the machine has not answered. Look at Running Instances."
	}
	if !write {
		page.Submit = ""
	}
	return page
}

func weekdayName(d time.Weekday) string {
	return []string{"sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"}[d]
}

func saveChecks(v *visit) error {
	in := api.CheckSettings{Schedule: v.form("schedule"), Weekday: v.form("weekday"), Time: v.text("time")}
	retry, err := parseSpan(v.text("retry_seconds"))
	if err != nil {
		retry = -1 // refused by the service beside the field
	}
	in.RetrySeconds = retry
	err = v.Requests.SetCheckSettings(v.ctx, v.p, in)
	if err == nil {
		return v.to("/policies/checks", "saved")
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	s, err := v.Requests.CheckSchedule(v.ctx, v.p)
	if err != nil {
		return err
	}
	page := v.checksPage(s, in, v.text("retry_seconds"))
	explain(flash, mark(fields, page.Fields))
	page.Flash = flash
	return v.show(status, "form", page)
}

// checkInstance asks a machine for fresh evidence; the way back is the page that the button was on.
func checkInstance(v *visit) error {
	if _, err := v.Requests.CheckNow(v.ctx, v.p, v.id()); err != nil {
		return err
	}
	return v.to("/instances/"+v.id(), "checking")
}

func checkRequest(v *visit) error {
	r, err := v.Requests.Get(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	if _, err := v.Requests.CheckNow(v.ctx, v.p, r.InstanceID); err != nil {
		return err
	}
	return v.to("/key-requests/"+v.id(), "checking")
}

func checkDevice(v *visit) error {
	if _, err := v.Requests.CheckDevice(v.ctx, v.p, v.id()); err != nil {
		return err
	}
	return v.to("/inventory/devices/"+v.id(), "checking")
}

func askIgnore(v *visit) error {
	r, err := v.Requests.Get(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "form", ui.FormPage{
		Frame:  v.frame("Ignore Failed Check", "", crumbRunning, ui.Link{Text: "Key Request", URL: "/key-requests/" + v.id()}),
		Action: "/key-requests/" + v.id() + "/ignore",
		Lead:   []string{"The machine keeps the key although a check failed, until it complies again. What fails after that counts anew."},
		Facts: []ui.Pair{{Label: "Device", Value: r.DeviceName}, {Label: "Instance", Value: r.InstanceName}, {Label: "What failed", Value: r.Reason},
			{Label: "Key taken at", Value: v.exact(r.RevokeDueAt)}},
		Fields: []ui.Field{{Name: "reason", Label: "Reason", Type: "textarea", MaxLength: 1024, Help: "Kept in the audit log together with your name."}},
		Submit: "Ignore", Danger: true, Cancel: "/key-requests/" + v.id(),
	})
}

func ignoreRequest(v *visit) error {
	if err := v.Requests.Ignore(v.ctx, v.p, v.id(), api.Decision{Reason: v.text("reason")}); err != nil {
		return v.requestAgain(err)
	}
	return v.to("/key-requests/"+v.id(), "ignored")
}

func dismissNotice(v *visit) error {
	if err := v.Requests.Dismiss(v.ctx, v.p, v.id()); err != nil {
		return err
	}
	return v.to("/instances", "dismissed")
}

// shownNotices is how many notices stand above the list of Running Instances.
const shownNotices = 5

// noticeTitles name what happened.
var noticeTitles = map[string]struct {
	text string
	tone ui.Tone
}{
	"integrity-failed":    {"Integrity check failed", ui.ToneBad},
	"check-overdue":       {"Integrity check not answered", ui.ToneWarn},
	"lease-ended":         {"Lease ended without contact", ui.ToneWarn},
	"revoke-overdue":      {"Revocation not confirmed", ui.ToneBad},
	"revoke-failed":       {"Revocation failed", ui.ToneBad},
	"instance-missing":    {"Machine missing", ui.ToneWarn},
	"key-request-failed":  {"Volume could not be opened", ui.ToneWarn},
	"export-waits":        {"Export waits for people", ui.ToneWarn},
	"provisioning-failed": {"Encryption failed", ui.ToneBad},
	"provisioning-idle":   {"Encryption not begun", ui.ToneWarn},
	"raid-member-missing": {"Device of a RAID set missing", ui.ToneBad},
}

func (v *visit) notices() (ui.Notices, error) {
	list, err := v.Requests.Notices(v.ctx, v.p)
	if err != nil {
		return ui.Notices{}, err
	}
	out := ui.Notices{CanDismiss: v.may(rbac.KeyRequestsDecide), More: list.Total - min(int64(len(list.Notices)), shownNotices)}
	for _, n := range list.Notices[:min(len(list.Notices), shownNotices)] {
		title, ok := noticeTitles[n.Kind]
		if !ok {
			title.text, title.tone = n.Kind, ui.ToneInfo
		}
		row := ui.Notice{ID: n.ID, Flash: ui.Flash{Tone: title.tone, Title: title.text, Text: n.Text}, At: v.when(n.At),
			About: ui.Link{Text: n.Device + " on " + n.Instance, URL: "/key-requests/" + n.RequestID}}
		switch {
		case n.ExportID != "":
			row.Stays, row.About = true, ui.Link{Text: "Key export", URL: "/inventory/exports/" + n.ExportID}
		case n.RequestID == "" && n.Device != "":
			row.About.URL = "/inventory/devices/" + n.DeviceID
		case n.RequestID == "": // the device was deleted since
			row.About = ui.Link{Text: "Devices", URL: "/inventory/devices"}
		}
		out.Rows = append(out.Rows, row)
	}
	return out, nil
}

// checkPairs are what checks did and will do to a request.
func (v *visit) checkPairs(r api.KeyRequestDetail) []ui.Pair {
	pairs := []ui.Pair{{Label: "In this status since", Value: v.exact(&r.Since)}}
	add := func(label, value string) {
		if value != "" {
			pairs = append(pairs, ui.Pair{Label: label, Value: value})
		}
	}
	add("Last checked", v.exact(r.CheckedAt))
	if r.CheckOverdue {
		overdue := ui.Badge{Text: "Check overdue", Icon: "alert", Tone: ui.ToneBad}
		pairs = append(pairs, ui.Pair{Label: "Check", Badge: &overdue})
	} else {
		add("Check asked for", v.exact(r.CheckAskedAt))
	}
	if r.LeaseExpiresAt != nil {
		add("Lease", seconds(r.LeaseSeconds)+", renewed every "+seconds(r.HeartbeatSeconds))
		add("When it is taken", map[api.RevokeMode]string{api.RevokeSuspend: "suspended: requests wait", api.RevokeUnmount: "unmounted"}[r.RevokeMode])
	}
	add("Given again until", v.exact(r.RetryUntil))
	return pairs
}

// rowAges are the lines below a request's badges in the list.
func (v *visit) rowAges(r api.RunningInstance) (key, integrity string) {
	switch r.Status {
	case api.KeyRevokePending:
		if r.RevokeAt != nil {
			key = "revoked at " + v.exact(r.RevokeAt)
		}
	case api.KeyRevoking, api.KeyRevoked, api.KeyRevokeIgnored:
		if !r.Since.IsZero() {
			key = "since " + v.exact(&r.Since)
		}
	}
	switch {
	case r.CheckOverdue:
		integrity = "check overdue, last checked " + v.exact(r.CheckedAt)
	case r.CheckedAt != nil && r.CheckedAt.After(r.RequestedAt):
		integrity = "checked " + v.when(*r.CheckedAt).Text
	}
	return key, integrity
}
