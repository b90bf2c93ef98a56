package policy

import (
	"strings"
	"testing"

	"keyward/broker/api"
)

// H-10 Deep Security Status: seven enumerations.
var deepSecurityExpectations = func() []expectation {
	out := []expectation{
		{api.FactDSMStatus, api.OpEqual, "green", []string{"green"}, []string{"yellow", "red", "grey", "Green", ""}},
		{api.FactDSMStatus, api.OpNotEqual, "red", []string{"green", "yellow", "grey"}, []string{"red", "on"}},
	}
	// What a machine is found by.
	out = append(out,
		expectation{api.FactHardwareUUID, api.OpEqual, "4c4c4544-0032", []string{"4c4c4544-0032"}, []string{"4c4c4544-0033", ""}},
		expectation{api.FactHardwareUUID, api.OpNotEqual, "4c4c4544-0032", []string{"4c4c4544-0033"}, []string{"4c4c4544-0032"}},
		expectation{api.FactHardwareUUID, api.OpIn, "4c4c4544-0032, 4c4c4544-0034", []string{"4c4c4544-0034"}, []string{"4c4c4544-0033"}})
	for _, name := range []api.FactName{api.FactDSMAntiMalware, api.FactDSMWebReputation, api.FactDSMFirewall, api.FactDSMIntrusionPrevention,
		api.FactDSMIntegrityMonitoring, api.FactDSMLogInspection} {
		out = append(out,
			expectation{name, api.OpEqual, "on", []string{"on"}, []string{"off", "warning", "error", "not-capable", ""}},
			expectation{name, api.OpNotEqual, "error", []string{"on", "off", "warning", "not-capable"}, []string{"error", "green"}})
	}
	return out
}()

// G-12, W-01: with the connection disabled its rules are not used, which never lets a policy approve without a rule.
func TestAppraise_unusedRules(t *testing.T) {
	t.Parallel()
	healthy := ruleOf(api.FactDSMAntiMalware, api.MatchAll, "=", "on")
	named := ruleOf(api.FactHostName, api.MatchAll, "=", "db-01")
	unused := map[api.FactName]string{api.FactDSMAntiMalware: "the connection is disabled"}
	for _, tc := range []struct {
		name   string
		rules  []api.Rule
		host   string
		unused map[api.FactName]string
		want   api.Integrity
		action api.Action
	}{
		{"used and missing", []api.Rule{named, healthy}, "db-01", nil, api.IntegrityBad, api.ActionDeny},
		{"unused beside one that passes", []api.Rule{named, healthy}, "db-01", unused, api.IntegrityGood, api.ActionApprove},
		{"unused beside one that fails", []api.Rule{named, healthy}, "db-02", unused, api.IntegrityBad, api.ActionDeny},
		{"nothing but unused", []api.Rule{healthy}, "db-01", unused, api.IntegrityUnknownNoRules, api.ActionManual},
	} {
		c := one(api.FactHostName, tc.host)
		c.Unused = tc.unused
		v := Appraise(policyOf(tc.rules...), c)
		if v.Integrity != tc.want || v.Action != tc.action {
			t.Errorf("%s: %s, %s: %s", tc.name, v.Integrity, v.Action, v.Reason)
		}
		shown := false
		for _, f := range v.Findings {
			shown = shown || f.Status == api.RuleInformational && strings.HasPrefix(f.Actual, "not used: ") && f.Condition == "= on"
		}
		if v.Integrity != api.IntegrityUnknownNoRules && shown != (tc.unused != nil) {
			t.Errorf("%s: %+v", tc.name, v.Findings)
		}
	}
}
