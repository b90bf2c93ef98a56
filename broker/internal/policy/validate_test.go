package policy

import (
	"strings"
	"testing"

	"keyward/broker/api"
)

func TestValidate_policy(t *testing.T) {
	t.Parallel()
	good := policyOf(ruleOf(api.FactGuestOS, api.MatchAll, "=", "linux"))
	if wrong := Validate(good); wrong != nil {
		t.Fatal(wrong)
	}
	many := make([]api.Rule, MaxRules+1)
	for i := range many {
		many[i] = good.Rules[0]
	}
	for name, c := range map[string]struct {
		change func(*api.Policy)
		field  string
	}{
		"no name":               {func(p *api.Policy) { p.Name = "  " }, "name"},
		"long name":             {func(p *api.Policy) { p.Name = strings.Repeat("é", 33) }, "name"},
		"long description":      {func(p *api.Policy) { p.Description = strings.Repeat("x", 1025) }, "description"},
		"no action":             {func(p *api.Policy) { p.OnMatch = "" }, "on_match"},
		"unknown action":        {func(p *api.Policy) { p.OnFailure = "maybe" }, "on_failure"},
		"approve without rules": {func(p *api.Policy) { p.Rules, p.OnFailure = nil, api.ActionManual }, "on_match"},
		"deny without rules":    {func(p *api.Policy) { p.Rules, p.OnMatch = nil, api.ActionManual }, "on_failure"},
		"timer without rules": {func(p *api.Policy) {
			p.Rules, p.OnMatch, p.OnFailure, p.ApproveAfterSeconds = nil, api.ActionManual, api.ActionManual, 60
		}, "approve_after_seconds"},
		"timer with approve":        {func(p *api.Policy) { p.ApproveAfterSeconds = 60 }, "approve_after_seconds"},
		"negative timer":            {func(p *api.Policy) { p.OnMatch, p.ApproveAfterSeconds = api.ActionManual, -1 }, "approve_after_seconds"},
		"endless timer":             {func(p *api.Policy) { p.OnMatch, p.ApproveAfterSeconds = api.ActionManual, 1<<40 }, "approve_after_seconds"},
		"no lease":                  {func(p *api.Policy) { p.LeaseSeconds = 9 }, "lease_seconds"},
		"endless lease":             {func(p *api.Policy) { p.LeaseSeconds = 1 << 40 }, "lease_seconds"},
		"no heartbeat":              {func(p *api.Policy) { p.HeartbeatSeconds = 0 }, "heartbeat_seconds"},
		"heartbeat after the lease": {func(p *api.Policy) { p.HeartbeatSeconds = 60 }, "heartbeat_seconds"},
		"revoke mode":               {func(p *api.Policy) { p.RevokeMode = "hope" }, "revoke_mode"},
		"many rules":                {func(p *api.Policy) { p.Rules = many }, "rules"},
		"many conditions": {func(p *api.Policy) {
			p.Rules = []api.Rule{ruleOf(api.FactHostName, api.MatchAny, strings.Split(strings.Repeat("=;a;", MaxConditions)+"=;a", ";")...)}
		}, "rules[0].conditions"},
		"rule without condition": {func(p *api.Policy) { p.Rules = []api.Rule{ruleOf(api.FactHostName, api.MatchAll)} }, "rules[0].conditions"},
		"rule without match":     {func(p *api.Policy) { p.Rules = []api.Rule{ruleOf(api.FactHostName, "", "=", "a", "=", "b")} }, "rules[0].match"},
		"unknown fact":           {func(p *api.Policy) { p.Rules = append(p.Rules, ruleOf("shoe_size", api.MatchAll, "=", "42")) }, "rules[1].fact"},
		"two access types (Z-09)": {func(p *api.Policy) {
			p.Rules = []api.Rule{ruleOf(api.FactAccessType, api.MatchAny, "=", "read-only", "=", "read-write")}
		}, "rules[0].conditions"},
	} {
		p := good
		c.change(&p)
		wrong := Validate(p)
		if len(wrong) == 0 || wrong[0].Field != c.field || wrong[0].Message == "" {
			t.Errorf("%s: %v, want %s", name, wrong, c.field)
		}
	}
	manual := good
	manual.Rules, manual.OnMatch, manual.OnFailure = nil, api.ActionManual, api.ActionManual
	if wrong := Validate(manual); wrong != nil {
		t.Errorf("a policy without rules that leaves it to a person: %v", wrong)
	}
}

// H-27: an invalid value is refused with the reason.
func TestValidate_values(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fact     api.FactName
		operator api.Operator
		value    string
		says     string
	}{
		{api.FactAccessType, "=", "write", "not one of"},
		{api.FactAccessType, "!=", "read-only", `does not take "!="`},
		{api.FactGuestOS, "=", "Linux", "not one of linux, windows"},
		{api.FactGuestOS, "matches", ".*", "does not take"},
		{api.FactMountPoint, "matches", "(", "RE2"},
		{api.FactMountPoint, "matches", "a)|(?:b", "RE2"},
		{api.FactMountPoint, "matches", `(a)\1`, "RE2"},
		{api.FactMountPoint, "matches", "(a{1000}){1000}", "RE2"},
		{api.FactMountPoint, "=", "", "value is needed"},
		{api.FactMountPoint, "=", "   ", "value is needed"},
		{api.FactMountPoint, "=", strings.Repeat("x", 4097), "4096"},
		{api.FactLocation, "in", "a,,b", "empty entry"},
		{api.FactLocation, "in", "a,", "empty entry"},
		{api.FactRequestDate, "=", "22.11.2026", "YYYY-MM-DD"},
		{api.FactRequestDate, "=", "11/22/2026", "YYYY-MM-DD"},
		{api.FactRequestDate, "=", "2026-02-30", "YYYY-MM-DD"},
		{api.FactRequestDate, "=", "now-1y", "YYYY-MM-DD"},
		{api.FactRequestDate, "=", "now-", "YYYY-MM-DD"},
		{api.FactRequestDate, "=", "now--1d", "YYYY-MM-DD"},
		{api.FactRequestDate, "=", "now-99999999d", "YYYY-MM-DD"},
		{api.FactRequestDate, "between", "2026-11-22", "low..high"},
		{api.FactRequestDate, "between", "2026-11-23..2026-11-22", "low end"},
		{api.FactRequestDate, "between", "now-1d..now-2d", "low end"},
		{api.FactRequestDate, "older than", "60", "does not take"},
		{api.FactLastSeen, "older than", "1h", "number of seconds"},
		{api.FactLastSeen, "older than", "-1", "number of seconds"},
		{api.FactLastSeen, "older than", "99999999999999999999", "number of seconds"},
		{api.FactTCPPorts, "contains", "http", "port number"},
		{api.FactTCPPorts, "contains", "0", "port number"},
		{api.FactTCPPorts, "contains", "65536", "port number"},
		{api.FactTCPPorts, "contains", "-1", "port number"},
		{api.FactTCPPorts, "contains", "80,,443", "empty entry"},
		{api.FactTCPPorts, "contains", "1..1023", "name each port"},
		{api.FactTCPPorts, "does not contain", "1023..1", "low end"},
		{api.FactTCPPorts, "only these", "1..70000", "port number"},
		{api.FactSourceIPv4, "=", "192.168.1", "not an IP address"},
		{api.FactSourceIPv4, "=", "192.168.1.256", "not an IP address"},
		{api.FactSourceIPv4, "=", "192.168.001.1", "not an IP address"},
		{api.FactSourceIPv4, "=", "2001:db8::1", "use the rule Request Source IP Address (IPv6)"},
		{api.FactSourceIPv4, "in", "192.168.0.0/33", "address prefix"},
		{api.FactSourceIPv4, "in", "192.168.1.1/16", "did you mean 192.168.0.0/16"},
		{api.FactSourceIPv4, "in", "::ffff:0.0.0.0/90", "IPv4 prefix"},
		{api.FactSourceIPv4, "in", "10.0.0.0/8,2001:db8::/32", "use the rule"},
		{api.FactSourceIPv4, "between", "10.0.0.9..10.0.0.1", "low end"},
		{api.FactSourceIPv4, "between", "10.0.0.1", "low..high"},
		{api.FactSourceIPv4, ">=", "10.0.0.0/8", "not an IP address"},
		{api.FactSourceIPv6, "=", "192.0.2.1", "use the rule Request Source IP Address (IPv4)"},
		{api.FactSourceIPv6, "=", "::ffff:192.0.2.1", "use the rule Request Source IP Address (IPv4)"},
		{api.FactSourceIPv6, "=", "fe80::1%eth0", "zone"},
		{api.FactSourceIPv6, "in", "2001:db8::1/32", "did you mean 2001:db8::/32"},
		{api.FactAgentVersion, "=", "latest", "starts with a number"},
		{api.FactAgentVersion, "=", strings.Repeat("1.", 100), "128"},
		{api.FactAgentVersion, "between", "2.0..1.0", "low end"},
		{api.FactAgentVersion, "contains", "1", "does not take"},
	} {
		wrong := Validate(policyOf(ruleOf(c.fact, api.MatchAll, string(c.operator), c.value)))
		if len(wrong) != 1 || !strings.Contains(wrong[0].Message, c.says) || !strings.HasPrefix(wrong[0].Field, "rules[0].conditions[0].") {
			t.Errorf("%s %s %.40q: %v, want %q", c.fact, c.operator, c.value, wrong, c.says)
		}
	}
}
