package policy

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"keyward/broker/api"
)

func TestAppraise_unknownWaitsForAPerson(t *testing.T) {
	t.Parallel()
	ruled := policyOf(ruleOf(api.FactGuestOS, api.MatchAll, "=", "linux"))
	empty := policyOf()
	for name, c := range map[string]struct {
		policy        api.Policy
		device, image bool
		want          api.Integrity
	}{
		"device in another policy": {ruled, false, true, api.IntegrityUnknownDevPolicy},
		"image in another policy":  {ruled, true, false, api.IntegrityUnknownImgPolicy},
		"neither in this policy":   {ruled, false, false, api.IntegrityUnknownMismatch},
		"no rules":                 {empty, true, true, api.IntegrityUnknownNoRules},
		"no rules, and elsewhere":  {empty, false, false, api.IntegrityUnknownMismatch},
	} {
		ctx := one(api.FactGuestOS, "linux")
		ctx.DeviceInPolicy, ctx.ImageInPolicy = c.device, c.image
		c.policy.ApproveAfterSeconds = 60
		v := Appraise(c.policy, ctx)
		if v.Integrity != c.want || v.Action != api.ActionManual || v.ApproveAfterSeconds != 0 || v.Reason == "" {
			t.Errorf("%s: %+v", name, v)
		}
		if len(v.Findings) != 1 || v.Findings[0].Status != api.RuleInformational || v.Findings[0].Actual != "linux" {
			t.Errorf("%s: what was collected is not shown: %+v", name, v.Findings)
		}
	}
}

// I-02, I-04, Z-11: three actions for each outcome; time approves only what matched every rule.
func TestAppraise_actions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		os                 string
		onMatch, onFailure api.Action
		after              int64
		integrity          api.Integrity
		action             api.Action
		wantAfter          int64
	}{
		{"linux", api.ActionApprove, api.ActionDeny, 0, api.IntegrityGood, api.ActionApprove, 0},
		{"linux", api.ActionManual, api.ActionDeny, 600, api.IntegrityGood, api.ActionManual, 600},
		{"linux", api.ActionManual, api.ActionDeny, 0, api.IntegrityGood, api.ActionManual, 0},
		{"linux", api.ActionDeny, api.ActionApprove, 0, api.IntegrityGood, api.ActionDeny, 0},
		{"linux", api.ActionApprove, api.ActionDeny, 600, api.IntegrityGood, api.ActionApprove, 0},
		{"windows", api.ActionApprove, api.ActionDeny, 0, api.IntegrityBad, api.ActionDeny, 0},
		{"windows", api.ActionManual, api.ActionManual, 600, api.IntegrityBad, api.ActionManual, 0},
		{"windows", api.ActionDeny, api.ActionApprove, 0, api.IntegrityBad, api.ActionApprove, 0},
		{"linux", "", "", 0, api.IntegrityGood, api.ActionManual, 0},
		{"windows", "Approve", "Approve", 0, api.IntegrityBad, api.ActionManual, 0},
	} {
		p := policyOf(ruleOf(api.FactGuestOS, api.MatchAll, "=", "linux"))
		p.OnMatch, p.OnFailure, p.ApproveAfterSeconds = c.onMatch, c.onFailure, c.after
		v := Appraise(p, one(api.FactGuestOS, c.os))
		if v.Integrity != c.integrity || v.Action != c.action || v.ApproveAfterSeconds != c.wantAfter {
			t.Errorf("%+v: %+v", c, v)
		}
	}
}

// E-07 to E-11: failed, passed and informational with formula, whole value, grade and source.
func TestAppraise_findingsExplainTheVerdict(t *testing.T) {
	t.Parallel()
	long := "/mnt/" + strings.Repeat("long-", 40)
	ctx := Context{DeviceInPolicy: true, ImageInPolicy: true, Now: now,
		Evidence: api.Evidence{Facts: []api.Fact{
			{Name: "favourite_colour", Values: []string{"green"}, Source: "a newer agent", Grade: api.GradeSelfReported},
			{Name: api.FactMountPoint, Values: []string{long}, Source: "configuration", Grade: api.GradeSelfReported},
			{Name: api.FactTCPPorts, Values: []string{"443", "22", "443", "80"}, Source: "procfs net/tcp", Grade: api.GradeSelfReported},
			{Name: api.FactGuestOS, Values: []string{"linux"}, Source: "runtime", Grade: api.GradeSelfReported},
			{Name: api.FactUserData, Missing: "no metadata service"},
		}},
		Observed: []api.Fact{{Name: api.FactSourceIPv4, Values: []string{"1.1.1.7"}, Source: "connection", Grade: api.GradeBrokerObserved}},
	}
	p := policyOf(
		ruleOf(api.FactSourceIPv4, api.MatchAll, ">=", "1.1.1.1", "<=", "1.1.1.200"),
		ruleOf(api.FactTCPPorts, api.MatchAll, "does not contain", "80"),
		ruleOf(api.FactGuestOS, api.MatchAny, "=", "linux", "=", "windows"),
		ruleOf(api.FactHostName, api.MatchAll, "=", "db"),
	)
	want := []api.Finding{
		{Fact: api.FactTCPPorts, Title: "Network Services (TCP)", Condition: "does not contain 80", Actual: "22, 80, 443", Status: api.RuleFailed, Grade: api.GradeSelfReported, Source: "procfs net/tcp"},
		{Fact: api.FactHostName, Title: "Host Name", Condition: "= db", Actual: "no data: not reported", Status: api.RuleFailed},
		{Fact: api.FactSourceIPv4, Title: "Request Source IP Address (IPv4)", Condition: "(>= 1.1.1.1) AND (<= 1.1.1.200)", Actual: "1.1.1.7", Status: api.RulePassed, Grade: api.GradeBrokerObserved, Source: "connection"},
		{Fact: api.FactGuestOS, Title: "Guest OS Information: OS", Condition: "(= linux) OR (= windows)", Actual: "linux", Status: api.RulePassed, Grade: api.GradeSelfReported, Source: "runtime"},
		{Fact: api.FactMountPoint, Title: "Device Mount Point", Actual: long, Status: api.RuleInformational, Grade: api.GradeSelfReported, Source: "configuration"},
		{Fact: api.FactUserData, Title: "Instance User Data", Actual: "no data: no metadata service", Status: api.RuleInformational, Grade: api.GradeSelfReported},
		{Fact: "favourite_colour", Title: "favourite_colour", Actual: "green", Status: api.RuleInformational, Grade: api.GradeSelfReported, Source: "a newer agent"},
	}
	v := Appraise(p, ctx)
	if !reflect.DeepEqual(v.Findings, want) {
		t.Errorf("got\n%+v\nwant\n%+v", v.Findings, want)
	}
	if v.Reason != `2 of 4 rules of policy "p" failed (Network Services (TCP), Host Name): the policy denies.` {
		t.Errorf("reason %q", v.Reason)
	}
}

// E-12: what no rule judges is informational, all of the picture of the product that Keyward succeeds among it.
func TestAppraise_informationalFactsOfTheFigure(t *testing.T) {
	t.Parallel()
	c := Context{DeviceInPolicy: true, ImageInPolicy: true, Now: now}
	for _, title := range []string{"Device Access Type", "Key Request Date", "Instance First Seen", "Instance User Data", "Security Software Version: OSSEC", "Security Softwares",
		"Virus Scan Engine Version: Deep Security", "Virus Scan Pattern Version: Deep Security", "Deep Security Status", "Guest OS Information: OS", "Guest OS Information: Architecture",
		"Network Services (TCP)", "Network Services (UDP)"} {
		i := slices.IndexFunc(registry, func(f FactInfo) bool {
			return title == f.Title || f.Subject != nil && strings.HasPrefix(title, f.Title+": ")
		})
		if i < 0 {
			t.Fatalf("no fact is called %q", title)
		}
		fact := api.Fact{Name: registry[i].Name, Values: []string{registry[i].Example}, Source: "test"}
		fact.Subject = strings.TrimPrefix(strings.TrimPrefix(title, registry[i].Title), ": ")
		if registry[i].Observed {
			c.Observed = append(c.Observed, fact)
		} else {
			c.Evidence.Facts = append(c.Evidence.Facts, fact)
		}
		v := Appraise(policyOf(ruleOf(api.FactHostName, api.MatchAll, "=", "db")), c)
		if i := slices.IndexFunc(v.Findings, func(f api.Finding) bool { return f.Title == title }); i < 0 || v.Findings[i].Status != api.RuleInformational || v.Findings[i].Condition != "" {
			t.Errorf("%q is not shown as informational: %+v", title, v.Findings)
		}
	}
}

func TestFormula_readsAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]api.Rule{
		"(>= 1.1.1.1) AND (<= 1.1.1.200)":    ruleOf(api.FactSourceIPv4, api.MatchAll, "between", "1.1.1.1..1.1.1.200"),
		"((>= 1.0) AND (<= 1.9)) OR (= 3.0)": ruleOf(api.FactAgentVersion, api.MatchAny, "between", "1.0..1.9", "=", "3.0"),
		"(in US, EU) AND (!= CN)":            ruleOf(api.FactLocation, api.MatchAll, "in", "US, EU", "!=", "CN"),
		"older than 3600 s":                  ruleOf(api.FactLastSeen, api.MatchAll, "older than", "3600"),
		"":                                   ruleOf(api.FactLastSeen, api.MatchAll),
	} {
		if got := formula(r); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A machine must not be able to say what only the broker can know, nor lend its word a better grade.
func TestAppraise_ignoresFactsThatAMachineMayNotSupply(t *testing.T) {
	t.Parallel()
	for _, info := range Facts() {
		if !info.Observed {
			continue
		}
		value := map[api.FactName]string{api.FactSourceIPv4: "10.0.0.1", api.FactSourceIPv6: "2001:db8::1"}[info.Name]
		rule := ruleOf(info.Name, api.MatchAll, "=", value)
		if value == "" && info.Type == TypeEnum {
			value, rule = info.Values[0], ruleOf(info.Name, api.MatchAll, "=", info.Values[0])
		}
		if value == "" {
			value, rule = "2026-11-22T11:00:00Z", ruleOf(info.Name, api.MatchAll, ">=", "2026-11-22")
		}
		if info.Type != TypeDate && info.Type != TypeAddress {
			value, rule = info.Example, ruleOf(info.Name, api.MatchAll, "=", info.Example)
		}
		for _, grade := range []api.Grade{api.GradeSelfReported, api.GradeBrokerObserved, api.GradeHardwareSigned, ""} {
			forged := Context{DeviceInPolicy: true, ImageInPolicy: true, Now: now,
				Evidence: api.Evidence{Facts: []api.Fact{{Name: info.Name, Values: []string{value}, Grade: grade}}}}
			v := Appraise(policyOf(rule), forged)
			if v.Integrity != api.IntegrityBad || len(v.Findings) != 1 || v.Findings[0].Actual != "no data: not reported" {
				t.Errorf("%s of grade %q was believed: %+v", info.Name, grade, v)
			}
		}
		// Beside the true one, the forged one changes nothing.
		beside := one(info.Name, value)
		beside.Evidence.Facts = []api.Fact{{Name: info.Name, Values: []string{"junk"}, Grade: api.GradeBrokerObserved}}
		if v := Appraise(policyOf(rule), beside); v.Integrity != api.IntegrityGood {
			t.Errorf("%s: a forged fact displaced the broker's: %+v", info.Name, v)
		}
	}
	claims := map[api.Grade]bool{api.GradeSelfReported: true, api.GradeCloudSigned: true, api.GradeHardwareSigned: true, "": true, "root": true,
		api.GradeBrokerObserved: false, api.GradeAPIConfirmed: false}
	for grade, taken := range claims {
		c := one(api.FactHostName, "db")
		c.Evidence.Facts[0].Grade = grade
		v := Appraise(policyOf(ruleOf(api.FactHostName, api.MatchAll, "=", "db")), c)
		if taken != (v.Integrity == api.IntegrityGood) || (taken && v.Findings[0].Grade != api.GradeSelfReported) {
			t.Errorf("grade %q: %+v", grade, v)
		}
	}
	verified := Context{DeviceInPolicy: true, ImageInPolicy: true, Now: now,
		Evidence: api.Evidence{Facts: []api.Fact{{Name: api.FactLocation, Values: []string{"us"}, Grade: api.GradeCloudSigned}}},
		Observed: []api.Fact{{Name: api.FactLocation, Values: []string{"eu"}, Grade: api.GradeCloudSigned}}}
	if v := Appraise(policyOf(ruleOf(api.FactLocation, api.MatchAll, "=", "eu")), verified); v.Integrity != api.IntegrityGood || v.Findings[0].Grade != api.GradeCloudSigned {
		t.Errorf("a fact whose signature the broker verified: %+v", v)
	}
}

func TestAppraise_aFactReportedTwiceIsNoData(t *testing.T) {
	t.Parallel()
	c := one(api.FactHostName, "db")
	c.Evidence.Facts = append(c.Evidence.Facts, api.Fact{Name: api.FactHostName, Values: []string{"db"}})
	v := Appraise(policyOf(ruleOf(api.FactHostName, api.MatchAll, "=", "db")), c)
	if v.Integrity != api.IntegrityBad || v.Findings[0].Actual != "no data: reported more than once" {
		t.Errorf("%+v", v)
	}
}

// H-28
func TestAppraise_mappedSourceAddressIsIPv4(t *testing.T) {
	t.Parallel()
	c := one(api.FactSourceIPv6, "::ffff:192.0.2.7")
	if v := Appraise(policyOf(ruleOf(api.FactSourceIPv4, api.MatchAll, "in", "192.0.2.0/24")), c); v.Integrity != api.IntegrityGood || v.Findings[0].Actual != "192.0.2.7" {
		t.Errorf("IPv4 rule: %+v", v)
	}
	if v := Appraise(policyOf(ruleOf(api.FactSourceIPv6, api.MatchAll, "in", "::/0")), c); v.Integrity != api.IntegrityBad {
		t.Errorf("IPv6 rule: %+v", v)
	}
	mapped := policyOf(ruleOf(api.FactSourceIPv4, api.MatchAll, "in", "::ffff:192.0.2.0/120"))
	if wrong := Validate(mapped); len(wrong) > 0 {
		t.Fatal(wrong)
	}
	if v := Appraise(mapped, one(api.FactSourceIPv4, "192.0.2.255")); v.Integrity != api.IntegrityGood {
		t.Errorf("mapped prefix: %+v", v)
	}
}

// A rule that was damaged after it was saved fails; it never makes the others decide alone.
func TestAppraise_damagedRuleFails(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]api.Rule{
		"unknown fact":    ruleOf("shoe_size", api.MatchAll, "=", "42"),
		"no conditions":   ruleOf(api.FactHostName, api.MatchAll),
		"foreign op":      ruleOf(api.FactHostName, api.MatchAny, ">", "a", "=", "db"),
		"bad expression":  ruleOf(api.FactHostName, api.MatchAny, "matches", "(", "=", "db"),
		"unknown match":   ruleOf(api.FactHostName, "most", "=", "db", "=", "db"),
		"too many of one": ruleOf(api.FactAccessType, api.MatchAny, "=", "read-only", "=", "read-write"),
	} {
		c := one(api.FactHostName, "db")
		c.Evidence.Facts = append(c.Evidence.Facts, api.Fact{Name: api.FactAccessType, Values: []string{"read-only"}}, api.Fact{Name: "shoe_size", Values: []string{"42"}})
		v := Appraise(policyOf(ruleOf(api.FactHostName, api.MatchAll, "=", "db"), r), c)
		if v.Action != api.ActionDeny || !strings.Contains(v.Findings[0].Condition, "cannot be judged") {
			t.Errorf("%s: %+v", name, v)
		}
	}
}
