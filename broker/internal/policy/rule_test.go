package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// one makes a context in which exactly this fact is known.
func one(name api.FactName, values ...string) Context {
	c := Context{DeviceInPolicy: true, ImageInPolicy: true, Now: now}
	fact := api.Fact{Name: name, Subject: subjectOf(name), Values: values, Source: "test", Grade: api.GradeSelfReported}
	if info, _ := lookup(name); info.Observed {
		fact.Grade = api.GradeBrokerObserved
		c.Observed = []api.Fact{fact}
	} else {
		c.Evidence.Facts = []api.Fact{fact}
	}
	return c
}

// subjectOf is the example of a fact's subject; empty for facts of the whole machine.
func subjectOf(name api.FactName) string {
	if info, _ := lookup(name); info.Subject != nil {
		return info.Subject.Example
	}
	return ""
}

// valuesOf splits what an expectation says of a set: numbers by blanks, texts by bars.
func valuesOf(name api.FactName, text string) []string {
	switch info, _ := lookup(name); {
	case info.Type == TypeNumberSet:
		return strings.Fields(text)
	case info.Type == TypeSet && text == "":
		return nil
	case info.Type == TypeSet:
		return strings.Split(text, "|")
	}
	return []string{text}
}

func policyOf(rules ...api.Rule) api.Policy {
	return api.Policy{Name: "p", Rules: rules, OnMatch: api.ActionApprove, OnFailure: api.ActionDeny, LeaseSeconds: 60, HeartbeatSeconds: 5, RevokeMode: api.RevokeUnmount}
}

func ruleOf(name api.FactName, match api.Match, conditions ...string) api.Rule {
	r := api.Rule{Fact: name, Subject: subjectOf(name), Match: match}
	for i := 0; i < len(conditions); i += 2 {
		r.Conditions = append(r.Conditions, api.Condition{Operator: api.Operator(conditions[i]), Value: conditions[i+1]})
	}
	return r
}

// expectation says which values of a fact meet a condition and which do not. valuesOf splits those of sets.
type expectation struct {
	fact     api.FactName
	operator api.Operator
	value    string
	meets    []string
	fails    []string
}

// The rules of Table 4-3 (H-11 to H-18, H-20, H-21) and those promised in prose, operator by operator.
var expectations = []expectation{
	// H-11 Device Access Type
	{api.FactAccessType, api.OpEqual, "read-only", []string{"read-only"}, []string{"read-write", "", "READ-ONLY", "none"}},
	// H-12 Device Mount Point
	{api.FactMountPoint, api.OpEqual, "/mnt/secure", []string{"/mnt/secure"}, []string{"/mnt/Secure", "/mnt/secure/", "/mnt", ""}},
	{api.FactMountPoint, api.OpNotEqual, "/", []string{"/mnt", "X"}, []string{"/"}},
	{api.FactMountPoint, api.OpStartsWith, "/mnt/", []string{"/mnt/", "/mnt/a/b"}, []string{"/mnt", "/srv/mnt/", ""}},
	{api.FactMountPoint, api.OpMatches, `/mnt/[a-z]+|[D-Z]`, []string{"/mnt/data", "X"}, []string{"/mnt/data2", "/mnt/data\n", "evil/mnt/data", "C", "XY"}},
	// H-13 Guest OS Information
	{api.FactGuestOS, api.OpEqual, "linux", []string{"linux"}, []string{"windows", "Linux", "beos"}},
	{api.FactGuestOS, api.OpNotEqual, "windows", []string{"linux"}, []string{"windows", "beos", ""}},
	{api.FactArchitecture, api.OpEqual, "64", []string{"64"}, []string{"32", "64 bit", "064"}},
	{api.FactArchitecture, api.OpNotEqual, "32", []string{"64"}, []string{"32", "16"}},
	// H-14 Key Request Date: a day is a whole day in UTC
	{api.FactRequestDate, api.OpEqual, "2026-11-22", []string{"2026-11-22T00:00:00Z", "2026-11-22T23:59:59.999Z", "2026-11-23T00:30:00+01:00"}, []string{"2026-11-21T23:59:59Z", "2026-11-23T00:00:00Z", "yesterday", "2026-11-22"}},
	{api.FactRequestDate, api.OpLess, "2026-11-22", []string{"2026-11-21T23:59:59Z"}, []string{"2026-11-22T00:00:00Z", "2027-01-01T00:00:00Z"}},
	{api.FactRequestDate, api.OpLessEqual, "2026-11-22", []string{"2026-11-22T23:59:59Z"}, []string{"2026-11-23T00:00:00Z"}},
	{api.FactRequestDate, api.OpGreater, "2026-11-22", []string{"2026-11-23T00:00:00Z"}, []string{"2026-11-22T23:59:59Z"}},
	{api.FactRequestDate, api.OpGreaterEqual, "2026-11-22T12:00:00Z", []string{"2026-11-22T12:00:00Z"}, []string{"2026-11-22T11:59:59Z"}},
	{api.FactRequestDate, api.OpBetween, "2026-11-01..2026-11-30", []string{"2026-11-01T00:00:00Z", "2026-11-30T23:59:59Z"}, []string{"2026-10-31T23:59:59Z", "2026-12-01T00:00:00Z"}},
	// H-15 Instance Last Seen, Instance First Seen: dates and ages, counted from now
	{api.FactLastSeen, api.OpOlderThan, "3600", []string{"2026-11-22T10:59:59Z"}, []string{"2026-11-22T11:00:00Z", "2026-11-22T11:30:00Z", "2026-11-22T13:00:00Z"}},
	{api.FactLastSeen, api.OpGreaterEqual, "now-24h", []string{"2026-11-21T12:00:00Z", "2026-11-22T11:59:00Z"}, []string{"2026-11-21T11:59:59Z"}},
	{api.FactLastSeen, api.OpGreater, "now-60s", []string{"2026-11-22T11:59:01Z"}, []string{"2026-11-22T11:59:00Z"}},
	{api.FactLastSeen, api.OpLess, "2026-11-22", []string{"2026-11-21T00:00:00Z"}, []string{"2026-11-22T00:00:00Z"}},
	{api.FactLastSeen, api.OpLessEqual, "now", []string{"2026-11-22T12:00:00Z"}, []string{"2026-11-22T12:00:01Z"}},
	{api.FactFirstSeen, api.OpOlderThan, "86400", []string{"2026-11-20T00:00:00Z"}, []string{"2026-11-22T00:00:00Z"}},
	{api.FactFirstSeen, api.OpLess, "now-30d", []string{"2026-10-01T00:00:00Z"}, []string{"2026-11-01T00:00:00Z"}},
	{api.FactFirstSeen, api.OpLessEqual, "2026-11-01", []string{"2026-11-01T12:00:00Z"}, []string{"2026-11-02T00:00:00Z"}},
	{api.FactFirstSeen, api.OpGreater, "2026-11-01", []string{"2026-11-02T00:00:00Z"}, []string{"2026-11-01T12:00:00Z"}},
	{api.FactFirstSeen, api.OpGreaterEqual, "2026-11-01", []string{"2026-11-01T00:00:00Z"}, []string{"2026-10-31T23:59:59Z"}},
	// H-16 Instance User Data
	{api.FactUserData, api.OpEqual, "DataKey=MySecret-Key", []string{"DataKey=MySecret-Key"}, []string{"DataKey=MySecret-Key ", "datakey=mysecret-key"}},
	{api.FactUserData, api.OpContains, "DataKey=", []string{"a DataKey=1 b"}, []string{"DataKey", ""}},
	{api.FactUserData, api.OpMatches, `(?s).*DataKey=[0-9]+.*`, []string{"a\nDataKey=1"}, []string{"DataKey=x"}},
	// H-17 Instance Location
	{api.FactLocation, api.OpEqual, "us-east-1c", []string{"us-east-1c"}, []string{"us-east-1", "us-east-1cc"}},
	{api.FactLocation, api.OpNotEqual, "us-east-1c", []string{"eu-west-1a"}, []string{"us-east-1c"}},
	{api.FactLocation, api.OpIn, "us-east-1a, us-east-1c", []string{"us-east-1a", "us-east-1c"}, []string{"us-east-1b", "us-east-1a, us-east-1c", ""}},
	// H-18 Network Services
	{api.FactTCPPorts, api.OpContains, "22, 443", []string{"22 443", "80 443 22"}, []string{"22", "443 80", "2243"}},
	{api.FactTCPPorts, api.OpLacks, "23, 80", []string{"22 443", "8080"}, []string{"80", "22 23"}},
	{api.FactTCPPorts, api.OpLacks, "1..21, 23..1023", []string{"22 8080", "1024"}, []string{"22 80", "1", "1023"}},
	{api.FactTCPPorts, api.OpOnly, "22, 443", []string{"22", "22 443"}, []string{"22 443 80", "444"}},
	{api.FactTCPPorts, api.OpOnly, "22, 30000..32767", []string{"22 30000 32767"}, []string{"22 29999", "32768"}},
	{api.FactUDPPorts, api.OpContains, "53", []string{"53 123"}, []string{"123"}},
	{api.FactUDPPorts, api.OpLacks, "69", []string{"68"}, []string{"68 69"}},
	{api.FactUDPPorts, api.OpOnly, "68, 123", []string{"68"}, []string{"68 500"}},
	// H-20 Request Source IP Address (IPv4), with H-28: an IPv4-mapped IPv6 address is IPv4
	{api.FactSourceIPv4, api.OpEqual, "192.168.1.1", []string{"192.168.1.1", "::ffff:192.168.1.1"}, []string{"192.168.1.11", "192.168.1.2", "2001:db8::1", "192.168.1.1.1"}},
	{api.FactSourceIPv4, api.OpEqual, "192.168.0.0/16", []string{"192.168.255.255", "::ffff:192.168.3.4"}, []string{"192.169.0.0", "192.167.255.255"}},
	{api.FactSourceIPv4, api.OpNotEqual, "10.0.0.0/8", []string{"11.0.0.0", "9.255.255.255"}, []string{"10.1.2.3", "::ffff:10.1.2.3"}},
	{api.FactSourceIPv4, api.OpIn, "192.0.2.7, 198.51.100.0/24", []string{"192.0.2.7", "198.51.100.255"}, []string{"192.0.2.8", "198.51.101.0"}},
	{api.FactSourceIPv4, api.OpBetween, "1.1.1.1..1.1.1.200", []string{"1.1.1.1", "1.1.1.9", "1.1.1.200"}, []string{"1.1.1.0", "1.1.1.201", "1.1.2.100"}},
	{api.FactSourceIPv4, api.OpGreaterEqual, "1.1.1.9", []string{"1.1.1.9", "1.1.1.10"}, []string{"1.1.1.8"}},
	{api.FactSourceIPv4, api.OpLessEqual, "1.1.1.10", []string{"1.1.1.9", "1.1.1.10"}, []string{"1.1.1.11"}},
	// H-21 Request Source IP Address (IPv6)
	{api.FactSourceIPv6, api.OpEqual, "2001:db8::1428:57ab", []string{"2001:db8::1428:57ab", "2001:0DB8:0:0:0:0:1428:57AB"}, []string{"2001:db8::1428:57ac", "192.0.2.1"}},
	{api.FactSourceIPv6, api.OpEqual, "2001:db8::/96", []string{"2001:db8::ffff:ffff"}, []string{"2001:db8::1:0:0"}},
	{api.FactSourceIPv6, api.OpNotEqual, "fe80::/10", []string{"2001:db8::1"}, []string{"febf::1", "fe80::1%eth0"}},
	{api.FactSourceIPv6, api.OpIn, "2001:db8:1::/48, ::1", []string{"::1", "2001:db8:1:ffff::"}, []string{"2001:db8:2::", "::2"}},
	{api.FactSourceIPv6, api.OpBetween, "2001:db8::10..2001:db8::20", []string{"2001:db8::10", "2001:db8::1f"}, []string{"2001:db8::f", "2001:db8::21"}},
	{api.FactSourceIPv6, api.OpGreaterEqual, "2001:db8::a", []string{"2001:db8::10"}, []string{"2001:db8::9"}},
	{api.FactSourceIPv6, api.OpLessEqual, "2001:db8::a", []string{"2001:db8::9"}, []string{"2001:db8::b"}},
	// Host Name and OS Name
	{api.FactHostName, api.OpEqual, "db-01", []string{"db-01"}, []string{"db-010", "DB-01"}},
	{api.FactHostName, api.OpNotEqual, "db-01", []string{"db-02"}, []string{"db-01"}},
	{api.FactHostName, api.OpIn, "a, b", []string{"a", "b"}, []string{"c", "a, b"}},
	{api.FactHostName, api.OpStartsWith, "db-", []string{"db-01"}, []string{"xdb-01"}},
	{api.FactHostName, api.OpContains, ".example.", []string{"a.example.org"}, []string{"example"}},
	{api.FactHostName, api.OpMatches, `db-\d+`, []string{"db-7"}, []string{"db-7.evil.example", "xdb-7"}},
	{api.FactOSName, api.OpEqual, "Debian GNU/Linux 12 (bookworm)", []string{"Debian GNU/Linux 12 (bookworm)"}, []string{"Debian"}},
	{api.FactOSName, api.OpNotEqual, "Debian", []string{"Ubuntu"}, []string{"Debian"}},
	{api.FactOSName, api.OpIn, "Debian, Ubuntu", []string{"Ubuntu"}, []string{"Fedora"}},
	{api.FactOSName, api.OpStartsWith, "Debian", []string{"Debian GNU/Linux"}, []string{"GNU Debian"}},
	{api.FactOSName, api.OpContains, "bookworm", []string{"12 (bookworm)"}, []string{"13 (trixie)"}},
	{api.FactOSName, api.OpMatches, `Debian .*`, []string{"Debian 12"}, []string{"Not Debian 12"}},
	// Versions, with H-26: compared number by number
	{api.FactAgentVersion, api.OpEqual, "1.2", []string{"1.2", "1.2.0", "v1.2", "01.02"}, []string{"1.20", "1.2.1", "1.2-rc1", "one"}},
	{api.FactAgentVersion, api.OpNotEqual, "1.2", []string{"1.3", "1.2-rc1"}, []string{"1.2.0", "?"}},
	{api.FactAgentVersion, api.OpLess, "9.180", []string{"9.9", "9.179.9999", "9.180-rc2"}, []string{"9.180", "9.181", "10.0"}},
	{api.FactAgentVersion, api.OpLessEqual, "9.180", []string{"9.180", "9.9"}, []string{"9.180.1"}},
	{api.FactAgentVersion, api.OpGreater, "9.9", []string{"9.180", "10"}, []string{"9.9", "9.9.0", "9.8.9999"}},
	{api.FactAgentVersion, api.OpGreaterEqual, "9.180.1104", []string{"9.180.1104", "9.180.2000", "99999999999999999999999.1"}, []string{"9.180.1103", "9.9.1104"}},
	{api.FactAgentVersion, api.OpBetween, "1.0..1.9", []string{"1.0", "1.9", "1.4.7"}, []string{"0.9", "1.9.1", "1.10"}},
	{api.FactKernelVersion, api.OpEqual, "6.1.0-18", []string{"6.1.0-18-amd64", "6.1.0-18"}, []string{"6.1.0-17-amd64"}},
	{api.FactKernelVersion, api.OpNotEqual, "5.10", []string{"5.10.1"}, []string{"5.10.0+"}},
	{api.FactKernelVersion, api.OpLess, "6.1", []string{"5.19.17-2", "6.1-rc8"}, []string{"6.1.0"}},
	{api.FactKernelVersion, api.OpLessEqual, "6.1", []string{"6.1.0-generic"}, []string{"6.1.1"}},
	{api.FactKernelVersion, api.OpGreater, "3.10.0-1160", []string{"3.10.0-1161.el7.x86_64", "4.18.0-553.16.1.el8_10.x86_64"}, []string{"3.10.0-1160.el7.x86_64", "3.10.0-957.el7.x86_64"}},
	{api.FactKernelVersion, api.OpGreaterEqual, "6.1.0-18", []string{"6.1.0-21-amd64", "6.12"}, []string{"6.1.0-9-amd64"}},
	{api.FactKernelVersion, api.OpBetween, "5.4..6.6", []string{"5.15.0-1051-aws"}, []string{"4.19", "6.8"}},
	{api.FactOSVersion, api.OpEqual, "22.04", []string{"22.04", "22.4"}, []string{"22.10"}},
	{api.FactOSVersion, api.OpNotEqual, "22.04", []string{"24.04"}, []string{"22.04"}},
	{api.FactOSVersion, api.OpLess, "12", []string{"11.9"}, []string{"12"}},
	{api.FactOSVersion, api.OpLessEqual, "12", []string{"12"}, []string{"12.5"}},
	{api.FactOSVersion, api.OpGreater, "12", []string{"12.5"}, []string{"12"}},
	{api.FactOSVersion, api.OpGreaterEqual, "12", []string{"12", "13"}, []string{"9"}},
	{api.FactOSVersion, api.OpBetween, "11..12", []string{"11", "12"}, []string{"10", "12.1"}},
}

func TestRule_everyTypeAndOperator(t *testing.T) {
	t.Parallel()
	tested := map[string]bool{}
	for _, e := range everyExpectation {
		tested[fmt.Sprint(e.fact, e.operator)] = true
		p := policyOf(ruleOf(e.fact, api.MatchAll, string(e.operator), e.value))
		if wrong := Validate(p); len(wrong) > 0 {
			t.Errorf("%s %s %q cannot be saved: %v", e.fact, e.operator, e.value, wrong)
			continue
		}
		judged := func(value string) api.Verdict {
			return Appraise(p, one(e.fact, valuesOf(e.fact, value)...))
		}
		for _, value := range e.meets {
			if v := judged(value); v.Integrity != api.IntegrityGood || v.Action != api.ActionApprove {
				t.Errorf("%s %s %q: %q fails: %+v", e.fact, e.operator, e.value, value, v.Findings)
			}
		}
		for _, value := range e.fails {
			if v := judged(value); v.Integrity != api.IntegrityBad || v.Action != api.ActionDeny {
				t.Errorf("%s %s %q: %q passes", e.fact, e.operator, e.value, value)
			}
		}
	}
	for _, info := range Facts() {
		for _, op := range info.Operators {
			if info.Type != TypeExpression && !tested[fmt.Sprint(info.Name, op)] {
				t.Errorf("no expectation for %s with %q", info.Name, op)
			}
		}
	}
}

// H-03: a rule that gets no data fails, and says so.
func TestRule_withoutDataFails(t *testing.T) {
	t.Parallel()
	for _, e := range everyExpectation {
		p := policyOf(ruleOf(e.fact, api.MatchAny, string(e.operator), e.value))
		info, _ := lookup(e.fact)
		if !info.MultipleConditions {
			p.Rules[0].Match = api.MatchAll
		}
		nothing := Context{DeviceInPolicy: true, ImageInPolicy: true, Now: now}
		uncollected := one(e.fact)
		if info.Observed {
			uncollected.Observed[0].Missing = "netstat is not installed"
		} else {
			uncollected.Evidence.Facts[0].Missing = "netstat is not installed"
		}
		for why, c := range map[string]Context{"not reported": nothing, "netstat is not installed": uncollected} {
			v := Appraise(p, c)
			if v.Integrity != api.IntegrityBad || v.Action != api.ActionDeny || v.Findings[0].Status != api.RuleFailed || !strings.HasPrefix(v.Findings[0].Actual, "no data: "+why) {
				t.Errorf("%s %s, %s: %+v", e.fact, e.operator, why, v)
			}
		}
		if !info.Type.set() && Appraise(p, one(e.fact)).Integrity != api.IntegrityBad {
			t.Errorf("%s %s: passes without a value", e.fact, e.operator)
		}
		if !info.Type.set() && Appraise(p, one(e.fact, e.meets[0], e.meets[0])).Integrity != api.IntegrityBad {
			t.Errorf("%s %s: passes with two values", e.fact, e.operator)
		}
	}
}

func TestRule_noListeningPortIsAnAnswer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		operator api.Operator
		want     api.Integrity
	}{{api.OpLacks, api.IntegrityGood}, {api.OpOnly, api.IntegrityGood}, {api.OpContains, api.IntegrityBad}} {
		v := Appraise(policyOf(ruleOf(api.FactTCPPorts, api.MatchAll, string(c.operator), "22")), one(api.FactTCPPorts))
		if v.Integrity != c.want || v.Findings[0].Actual != "none" {
			t.Errorf("%s: %+v", c.operator, v)
		}
	}
	if v := Appraise(policyOf(ruleOf(api.FactTCPPorts, api.MatchAll, "does not contain", "22")), one(api.FactTCPPorts, "80", "ssh")); v.Integrity != api.IntegrityBad {
		t.Errorf("an unreadable port passes: %+v", v)
	}
}

// H-02: any or all inside a rule.
func TestRule_anyOrAllConditions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		match      api.Match
		conditions []string
		value      string
		want       api.Integrity
	}{
		{api.MatchAll, []string{">=", "1.0", "<", "2.0"}, "1.5", api.IntegrityGood},
		{api.MatchAll, []string{">=", "1.0", "<", "2.0"}, "2.5", api.IntegrityBad},
		{api.MatchAny, []string{"=", "1.0", "=", "2.0"}, "2.0", api.IntegrityGood},
		{api.MatchAny, []string{"=", "1.0", "=", "2.0"}, "3.0", api.IntegrityBad},
		{api.MatchAny, []string{"=", "1.0", "!=", "2.0"}, "junk", api.IntegrityBad},
		{"", []string{"=", "1.0"}, "1.0", api.IntegrityGood},
		{"", []string{"=", "1.0", "!=", "2.0"}, "1.0", api.IntegrityBad},
		{"some", []string{"=", "1.0", "!=", "2.0"}, "1.0", api.IntegrityBad},
	} {
		v := Appraise(policyOf(ruleOf(api.FactAgentVersion, c.match, c.conditions...)), one(api.FactAgentVersion, c.value))
		if v.Integrity != c.want {
			t.Errorf("%s of %v with %s: %s", c.match, c.conditions, c.value, v.Integrity)
		}
	}
}

func TestFacts_describeThemselvesCorrectly(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, info := range Facts() {
		if seen[info.Title] || seen[string(info.Name)] || info.Title == "" || info.Help == "" || len(info.Operators) == 0 {
			t.Errorf("%+v is incomplete or doubled", info)
		}
		seen[info.Title], seen[string(info.Name)] = true, true
		if info.Type == TypeEnum && len(info.Values) == 0 || len(info.Values) > 0 && info.Type != TypeEnum && info.Type != TypeSet {
			t.Errorf("%s: values %v", info.Name, info.Values)
		}
		if s := info.Subject; s != nil && (s.Title == "" || s.Help == "" || s.check(s.Example) != nil) {
			t.Errorf("%s: the subject %+v is incomplete, or its example is refused", info.Name, s)
		}
		usable := slices.ContainsFunc(info.Operators, func(op api.Operator) bool {
			_, err := compile(info, api.Condition{Operator: op, Value: info.Example})
			return err == nil
		})
		if !usable {
			t.Errorf("%s: the example %q fits none of its operators", info.Name, info.Example)
		}
	}
	Facts()[0].Operators[0] = "changed"
	if Facts()[0].Operators[0] == "changed" {
		t.Error("a caller can change the registry")
	}
	for _, title := range []string{"Device Access Type", "Device Mount Point", "Key Request Date", "Instance Last Seen", "Instance User Data",
		"Instance Location", "Request Source IP Address (IPv4)", "Request Source IP Address (IPv6)", "Security Softwares",
		"Virus Scan Engine Version", "Virus Scan Pattern Version", "OS Patch Level", "Secure Boot", "Expression"} {
		if !seen[title] {
			t.Errorf("no rule is called %q", title)
		}
	}
}
