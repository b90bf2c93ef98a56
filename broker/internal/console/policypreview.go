package console

import (
	"fmt"
	"net/http"
	"strconv"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/rbac"
	"keyward/ui"
)

// showPreview answers the form of a policy with what the policy would do; nothing is saved. A draft that cannot be saved
// cannot be previewed either, and says why beside its fields.
func (v *visit) showPreview(in api.Policy, wrong map[string]string, replay bool) error {
	page, err := v.policyPage(in)
	if err != nil {
		return err
	}
	switch {
	case len(wrong) > 0:
		err = problem.InvalidFields(wrong)
	case replay:
		err = v.replayInto(&page.Preview, in)
	default:
		err = v.previewInto(&page.Preview, in)
	}
	if err == nil {
		return v.show(http.StatusOK, "policy", page)
	}
	status, flash, fields, ok := refusal(err)
	if !ok {
		return err
	}
	// The form may show another part than the one with the wrong field, so the message names them all.
	explain(flash, mark(fields))
	markPolicy(&page, &ui.Flash{}, fields)
	page.Preview.Flash = flash
	return v.show(status, "policy", page)
}

func (v *visit) previewInto(to *ui.Preview, in api.Policy) error {
	got, err := v.Previews.Policy(v.ctx, v.p, in)
	if err != nil {
		return err
	}
	to.Title, to.Then, to.Now = "If this policy were saved now", "Today", "If saved"
	total := got.After.Approved + got.After.Waits + got.After.Denied + got.After.Keeps + got.After.Revoked + got.After.Unknown
	to.Lead = fmt.Sprintf("%d of %d %s would be judged otherwise than today.", got.Changed, total, plural(total, "device on a machine", "devices on machines"))
	to.Counts = outcomeCounts(got.Before, got.After, true)
	to.None = "No encrypted device on any machine is touched by this policy."
	if got.Unseen > 0 {
		to.Flash = &ui.Flash{Tone: ui.ToneWarn, Title: "Not everything was looked at",
			Text: fmt.Sprintf("%d %s left when the time was over. The command keyward-broker policy plan takes the time it needs.", got.Unseen, plural(got.Unseen, "device was", "devices were"))}
	}
	for _, r := range got.Rows {
		line := ui.PreviewLine{
			Device:   v.link(rbac.DevicesRead, r.DeviceName, "/inventory/devices/", r.DeviceID),
			Instance: v.link(rbac.RunningInstancesRead, r.InstanceName, "/instances/", r.InstanceID),
			Then:     ui.OutcomeBadge(string(r.Before.Outcome)), ThenNote: "by " + r.Before.Policy,
			Now: ui.OutcomeBadge(string(r.After.Outcome)), NowNote: r.After.Reason, Failed: deciders(r.After.Failed),
		}
		if r.RequestID != "" {
			line.Request = v.link(rbac.RunningInstancesRead, "request "+strconv.FormatInt(r.Number, 10), "/key-requests/", r.RequestID)
		}
		if r.FactsAt != nil {
			line.Facts = "facts of " + v.when(*r.FactsAt).Text
		}
		if v.may(rbac.IntegrityChecksRun) && (r.Before.Outcome == api.OutcomeRevoked || r.Before.Outcome == api.OutcomeRevokedLater) {
			line.CheckURL = "/instances/" + r.InstanceID + "/check"
		}
		if r.Missing {
			line.Facts += ", missing"
		}
		to.Rows = append(to.Rows, line)
	}
	to.More = more(got.Omitted)
	return nil
}

func (v *visit) replayInto(to *ui.Preview, in api.Policy) error {
	got, err := v.Previews.Replay(v.ctx, v.p, in, 30)
	if err != nil {
		return err
	}
	to.Title, to.Then, to.Now = "The last 30 days by this policy", "Then", "By this policy"
	to.Lead = fmt.Sprintf("%d of %d key %s since %s would have been answered otherwise.", got.Different, got.Requests,
		plural(got.Requests, "request", "requests"), v.exact(&got.From))
	to.Counts = outcomeCounts(got.Then, got.Now, false)
	to.None = "No request would have been answered otherwise."
	if got.Unseen {
		to.Flash = &ui.Flash{Tone: ui.ToneWarn, Title: "Older requests were not looked at", Text: "The time was over at " + v.exact(&got.From) + "."}
	}
	for _, r := range got.Rows {
		line := ui.PreviewLine{
			Device: ui.Link{Text: r.DeviceName}, Instance: ui.Link{Text: r.InstanceName}, Facts: "asked " + v.when(r.At).Text,
			Request: v.link(rbac.RunningInstancesRead, "request "+strconv.FormatInt(r.Number, 10), "/key-requests/", r.RequestID),
			Then:    ui.OutcomeBadge(string(r.Then)), ThenNote: r.Decision,
			Now: ui.OutcomeBadge(string(r.Now.Outcome)), NowNote: r.Now.Reason, Failed: deciders(r.Now.Failed),
		}
		to.Rows = append(to.Rows, line)
	}
	to.More = more(got.Omitted)
	return nil
}

func more(omitted int64) string {
	if omitted == 0 {
		return ""
	}
	return fmt.Sprintf("%d more are not listed.", omitted)
}

func outcomeCounts(then, now api.OutcomeCounts, holders bool) []ui.PreviewCount {
	rows := []struct {
		outcome   api.Outcome
		then, now int64
	}{{api.OutcomeApproved, then.Approved, now.Approved}, {api.OutcomeWaits, then.Waits, now.Waits}, {api.OutcomeDenied, then.Denied, now.Denied}}
	if holders {
		rows = append(rows, []struct {
			outcome   api.Outcome
			then, now int64
		}{{api.OutcomeKeeps, then.Keeps, now.Keeps}, {api.OutcomeRevoked, then.Revoked, now.Revoked}, {api.OutcomeUnknown, then.Unknown, now.Unknown}}...)
	}
	out := make([]ui.PreviewCount, len(rows))
	for i, r := range rows {
		out[i] = ui.PreviewCount{Outcome: ui.OutcomeBadge(string(r.outcome)), Then: r.then, Now: r.now}
	}
	return out
}

func deciders(failed []api.Finding) []ui.FailedRule {
	var out []ui.FailedRule
	for _, f := range failed {
		rule := ui.FailedRule{Rule: f.Title, Condition: f.Condition, Actual: f.Actual}
		if f.Grade != "" {
			grade := ui.GradeBadge(string(f.Grade))
			rule.Grade = &grade
		}
		out = append(out, rule)
	}
	return out
}
