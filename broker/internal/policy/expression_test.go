package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// machine is the context of a machine that reports a bit of everything.
func machine() Context {
	at := time.Date(2026, 11, 22, 11, 59, 0, 0, time.UTC)
	fact := func(name api.FactName, subject string, values ...string) api.Fact {
		return api.Fact{Name: name, Subject: subject, Values: values, Source: "test", Grade: api.GradeSelfReported, At: at}
	}
	missing := fact(api.FactScriptText, "late")
	missing.Missing = "the script did not end within 5s"
	return Context{DeviceInPolicy: true, ImageInPolicy: true, Now: now,
		Evidence: api.Evidence{Facts: []api.Fact{
			fact(api.FactGuestOS, "", "linux"), fact(api.FactHostName, "", "db-01.example.org"), fact(api.FactTCPPorts, "", "22", "443"),
			fact(api.FactUDPPorts, ""), fact(api.FactKernelVersion, "", "6.1.0-18-amd64"), fact(api.FactPackageVersion, "openssl", "3.0.11-1~deb12u2"),
			fact(api.FactPackageVersion, "openssh-server", "1:9.2p1-2"), fact(api.FactPackageState, "telnetd", "not installed"),
			fact(api.FactFileSHA256, "/etc/motd", digestA), fact(api.FactScriptNumber, "load", "17.5"), missing,
			fact(api.FactSecuritySoftware, "", "ClamAV"), fact(api.FactAVPatternDate, "ClamAV", "2026-11-21T12:00:00Z"),
			fact(api.FactSecurityState, "ClamAV", "running"), fact(api.FactSecureBoot, "", "perhaps"),
		}},
		Observed: []api.Fact{
			{Name: api.FactSourceIPv4, Values: []string{"::ffff:10.1.2.3"}, Source: "connection", Grade: api.GradeBrokerObserved, At: now},
			{Name: api.FactFirstSeen, Values: []string{"2026-11-01T00:00:00Z"}, Source: "broker records", Grade: api.GradeBrokerObserved, At: now},
		}}
}

func expressionRule(text string) api.Rule {
	return api.Rule{Fact: api.FactExpression, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpHolds, Value: text}}}
}

func TestExpression_everyTypeOfFact(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		`facts.guest_os == "linux"`: true,
		`facts.guest_os != "linux"`: false,
		`facts.host_name.endsWith(".example.org") && facts.host_name.matches("^db-[0-9]+[.]")`:                                                             true,
		`!(80 in facts.listening_tcp_ports) && facts.listening_tcp_ports.all(p, p in [22, 443])`:                                                           true,
		`facts.listening_tcp_ports.exists(p, p > 1024)`:                                                                                                    false,
		`facts.listening_tcp_ports.filter(p, p != 22) == [443] && facts.listening_tcp_ports.size() == 2`:                                                   true,
		`facts.listening_udp_ports.size() == 0`:                                                                                                            true,
		`facts.kernel_version >= version("6.1") && facts.kernel_version < version("6.10")`:                                                                 true,
		`facts.kernel_version == version("6.1.0-18")`:                                                                                                      true,
		`facts.kernel_version > version("6.9")`:                                                                                                            false,
		`facts.package_version["openssl"] >= package_version("3.0.11-1~deb12u2")`:                                                                          true,
		`facts.package_version["openssl"] > package_version("3.0.11-1~deb12u2")`:                                                                           false,
		`facts.package_version["openssh-server"] < package_version("9.3")`:                                                                                 true,
		`facts.package_version["openssh-server"] < package_version("1:9.2")`:                                                                               false,
		`facts.package_state["telnetd"] == "not installed"`:                                                                                                true,
		`facts.file_sha256["/etc/motd"] == "` + digestA + `"`:                                                                                              true,
		`facts.script_number["load"] < 20.0 && facts.script_number["load"] > 17.0`:                                                                         true,
		`"ClamAV" in facts.security_software`:                                                                                                              true,
		`now - facts.av_pattern_date["ClamAV"] < duration("36h")`:                                                                                          true,
		`now - facts.av_pattern_date["ClamAV"] < duration("12h")`:                                                                                          false,
		`"Microsoft Defender" in facts.security_software ? facts.av_real_time["Microsoft Defender"] == "on" : facts.security_state["ClamAV"] == "running"`: true,
		`cidr("10.0.0.0/8").containsIP(facts.source_ipv4)`:                                                                                                 true,
		`facts.source_ipv4 == ip("10.1.2.4")`:                                                                                                              false,
		`facts.instance_first_seen < timestamp("2026-11-02T00:00:00Z")`:                                                                                    true,
		`now.getHours() >= 8 && now.getHours() < 18 && now.getDayOfWeek() == 0`:                                                                            true,
	} {
		p := policyOf(expressionRule(text))
		if wrong := Validate(p); len(wrong) > 0 {
			t.Errorf("%s cannot be saved: %v", text, wrong)
			continue
		}
		v := Appraise(p, machine())
		if got := v.Integrity == api.IntegrityGood; got != want {
			t.Errorf("%s is %v: %+v", text, got, v.Findings[0])
		}
	}
}

// Whatever an expression makes of it, a fact that it asks for and that is missing fails the rule, by name.
func TestExpression_missingFactFails(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		`facts.instance_user_data == "x"`:                                                 "Instance User Data = no data: not reported",
		`facts.instance_user_data != "x"`:                                                 "Instance User Data = no data: not reported",
		`facts.instance_user_data == "x" || facts.guest_os == "linux"`:                    "Instance User Data = no data: not reported",
		`!(facts.package_version["nginx"] < package_version("9"))`:                        "Package Version: nginx = no data: not reported: name it under facts",
		`facts.script_text["late"] == "x" || true`:                                        "Script Result (Text): late = no data: the script did not end within 5s",
		`facts.av_real_time["Microsoft Defender"] == "off"`:                               "not reported: Microsoft Defender is not installed",
		`facts.source_ipv6 != ip("::1")`:                                                  "Request Source IP Address (IPv6) = no data: not reported",
		`facts.secure_boot != "disabled"`:                                                 `"perhaps" is not one of`,
		`["nginx", "openssl"].exists(p, facts.package_version[p] > package_version("1"))`: "Package Version: nginx = no data",
		`facts.file_sha256[facts.host_name] != "x"`:                                       "File Digest: db-01.example.org = no data",
	} {
		v := Appraise(policyOf(expressionRule(text)), machine())
		if v.Integrity != api.IntegrityBad || v.Action != api.ActionDeny || !strings.Contains(v.Findings[0].Actual, says) {
			t.Errorf("%s: %s, %q does not say %q", text, v.Integrity, v.Findings[0].Actual, says)
		}
	}
}

// The facts as a whole, and those of all subjects, are no values.
func TestExpression_wholesAreNoValues(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`facts == facts`, `facts.package_version == facts.package_version`, `type(facts) == type(facts)`, `[facts].size() == 1`} {
		p := policyOf(expressionRule(text))
		if v := Appraise(p, machine()); v.Integrity == api.IntegrityGood {
			t.Errorf("%s passes: %+v", text, v.Findings[0])
		}
	}
}

func TestExpression_explainsWithValuesAndTheWeakestGrade(t *testing.T) {
	t.Parallel()
	text := `cidr("10.0.0.0/8").containsIP(facts.source_ipv4) && facts.package_version["openssl"] >= package_version("3.0")`
	f := Appraise(policyOf(expressionRule(text)), machine()).Findings[0]
	want := "Request Source IP Address (IPv4) = ::ffff:10.1.2.3; Package Version: openssl = 3.0.11-1~deb12u2"
	if f.Condition != text || f.Actual != want || f.Grade != api.GradeSelfReported || f.Status != api.RulePassed || f.Source != "connection; test" || f.At == nil || f.At.Minute() != 59 {
		t.Errorf("%+v", f)
	}
	observed := Appraise(policyOf(expressionRule(`facts.source_ipv4 == ip("10.1.2.3")`)), machine()).Findings
	if observed[0].Grade != api.GradeBrokerObserved {
		t.Errorf("%+v", observed[0])
	}
	for _, f := range observed[1:] {
		if f.Fact == api.FactSourceIPv4 {
			t.Errorf("a fact that a rule judged is listed as if none did: %+v", f)
		}
	}
	r := expressionRule(`facts.guest_os == "linux"`)
	r.Match = api.MatchAny
	r.Conditions = append(r.Conditions, api.Condition{Operator: api.OpHolds, Value: `facts.guest_os == "windows"`})
	if v := Appraise(policyOf(r), machine()); v.Integrity != api.IntegrityGood || v.Findings[0].Condition != `(facts.guest_os == "linux") OR (facts.guest_os == "windows")` {
		t.Errorf("%+v", v.Findings[0])
	}
}

// H-27 for expressions: what cannot be compiled is refused beside the field, with its place.
func TestExpression_refusedWithThePosition(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		`facts.guest_os = "linux"`:                                  "line 1, column 16",
		"facts.guest_os == \"linux\" &&\n facts.shoe_size == 42":    "line 2, column 7: undefined field 'shoe_size'",
		`facts.expression == "x"`:                                   "undefined field 'expression'",
		`guest_os == "linux"`:                                       "column 1: undeclared reference to 'guest_os'",
		`facts.guest_os == 1`:                                       "no matching overload",
		`facts.kernel_version > "6.1"`:                              "no matching overload",
		`facts.kernel_version > version("new")`:                     "column 32: a version starts with a number",
		`facts.package_version["openssl"] > package_version("")`:    "package's version is needed",
		`facts.package_version["open ssl"] == package_version("1")`: `"open ssl" is not a package's name`,
		`facts.av_real_time["Clam"] == "on"`:                        `"Clam" is not one of ClamAV`,
		`cidr("10.0.0.1/8").containsIP(facts.source_ipv4)`:          "did you mean 10.0.0.0/8",
		`facts.host_name.matches("(")`:                              "not a regular expression (RE2 syntax)",
		`facts.instance_first_seen > timestamp("yesterday")`:        "column 39",
		`facts.host_name`:                                           "must be true or false",
		`1 == 1`:                                                    "asks for no fact",
		`has(facts.host_name)`:                                      "undeclared reference to 'has'",
		`"openssl" in facts.package_version`:                        "no matching overload",
		`facts.package_version.exists(p, true)`:                     "cannot be range of a comprehension",
		`facts.listening_tcp_ports.all(a, facts.listening_tcp_ports.all(b, facts.listening_tcp_ports.all(c, a == b && b == c)))`: "",
		strings.Repeat("(", 200) + "facts.guest_os" + strings.Repeat(")", 200):                                                   "",
		`facts.guest_os == "` + strings.Repeat("x", 5000) + `"`:                                                                  "4096",
		``: "value is needed",
	} {
		wrong := Validate(policyOf(expressionRule(text)))
		if len(wrong) != 1 || wrong[0].Field != "rules[0].conditions[0].value" || !strings.Contains(wrong[0].Message, says) {
			t.Errorf("%.80s: %v, want %q", text, wrong, says)
		}
	}
}

// An expression that would run for long is stopped, and fails.
func TestExpression_costIsBounded(t *testing.T) {
	t.Parallel()
	c := machine()
	var ports []string
	for p := 1; p <= 4096; p++ {
		ports = append(ports, fmt.Sprint(p))
	}
	c.Evidence.Facts[2].Values = ports
	v := Appraise(policyOf(expressionRule(`facts.listening_tcp_ports.all(a, facts.listening_tcp_ports.exists(b, a == b))`)), c)
	if v.Integrity != api.IntegrityBad || !strings.Contains(v.Findings[0].Actual, "cost limit") {
		t.Errorf("%.200s", v.Findings[0].Actual)
	}
}

func FuzzExpression(f *testing.F) {
	for _, text := range []string{`facts.guest_os == "linux"`, `facts.package_version["openssl"] > package_version("3")`, `facts.listening_tcp_ports.all(p, p < 1024)`,
		`now - facts.instance_first_seen > duration("1h")`, `cidr("10.0.0.0/8").containsIP(facts.source_ipv4)`, `facts.script_text["late"] == "x" || true`,
		`[1,2].map(x, facts)[0].host_name == "a"`, `facts.host_name.matches(facts.guest_os)`, `type(facts.kernel_version) == string`,
		`dyn(facts.package_version)["x"] == 1`, `string(facts.source_ipv4) == ""`, `{"a": facts}["a"].guest_os == ""`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p := policyOf(expressionRule(text))
		valid := len(Validate(p)) == 0
		v := Appraise(p, machine())
		checkVerdict(t, p, machine(), v)
		if !valid && v.Integrity == api.IntegrityGood {
			t.Fatalf("an expression that cannot be saved passes: %q", text)
		}
		for _, finding := range v.Findings {
			if finding.Fact == api.FactExpression && finding.Status == api.RulePassed && strings.Contains(finding.Actual, "no data") {
				t.Fatalf("passes without a fact that it asked for: %q: %+v", text, finding)
			}
		}
	})
}
