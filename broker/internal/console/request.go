package console

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/rbac"
	"keyward/ui"
)

var crumbRunning = ui.Link{Text: "Running Instances", URL: "/instances"}

func showRequest(v *visit) error {
	r, err := v.Requests.Get(v.ctx, v.p, v.id())
	if err != nil {
		return err
	}
	page, err := v.requestPage(r)
	if err != nil {
		return err
	}
	return v.show(http.StatusOK, "key-request", page)
}

func (v *visit) requestPage(r api.KeyRequestDetail) (ui.KeyRequestPage, error) {
	state := strings.ToLower(ui.KeyBadge(string(r.Status)).Text)
	if r.Status == api.KeyPending && unknown(r.Integrity) {
		state = "Unknown"
	}
	page := ui.KeyRequestPage{
		Frame: v.frame("Key Request ("+state+")",
			"Here you can see what the machine said of itself beside the rules that judged it.", crumbRunning),
		Key: ui.KeyBadge(string(r.Status)), Integrity: ui.IntegrityBadge(string(r.Integrity)),
		Reason: r.Reason, Back: ui.Link{Text: "Running Instances", URL: "/instances"},
		Device: v.deviceSummary(r), Facts: v.requestFacts(r), History: v.history(r.History),
	}
	if page.Reason == "" && unknown(r.Integrity) {
		page.Reason = sentence(ui.IntegrityReason(string(r.Integrity)))
	}
	if page.Reason == "" {
		page.Reason = r.Verdict.Reason
	}
	page.Approvals = v.approvals(r)
	page.Live = feed.TopicKeyRequests
	page.Rules, page.Values = v.keyValues(r.Verdict.Findings)
	return page, v.openActions(&page, r)
}

func unknown(i api.Integrity) bool { return strings.HasPrefix(string(i), "Unknown") }

// inOnePolicy says whether the device and the image share a policy, without which nobody can approve.
func inOnePolicy(i api.Integrity) bool { return !unknown(i) || i == api.IntegrityUnknownNoRules }

// openActions offers what is still to be decided, to those who may decide it.
func (v *visit) openActions(page *ui.KeyRequestPage, r api.KeyRequestDetail) error {
	switch {
	case r.Status == api.KeyPending:
		if unknown(r.Integrity) && v.may(rbac.KeyRequestsAssignPolicy) {
			assign, err := v.assignForm(r)
			if err != nil {
				return err
			}
			page.Assign = assign
		}
		if v.may(rbac.KeyRequestsDecide) && inOnePolicy(r.Integrity) {
			form, err := v.decideForm(r)
			if err != nil {
				return err
			}
			page.Decide = form
		}
		if page.Decide == nil && page.Assign == nil {
			page.Closed = "This request waits for a decision that your role cannot take."
			if !inOnePolicy(r.Integrity) {
				page.Closed = "This request waits until an Account Administrator puts its device and image into one policy."
			}
		}
	case slices.Contains([]api.KeyStatus{api.KeyDelivered, api.KeyRevokePending, api.KeyRevokeIgnored}, r.Status):
		page.Closed = "This request is decided and cannot be decided again. A delivered key can only be revoked."
		if v.may(rbac.KeyRequestsRevoke) {
			page.Revoke = &ui.Button{Text: "Revoke", Icon: "lock", URL: "/key-requests/" + r.RequestID + "/revoke", Dialog: true, Danger: true}
			if r.Status == api.KeyRevokePending {
				page.Ignore = &ui.Button{Text: "Ignore", Icon: "eye", URL: "/key-requests/" + r.RequestID + "/ignore", Dialog: true}
			}
		}
		if v.may(rbac.IntegrityChecksRun) {
			page.Check = "/key-requests/" + r.RequestID + "/check"
		}
	default:
		page.Closed = "This request is read-only: nothing is left to decide."
	}
	return nil
}

func (v *visit) decideForm(r api.KeyRequestDetail) (*ui.Decide, error) {
	failed := 0
	for _, f := range r.Verdict.Findings {
		if f.Status == api.RuleFailed {
			failed++
		}
	}
	form := &ui.Decide{
		ApproveURL: "/key-requests/" + r.RequestID + "/approve", DenyURL: "/key-requests/" + r.RequestID + "/deny",
		Version: r.Version, Cancel: "/instances",
		Reason: ui.Field{Name: "reason", Label: "Reason", Type: "textarea", MaxLength: 1024,
			Help: "Kept in the audit log together with your name and the facts above."},
	}
	if failed > 0 {
		form.Warning = strconv.Itoa(failed) + " " + plural(int64(failed), "rule", "rules") +
			" failed. Approving gives the key to a machine that does not comply with its policy."
	}
	var err error
	form.Code, err = v.freshCode("To approve: six digits of your authenticator, or a recovery code. Denying needs none.")
	return form, err
}

// approvals shows who has approved where the policy needs several people, or somebody has.
func (v *visit) approvals(r api.KeyRequestDetail) *ui.Approvals {
	if r.ApprovalsNeeded < 2 && len(r.Approvals) == 0 {
		return nil
	}
	out := &ui.Approvals{}
	count := 0
	for _, a := range r.Approvals {
		if a.Void == "" {
			count++
		}
		out.Rows = append(out.Rows, v.approvalRow(a, r.Status == api.KeyPending))
	}
	out.Text = fmt.Sprintf("%d of %d %s approved.", count, r.ApprovalsNeeded, plural(r.ApprovalsNeeded, "person has", "people have"))
	return out
}

// approvalRow is one person's approval of what is still open, or is decided.
func (v *visit) approvalRow(a api.Approval, open bool) ui.ApprovalRow {
	row := ui.ApprovalRow{User: a.User, At: v.when(a.At), Reason: a.Reason, State: ui.Badge{Text: "Counts", Icon: "check", Tone: ui.ToneGood}}
	switch {
	case a.Void != "":
		row.State = ui.Badge{Text: "Does not count: " + a.Void, Icon: "ban", Tone: ui.ToneIdle}
	case open:
		row.State.Text = "Counts until " + v.exact(&a.ExpiresAt)
	}
	return row
}

func (v *visit) assignForm(r api.KeyRequestDetail) (*ui.Assign, error) {
	policies, err := v.Policies.List(v.ctx, v.p)
	if err != nil {
		return nil, err
	}
	field := ui.Field{Name: "policy_id", Label: "Policy", Type: "select", Required: true}
	for _, p := range policies {
		field.Options = append(field.Options, ui.Option{Value: p.ID, Label: p.Name, Selected: p.ID == r.PolicyID})
	}
	text := "The device and the image of this machine are not in one policy. Choose the policy that is to judge the request; both are put into it."
	if r.Integrity == api.IntegrityUnknownNoRules {
		text = "The policy of this device has no rules, so nothing could be judged. Choose another policy to judge the request by its rules."
	}
	return &ui.Assign{URL: "/key-requests/" + r.RequestID + "/assign", Policy: field, Text: text}, nil
}

func (v *visit) deviceSummary(r api.KeyRequestDetail) []ui.Pair {
	d := r.Device
	var pairs []ui.Pair
	name := v.link(rbac.DevicesRead, r.DeviceName, "/inventory/devices/", r.DeviceID)
	if len(d.MemberIDs) > 0 {
		pairs = append(pairs, ui.Pair{Label: "RAID level", Value: "RAID 0 Striping"},
			ui.Pair{Label: "RAID Array ID", Value: name.Text, URL: name.URL},
			ui.Pair{Label: "Devices", Value: strings.Join(d.MemberIDs, "\n")})
	} else {
		pairs = append(pairs, ui.Pair{Label: "Device", Value: name.Text, URL: name.URL}, ui.Pair{Label: "Device ID", Value: d.Identity})
	}
	status := ui.DeviceBadge(string(d.Status))
	image := v.link(rbac.ImagesRead, r.ImageName, "/inventory/images/", r.ImageID)
	return append(pairs,
		ui.Pair{Label: "Status", Badge: &status},
		ui.Pair{Label: "Description", Value: d.Description},
		ui.Pair{Label: "Mount point", Value: d.MountPoint, Code: d.MountPoint != ""},
		ui.Pair{Label: "Type", Value: fileSystemName(d.FileSystem)},
		ui.Pair{Label: "Platform", Value: platformName(d.Platform)},
		ui.Pair{Label: "Write access", Value: accessName(d.Access)},
		ui.Pair{Label: "Image", Value: image.Text, URL: image.URL},
		ui.Pair{Label: "Key size", Value: bits(d.KeyBits)},
	)
}

func (v *visit) requestFacts(r api.KeyRequestDetail) []ui.Pair {
	instance := v.link(rbac.RunningInstancesRead, r.InstanceName, "/instances/", r.InstanceID)
	policy := v.link(rbac.PoliciesRead, r.PolicyName, "/policies/", r.PolicyID)
	pairs := []ui.Pair{
		{Label: "Number", Value: strconv.FormatInt(r.Number, 10)},
		{Label: "Instance", Value: instance.Text, URL: instance.URL},
		{Label: "Provider", Value: r.Provider},
		{Label: "Policy", Value: policy.Text, URL: policy.URL},
		{Label: "Requested", Value: v.exact(&r.RequestedAt)},
	}
	if r.DecidedBy != "" {
		pairs = append(pairs, ui.Pair{Label: "Decided by", Value: r.DecidedBy}, ui.Pair{Label: "Decided", Value: v.exact(r.DecidedAt)})
	}
	if r.Verdict.ApproveAfterSeconds > 0 && r.Status == api.KeyPending {
		pairs = append(pairs, ui.Pair{Label: "Approves itself", Value: seconds(r.Verdict.ApproveAfterSeconds) + " after the request, unless somebody decides before"})
	}
	if r.WaitsFor != "" {
		pairs = append(pairs, ui.Pair{Label: "Waits for", Value: r.WaitsFor})
	}
	if len(r.MayApprove) > 0 {
		pairs = append(pairs, ui.Pair{Label: "May approve", Value: approverNames(r.MayApprove)})
	}
	pairs = append(pairs, v.checkPairs(r)...)
	if r.RequestedDeviceName != "" {
		pairs = append(pairs, ui.Pair{Label: "Asked for", Value: r.RequestedDeviceName + ", which another machine of the resource pool uses"})
	}
	if r.SeparateApprover {
		pairs = append(pairs, ui.Pair{Label: "Approver", Value: "not who enrolled the machine, configured the device, or put it into its policy from this request"})
	}
	if r.ExpiresAt != nil {
		pairs = append(pairs, ui.Pair{Label: "Expires", Value: v.exact(r.ExpiresAt)})
	}
	if r.LeaseExpiresAt != nil {
		pairs = append(pairs, ui.Pair{Label: "Lease ends", Value: v.exact(r.LeaseExpiresAt)})
	}
	if r.RevokeDueAt != nil {
		pairs = append(pairs, ui.Pair{Label: "Revocation due", Value: v.exact(r.RevokeDueAt)})
	}
	return pairs
}

// approverNames are people with their roles, one a line.
func approverNames(people []api.Approver) string {
	lines := make([]string, len(people))
	for i, p := range people {
		lines[i] = p.Name + ", " + roleTitle(string(p.Role))
		if p.DisplayName != "" {
			lines[i] = p.DisplayName + " (" + p.Name + "), " + roleTitle(string(p.Role))
		}
		if p.Locked {
			lines[i] += ", locked now"
		}
	}
	return strings.Join(lines, "\n")
}

// keyValues fills the table of rules: failed first, then passed, then what no rule judges.
func (v *visit) keyValues(findings []api.Finding) ([]ui.RuleCount, []ui.KeyValue) {
	var counts []ui.RuleCount
	var values []ui.KeyValue
	for _, group := range []struct {
		status api.RuleStatus
		name   string
	}{{api.RuleFailed, "failed"}, {api.RulePassed, "passed"}, {api.RuleInformational, "informational"}} {
		count := ui.RuleCount{Name: group.name, Badge: ui.RuleBadge(string(group.status)), Text: "Rule(s) " + string(group.status)}
		for _, f := range findings {
			if f.Status != group.status {
				continue
			}
			count.Count++
			value := ui.KeyValue{Name: group.name, Rule: f.Title, Condition: f.Condition, Actual: f.Actual, Source: f.Source, Status: count.Badge}
			if f.Grade != "" {
				grade := ui.GradeBadge(string(f.Grade))
				value.Grade = &grade
			}
			if f.At != nil {
				at := v.when(*f.At)
				value.At = &at
			}
			values = append(values, value)
		}
		counts = append(counts, count)
	}
	return counts, values
}

func (v *visit) history(events []api.KeyRequestEvent) []ui.HistoryLine {
	var lines []ui.HistoryLine
	for _, e := range events {
		lines = append(lines, ui.HistoryLine{At: v.when(e.At), Status: ui.KeyBadge(string(e.To)), Event: e.Event, Actor: e.Actor, Reason: e.Reason})
	}
	return lines
}
