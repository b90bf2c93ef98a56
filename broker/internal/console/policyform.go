package console

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/policy"
)

// policyForm applies the form to a policy as it is. Reasons name fields that could not be read at all; everything else
// is judged by the service.
func (v *visit) policyForm(current api.Policy) (api.Policy, map[string]string) {
	wrong := map[string]string{}
	in := current
	if v.has("name") && !current.Default {
		in.Name = v.text("name")
	}
	in.Description = v.text("description")
	in.OnMatch, in.OnFailure = api.Action(v.form("on_match")), api.Action(v.form("on_failure"))
	in.RevokeMode = api.RevokeMode(v.form("revoke_mode"))
	for name, to := range map[string]*int64{
		"approve_after_seconds": &in.ApproveAfterSeconds, "lease_seconds": &in.LeaseSeconds, "heartbeat_seconds": &in.HeartbeatSeconds,
		"request_seconds": &in.RequestSeconds,
	} {
		n, err := parseSpan(v.text(name))
		if err != nil {
			wrong[name] = err.Error()
			continue
		}
		*to = n
	}
	v.checkForm(&in, wrong)
	in.ResourcePool, in.SeparateApprover = v.form("resource_pool") == "yes", v.form("separate_approver") == "yes"
	if in.ApprovalsNeeded = 1; v.text("approvals_needed") != "" {
		n, err := v.number("approvals_needed")
		if err != nil || n < 1 || n > 10 {
			wrong["approvals_needed"] = "enter a whole number from 1 to 10"
		}
		in.ApprovalsNeeded = n
	}
	in.ImageIDs, in.DeviceIDs = nil, nil // nil leaves the default policy's computed members alone
	if !current.Default {
		in.ImageIDs, in.DeviceIDs = append([]string{}, v.forms("image")...), append([]string{}, v.forms("device")...)
	}
	in.Rules = v.ruleForms()
	version, err := v.version()
	if err != nil {
		wrong["version"] = "open the page again and repeat the change"
	}
	in.Version = version
	return in, wrong
}

// ruleForms reads rules[0], rules[1] and so on up to the first that is missing.
func (v *visit) ruleForms() []api.Rule {
	rules := []api.Rule{}
	for i := 0; i <= policy.MaxRules; i++ {
		prefix := fmt.Sprintf("rules[%d].", i)
		if !v.has(prefix + "fact") {
			break
		}
		r := api.Rule{Fact: api.FactName(v.form(prefix + "fact")), Subject: v.text(prefix + "subject"), Match: api.Match(v.form(prefix + "match")), Conditions: []api.Condition{}}
		if r.Match == "" {
			r.Match = api.MatchAll
		}
		for j := 0; j <= policy.MaxConditions; j++ {
			condition := fmt.Sprintf("%sconditions[%d].", prefix, j)
			if !v.has(condition + "operator") {
				break
			}
			r.Conditions = append(r.Conditions, api.Condition{Operator: api.Operator(v.form(condition + "operator")), Value: strings.ReplaceAll(v.text(condition+"value"), "\r\n", "\n")})
		}
		rules = append(rules, r)
	}
	return rules
}

// editRules carries out one button of the rules form. After every edit the operators fit their facts.
func editRules(rules []api.Rule, edit string, fact api.FactName, facts []policy.FactInfo) []api.Rule {
	command, rest, _ := strings.Cut(edit, ":")
	first, second, _ := strings.Cut(rest, ":")
	rule, condition := index(first, len(rules)), -1
	if rule >= 0 {
		condition = index(second, len(rules[rule].Conditions))
	}
	switch {
	case command == "add-rule" && len(rules) < policy.MaxRules:
		rules = append(rules, api.Rule{Fact: fact, Match: api.MatchAll, Conditions: []api.Condition{{}}})
	case command == "remove-rule" && rule >= 0:
		rules = slices.Delete(rules, rule, rule+1)
	case command == "add-condition" && rule >= 0 && len(rules[rule].Conditions) < policy.MaxConditions:
		rules[rule].Conditions = append(rules[rule].Conditions, api.Condition{})
	case command == "remove-condition" && rule >= 0 && condition >= 0:
		rules[rule].Conditions = slices.Delete(rules[rule].Conditions, condition, condition+1)
	}
	for i := range rules {
		fit(&rules[i], facts)
	}
	return rules
}

func index(text string, length int) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n >= length {
		return -1
	}
	return n
}

// fit gives a rule a subject, and its conditions an operator and an enum value, that their fact takes.
func fit(r *api.Rule, facts []policy.FactInfo) {
	info, known := factOf(facts, r.Fact)
	if !known {
		return
	}
	if !info.MultipleConditions && len(r.Conditions) > 1 {
		r.Conditions = r.Conditions[:1]
	}
	switch s := info.Subject; {
	case s == nil:
		r.Subject = ""
	case len(s.Values) > 0 && !slices.Contains(s.Values, r.Subject):
		r.Subject = s.Values[0]
	case len(s.Values) == 0 && !s.Accepts(r.Subject):
		r.Subject = ""
	}
	for i := range r.Conditions {
		c := &r.Conditions[i]
		if !slices.Contains(info.Operators, c.Operator) && len(info.Operators) > 0 {
			c.Operator = info.Operators[0]
		}
		if info.Type == policy.TypeEnum && !slices.Contains(info.Values, c.Value) {
			c.Value = info.Values[0]
		}
	}
}

// span writes seconds as people enter them: 90s, 15m, 2h, 3d; nothing for never.
func span(n int64) string {
	if n == 0 {
		return ""
	}
	for _, unit := range spanUnits {
		if n%unit.length == 0 {
			return strconv.FormatInt(n/unit.length, 10) + unit.letter
		}
	}
	return strconv.FormatInt(n, 10) + "s"
}

var spanUnits = []struct {
	letter string
	length int64
}{{"d", 86400}, {"h", 3600}, {"m", 60}, {"s", 1}}

// parseSpan reads what span writes; a number without a letter counts seconds.
func parseSpan(text string) (int64, error) {
	text = strings.ToLower(strings.ReplaceAll(text, " ", ""))
	if text == "" {
		return 0, nil
	}
	length := int64(1)
	for _, unit := range spanUnits {
		if rest, ok := strings.CutSuffix(text, unit.letter); ok {
			text, length = rest, unit.length
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > int64(10*365*24*time.Hour/time.Second)/length {
		return 0, fmt.Errorf("enter a time such as 30s, 15m, 2h or 1d")
	}
	return n * length, nil
}
