package policy

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"keyward/broker/api"
)

// Limits of a policy. They bound the work of one appraisal, and are far above the advised 15 rules.
const (
	MaxRules      = 100
	MaxConditions = 50
)

const (
	minLease, maxLease         = 10, 30 * 86400
	minHeartbeat, maxHeartbeat = 1, 86400
	maxApproveAfter            = 30 * 86400
	minRequest, maxRequest     = 60, 30 * 86400
	maxApprovals               = 10
	maxName                    = 32
	maxDescription             = 1024
)

// Validate lists everything that is wrong with a policy as a form would send it; nil means it can be saved.
func Validate(p api.Policy) []FieldError {
	var wrong []FieldError
	refuse := func(bad bool, field, format string, args ...any) {
		if bad {
			wrong = append(wrong, FieldError{field, fmt.Sprintf(format, args...)})
		}
	}
	refuse(strings.TrimSpace(p.Name) == "", "name", "a policy needs a name")
	refuse(utf8.RuneCountInString(p.Name) > maxName, "name", "a name has at most %d characters", maxName)
	refuse(utf8.RuneCountInString(p.Description) > maxDescription, "description", "a description has at most %d characters", maxDescription)

	refuse(!isAction(p.OnMatch), "on_match", "choose approve, manual or deny")
	refuse(!isAction(p.OnFailure), "on_failure", "choose approve, manual or deny")
	if len(p.Rules) == 0 {
		refuse(isAction(p.OnMatch) && p.OnMatch != api.ActionManual, "on_match", "a policy without rules is decided by a person: choose manual, or add a rule")
		refuse(isAction(p.OnFailure) && p.OnFailure != api.ActionManual, "on_failure", "a policy without rules is decided by a person: choose manual, or add a rule")
		refuse(p.ApproveAfterSeconds != 0, "approve_after_seconds", "a policy without rules never approves by itself: choose 0, or add a rule")
	}
	refuse(p.ApproveAfterSeconds < 0 || p.ApproveAfterSeconds > maxApproveAfter, "approve_after_seconds", "choose 0 (never) to %d seconds", maxApproveAfter)
	refuse(p.ApproveAfterSeconds > 0 && isAction(p.OnMatch) && p.OnMatch != api.ActionManual, "approve_after_seconds",
		"a delay applies only when a match waits for a person: choose 0, or on_match manual")

	refuse(p.LeaseSeconds < minLease || p.LeaseSeconds > maxLease, "lease_seconds", "choose %d to %d seconds", minLease, maxLease)
	refuse(p.HeartbeatSeconds < minHeartbeat || p.HeartbeatSeconds > maxHeartbeat, "heartbeat_seconds", "choose %d to %d seconds", minHeartbeat, maxHeartbeat)
	refuse(p.HeartbeatSeconds >= p.LeaseSeconds, "heartbeat_seconds",
		"heartbeats renew the lease, so they must come more often than every %d seconds", p.LeaseSeconds)
	refuse(p.RevokeMode != "" && p.RevokeMode != api.RevokeUnmount && p.RevokeMode != api.RevokeSuspend, "revoke_mode", "choose unmount or suspend")
	wrong = append(wrong, checkChecks(p)...)

	refuse(p.ApprovalsNeeded < 0 || p.ApprovalsNeeded > maxApprovals, "approvals_needed", "choose 1 to %d people", maxApprovals)
	refuse(p.RequestSeconds != 0 && (p.RequestSeconds < minRequest || p.RequestSeconds > maxRequest), "request_seconds", "choose %d to %d seconds", minRequest, maxRequest)
	refuse(p.ApproveAfterSeconds > 0 && p.RequestSeconds > 0 && p.ApproveAfterSeconds >= p.RequestSeconds, "request_seconds",
		"a request that approves itself after %d seconds must live longer than that", p.ApproveAfterSeconds)

	refuse(len(p.Rules) > MaxRules, "rules", "a policy has at most %d rules", MaxRules)
	for i, r := range p.Rules[:min(len(p.Rules), MaxRules)] {
		for _, e := range checkRule(r) {
			wrong = append(wrong, FieldError{fmt.Sprintf("rules[%d].%s", i, e.Field), e.Message})
		}
	}
	return wrong
}

// checkRule lists what is wrong with one rule, by paths inside the rule.
func checkRule(r api.Rule) []FieldError {
	info, ok := lookup(r.Fact)
	if !ok {
		return []FieldError{{"fact", fmt.Sprintf("%q is not a fact that rules can use", r.Fact)}}
	}
	var wrong []FieldError
	if err := checkSubject(info, r.Subject); err != nil {
		wrong = append(wrong, FieldError{"subject", err.Error()})
	}
	// A form shows all/any only when there are several conditions; with one, both mean the same.
	if r.Match != api.MatchAll && r.Match != api.MatchAny && !(r.Match == "" && len(r.Conditions) == 1) {
		wrong = append(wrong, FieldError{"match", "choose all or any"})
	}
	switch {
	case len(r.Conditions) == 0:
		wrong = append(wrong, FieldError{"conditions", "a rule needs a condition"})
	case len(r.Conditions) > 1 && !info.MultipleConditions:
		wrong = append(wrong, FieldError{"conditions", info.Title + " takes one condition"})
	case len(r.Conditions) > MaxConditions:
		return append(wrong, FieldError{"conditions", fmt.Sprintf("a rule has at most %d conditions", MaxConditions)})
	}
	for i, c := range r.Conditions {
		if _, err := compile(info, c); err != nil {
			field := "value"
			if !slices.Contains(info.Operators, c.Operator) {
				field = "operator"
			}
			wrong = append(wrong, FieldError{fmt.Sprintf("conditions[%d].%s", i, field), err.Error()})
		}
	}
	return wrong
}

func isAction(a api.Action) bool {
	return a == api.ActionApprove || a == api.ActionManual || a == api.ActionDeny
}
