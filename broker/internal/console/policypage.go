package console

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/policy"
	"keyward/rbac"
	"keyward/ui"
)

func (v *visit) policyPage(p api.Policy) (ui.PolicyPage, error) {
	write := v.may(rbac.PoliciesWrite)
	title, intro := "Edit Policy: "+p.Name, "Here you can change which machines are given keys, and under which conditions."
	switch {
	case p.ID == "":
		title, intro = "Add Policy", "Six steps: name, images, devices, rules, actions and a preview. Finish saves the policy."
	case !write:
		title, intro = "Policy: "+p.Name, "Here you can see which machines are given keys, and under which conditions."
	}
	page := ui.PolicyPage{
		Frame: v.frame(title, intro, crumbPolicies), New: p.ID == "", Default: p.Default, CanWrite: write, Action: "/policies/new",
		Version: p.Version, Back: ui.Link{Text: "Policies", URL: "/policies"}, NoRules: len(p.Rules) == 0,
		Info: []ui.Field{
			{Name: "name", Label: "Name", Type: "text", Value: p.Name, Required: true, MaxLength: 32, Disabled: !write || p.Default, Help: "1 to 32 characters."},
			{Name: "description", Label: "Description", Type: "textarea", Value: p.Description, MaxLength: 1024, Disabled: !write},
			{Name: "resource_pool", Label: "Enable resource pooling", Type: "checkbox", Checked: p.ResourcePool, Disabled: !write,
				Help: "Each machine of this policy gets one of its devices: the one that it asks for or, when another machine uses that, a free one that it sees."},
		},
		Actions: actionFields(p, !write), Preview: ui.Preview{CanRun: write},
	}
	if p.Default {
		page.Info[0].Help = "The default policy keeps its name."
	}
	if p.ID != "" {
		page.Action = "/policies/" + p.ID
	}
	facts := v.Policies.Facts()
	for i, r := range p.Rules {
		page.Rules = append(page.Rules, ruleForm(i, r, facts, !write))
	}
	for _, f := range facts {
		page.Facts = append(page.Facts, ui.Option{Value: string(f.Name), Label: f.Title})
	}
	var err error
	if page.Images, err = v.imagePicker(p, !write || p.Default); err != nil {
		return page, err
	}
	page.Devices, err = v.devicePicker(p, !write || p.Default)
	return page, err
}

func (v *visit) imagePicker(p api.Policy, locked bool) (ui.Picker, error) {
	picker := ui.Picker{Name: "image", SearchHint: "Search images", Empty: "No image is registered yet.",
		Note: "An image may be in several policies. One that leaves its last policy returns to the default policy."}
	if p.Default {
		picker.Note = "The default policy receives every new image. To move an image, add it to another policy there."
	}
	images, err := v.Inventory.Images(v.ctx, v.p)
	if err != nil {
		return picker, err
	}
	for _, i := range images {
		picker.Rows = append(picker.Rows, ui.Candidate{ID: i.ID, Name: i.Name, Detail: i.Identity + ", " + i.Provider,
			Checked: slices.Contains(p.ImageIDs, i.ID), Locked: locked})
	}
	return picker, nil
}

func (v *visit) devicePicker(p api.Policy, locked bool) (ui.Picker, error) {
	picker := ui.Picker{Name: "device", SearchHint: "Search devices", Empty: "No device is registered yet.",
		Note: "A device is in exactly one policy: choosing it here takes it out of the other. One that is taken out returns to the default policy."}
	if p.Default {
		picker.Note = "The default policy receives every new device. To move a device, add it to another policy there."
	}
	devices, _, err := v.Inventory.Devices(v.ctx, v.p, inventory.DeviceQuery{})
	if err != nil {
		return picker, err
	}
	for _, d := range devices {
		row := ui.Candidate{ID: d.ID, Name: d.Name, Detail: d.Identity + ", " + d.InstanceName, Checked: slices.Contains(p.DeviceIDs, d.ID), Locked: locked}
		if !row.Checked && d.PolicyName != "" {
			row.Note = "in " + d.PolicyName
		}
		picker.Rows = append(picker.Rows, row)
	}
	return picker, nil
}

func actionFields(p api.Policy, locked bool) []ui.Field {
	actions := []string{string(api.ActionApprove), "Approve", string(api.ActionManual), "Manual Approve", string(api.ActionDeny), "Deny"}
	return slices.Concat([]ui.Field{
		{Name: "on_match", Label: "If all rules match", Type: "select", Options: options(string(p.OnMatch), actions...), Disabled: locked},
		{Name: "approve_after_seconds", Label: "Approve by itself after", Type: "text", Value: span(p.ApproveAfterSeconds), Disabled: locked,
			Help: "Only with Manual Approve above: a time such as 30s, 15m or 2h after which a request that matched every rule is approved if nobody acts. Empty for never."},
		{Name: "on_failure", Label: "If one or more rule fails", Type: "select", Options: options(string(p.OnFailure), actions...), Disabled: locked},
		{Name: "approvals_needed", Label: "People who must approve", Type: "number", Value: strconv.FormatInt(max(p.ApprovalsNeeded, 1), 10), Min: "1", Max: "10", Disabled: locked,
			Help: "Where a person decides, this many different people must approve within 24 hours of each other; one denial ends the request."},
		{Name: "separate_approver", Label: "Not by who brought the request about", Type: "checkbox", Checked: p.SeparateApprover, Disabled: locked,
			Help: "Who made the machine's enrolment token, configured the device, or put it into its policy from the request, may not approve."},
		{Name: "request_seconds", Label: "Requests wait for", Type: "text", Value: span(requestLife(p)), Disabled: locked,
			Help: "How long a request waits for people before it expires, from 60s to 30d."},
		{Name: "lease_seconds", Label: "Lease", Type: "text", Value: span(p.LeaseSeconds), Required: true, Disabled: locked,
			Help: "How long a delivered key lives when the machine and this broker lose contact, from 10s to 30d. It is also how long an outage of the broker may last."},
		{Name: "heartbeat_seconds", Label: "Heartbeat", Type: "text", Value: span(p.HeartbeatSeconds), Required: true, Disabled: locked,
			Help: "How often the machine reports and its lease is renewed; shorter than the lease."},
		{Name: "revoke_mode", Label: "When a key is revoked", Type: "select", Disabled: locked,
			Options: options(string(p.RevokeMode), "", "As fits: suspend if a check may take the key, else unmount", string(api.RevokeUnmount), "Unmount the volume", string(api.RevokeSuspend), "Suspend: requests wait until the key is granted again"),
			Help:    "Either way programs that are writing may lose what they have not written yet; suspending keeps the file system consistent."},
	}, checkFields(p, locked))
}

// requestLife is how long requests of a policy wait; a week where nobody has said anything else.
func requestLife(p api.Policy) int64 {
	if p.RequestSeconds == 0 {
		return 7 * 86400
	}
	return p.RequestSeconds
}

func factOf(facts []policy.FactInfo, name api.FactName) (policy.FactInfo, bool) {
	i := slices.IndexFunc(facts, func(f policy.FactInfo) bool { return f.Name == name })
	if i < 0 {
		return policy.FactInfo{Name: name, Title: string(name)}, false
	}
	return facts[i], true
}

func ruleForm(index int, r api.Rule, facts []policy.FactInfo, locked bool) ui.RuleForm {
	info, known := factOf(facts, r.Fact)
	prefix := fmt.Sprintf("rules[%d].", index)
	form := ui.RuleForm{
		Index: index, Title: strconv.Itoa(index + 1), Help: info.Help, ShowMatch: len(r.Conditions) > 1, CanAdd: info.MultipleConditions,
		Fact: ui.Field{Name: prefix + "fact", Label: "Fact", Type: "select", Disabled: locked},
		Match: ui.Field{Name: prefix + "match", Label: "Match", Type: "select", Disabled: locked,
			Options: options(string(r.Match), string(api.MatchAll), "all conditions", string(api.MatchAny), "any condition")},
	}
	if !known {
		form.Help = "This broker does not know the fact; the rule fails."
	}
	for _, f := range facts {
		form.Fact.Options = append(form.Fact.Options, ui.Option{Value: string(f.Name), Label: f.Title, Selected: f.Name == r.Fact})
	}
	form.Fact.Options = keep(form.Fact.Options, string(r.Fact))
	if info.Type == policy.TypeExpression {
		form.Names = factNames(facts)
	}
	if info.Subject != nil || r.Subject != "" {
		form.Subject = subjectField(prefix, r.Subject, info.Subject, locked)
	}
	for i, c := range r.Conditions {
		form.Conditions = append(form.Conditions, conditionForm(prefix, i, c, info, len(r.Conditions) == 1, locked))
	}
	return form
}

// factNames are the facts as an expression writes them.
func factNames(facts []policy.FactInfo) []ui.Pair {
	var names []ui.Pair
	for _, f := range facts {
		name := "facts." + string(f.Name)
		if f.Subject != nil {
			name += `["` + f.Subject.Example + `"]`
		}
		if f.Type != policy.TypeExpression {
			names = append(names, ui.Pair{Label: f.Title, Value: name, Code: true})
		}
	}
	return names
}

// subjectField asks of which package, file or product a fact is.
func subjectField(prefix, subject string, info *policy.SubjectInfo, locked bool) *ui.Field {
	f := &ui.Field{Name: prefix + "subject", Label: "Subject", Type: "text", Value: subject, MaxLength: 4096, Disabled: locked, Autocomplete: "off"}
	if info == nil {
		return f
	}
	f.Label, f.Help = info.Title, info.Help
	if len(info.Values) > 0 {
		f.Type = "select"
		f.Options = keep(options(subject, twice(info.Values)...), subject)
	}
	return f
}

// twice makes values their own labels.
func twice(values []string) []string {
	var out []string
	for _, v := range values {
		out = append(out, v, v)
	}
	return out
}

func conditionForm(prefix string, index int, c api.Condition, info policy.FactInfo, only, locked bool) ui.ConditionForm {
	prefix += fmt.Sprintf("conditions[%d].", index)
	form := ui.ConditionForm{
		Index: index, Last: only,
		Operator: ui.Field{Name: prefix + "operator", Label: "Operator", Type: "select", Disabled: locked},
		Value:    ui.Field{Name: prefix + "value", Label: "Value", Type: "text", Value: c.Value, MaxLength: 4096, Disabled: locked, Autocomplete: "off"},
	}
	for _, o := range info.Operators {
		form.Operator.Options = append(form.Operator.Options, ui.Option{Value: string(o), Label: string(o), Selected: o == c.Operator})
	}
	form.Operator.Options = keep(form.Operator.Options, string(c.Operator))
	switch {
	case info.Type == policy.TypeEnum:
		form.Value.Type = "select"
		form.Value.Options = keep(options(c.Value, twice(info.Values)...), c.Value)
	case info.Type == policy.TypeSet && len(info.Values) > 0:
		form.Value.Help = "Of " + strings.Join(info.Values, ", ")
	case info.Example != "":
		form.Value.Help = "For example " + info.Example
	}
	if info.Type == policy.TypeExpression {
		form.Value.Type, form.Value.Label = "textarea", "Expression"
	}
	return form
}

// markPolicy puts reasons such as "rules[2].conditions[0].value" beside their controls.
func markPolicy(page *ui.PolicyPage, flash *ui.Flash, reasons map[string]string) {
	var rest []string
	for _, line := range mark(reasons, page.Info, page.Actions) {
		name, reason, _ := strings.Cut(line, ": ")
		if !markRule(page.Rules, name, reason) {
			rest = append(rest, line)
		}
	}
	explain(flash, rest)
}

func markRule(rules []ui.RuleForm, name, reason string) bool {
	for i := range rules {
		r := &rules[i]
		prefix := fmt.Sprintf("rules[%d].", r.Index)
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		fields := []*ui.Field{&r.Fact}
		if r.Subject != nil {
			fields = append(fields, r.Subject)
		}
		if r.ShowMatch {
			fields = append(fields, &r.Match)
		}
		for j := range r.Conditions {
			fields = append(fields, &r.Conditions[j].Operator, &r.Conditions[j].Value)
		}
		for _, f := range fields {
			if f.Name == name {
				f.Error = sentence(reason)
				return true
			}
		}
		r.Error = sentence(reason)
		return true
	}
	return false
}
