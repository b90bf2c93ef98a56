package policy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyward/broker/api"
)

// words are pieces of values: enough that rules match now and then.
var words = []string{"linux", "64", "read-only", "22", "80,443", "1..1023", "1.2.3", "9.180", "10.0.0.0/8", "10.1.2.3", "::ffff:10.1.2.3", "2001:db8::/32", "2001:db8::1",
	`facts.guest_os == "linux"`, `facts.script_number["baseline"] > 1.0 || !(80 in facts.listening_tcp_ports)`, "installed", "ClamAV", "-2.5",
	strings.Repeat("ab", 32), "2026-11-22", "2026-11-22T11:00:00Z", "now-1d", "3600", "a", ".*", "(", "", "a,b", "1.0..2.0"}

var drawnOperators = []api.Operator{api.OpEqual, api.OpNotEqual, api.OpLess, api.OpLessEqual, api.OpGreater, api.OpGreaterEqual, api.OpBetween, api.OpIn,
	api.OpStartsWith, api.OpContains, api.OpLacks, api.OpOnly, api.OpMatches, api.OpOlderThan, api.OpHolds, "", "~"}

// subjects, most often none or the example of one kind.
var subjects = []string{"", "", "", packageSubject.Example, pathSubject.Example, scriptSubject.Example, api.ProductClamAV}

func names() []api.FactName {
	out := []api.FactName{"", "unheard_of"}
	for _, f := range Facts() {
		out = append(out, f.Name)
	}
	return out
}

func drawPolicy(t *rapid.T) api.Policy {
	actions := []api.Action{api.ActionApprove, api.ActionManual, api.ActionDeny, "", "other"}
	condition := rapid.Custom(func(t *rapid.T) api.Condition {
		return api.Condition{Operator: rapid.SampledFrom(drawnOperators).Draw(t, "operator"), Value: rapid.SampledFrom(words).Draw(t, "value")}
	})
	rule := rapid.Custom(func(t *rapid.T) api.Rule {
		return api.Rule{Fact: rapid.SampledFrom(names()).Draw(t, "fact"), Subject: rapid.SampledFrom(subjects).Draw(t, "subject"), Match: rapid.SampledFrom([]api.Match{api.MatchAll, api.MatchAny, ""}).Draw(t, "match"),
			Conditions: rapid.SliceOfN(condition, 0, 3).Draw(t, "conditions")}
	})
	return api.Policy{Name: "p", Rules: rapid.SliceOfN(rule, 0, 4).Draw(t, "rules"), OnMatch: rapid.SampledFrom(actions).Draw(t, "on match"),
		OnFailure: rapid.SampledFrom(actions).Draw(t, "on failure"), ApproveAfterSeconds: rapid.Int64Range(0, 60).Draw(t, "after")}
}

func drawFacts(t *rapid.T, label string) []api.Fact {
	fact := rapid.Custom(func(t *rapid.T) api.Fact {
		return api.Fact{Name: rapid.SampledFrom(names()).Draw(t, "name"), Subject: rapid.SampledFrom(subjects).Draw(t, "subject"), Values: rapid.SliceOfN(rapid.SampledFrom(words), 0, 3).Draw(t, "values"),
			Grade:   rapid.SampledFrom([]api.Grade{api.GradeSelfReported, api.GradeBrokerObserved, api.GradeHardwareSigned}).Draw(t, "grade"),
			Missing: rapid.SampledFrom([]string{"", "", "", "gone"}).Draw(t, "missing")}
	})
	return rapid.SliceOfN(fact, 0, 8).Draw(t, label)
}

func TestAppraise_neverApprovesWhatFailed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPolicy(t)
		c := Context{Evidence: api.Evidence{Facts: drawFacts(t, "evidence")}, Observed: drawFacts(t, "observed"),
			DeviceInPolicy: rapid.Bool().Draw(t, "device"), ImageInPolicy: rapid.Bool().Draw(t, "image"), Now: now}
		v := Appraise(p, c)
		checkVerdict(t, p, c, v)
		// What a machine claims of the broker's own facts never makes a difference.
		honest := c
		honest.Evidence.Facts = slices.DeleteFunc(slices.Clone(c.Evidence.Facts), func(f api.Fact) bool {
			info, _ := lookup(f.Name)
			return info.Observed || f.Grade == api.GradeBrokerObserved
		})
		if w := Appraise(p, honest); w.Action != v.Action || w.Integrity != v.Integrity {
			t.Fatalf("forged facts changed %s/%s to %s/%s", w.Integrity, w.Action, v.Integrity, v.Action)
		}
	})
}

type fataler interface{ Fatalf(string, ...any) }

// checkVerdict holds for every verdict, whatever the policy and the evidence.
func checkVerdict(t fataler, p api.Policy, c Context, v api.Verdict) {
	count := map[api.RuleStatus]int{}
	for _, f := range v.Findings {
		count[f.Status]++
	}
	judged := count[api.RuleFailed] + count[api.RulePassed]
	if v.Action == api.ActionApprove {
		switch {
		case !c.DeviceInPolicy || !c.ImageInPolicy || len(p.Rules) == 0:
			t.Fatalf("approved without a policy to judge by: %+v", v)
		case count[api.RuleFailed] > 0 && p.OnFailure != api.ActionApprove, count[api.RuleFailed] == 0 && p.OnMatch != api.ActionApprove:
			t.Fatalf("approved against the policy: %+v", v)
		}
	}
	switch v.Integrity {
	case api.IntegrityGood:
		if count[api.RuleFailed] > 0 || judged != len(p.Rules) || judged == 0 {
			t.Fatalf("Good with %v of %d rules", count, len(p.Rules))
		}
	case api.IntegrityBad:
		if count[api.RuleFailed] == 0 || judged != len(p.Rules) {
			t.Fatalf("Bad with %v of %d rules", count, len(p.Rules))
		}
	default:
		if v.Action != api.ActionManual || judged > 0 {
			t.Fatalf("%s with action %s and %v", v.Integrity, v.Action, count)
		}
	}
	if v.ApproveAfterSeconds != 0 && (v.Integrity != api.IntegrityGood || v.Action != api.ActionManual) {
		t.Fatalf("a timer on %s/%s", v.Integrity, v.Action)
	}
	if !slices.IsSortedFunc(v.Findings, func(a, b api.Finding) int { return order(a.Status) - order(b.Status) }) || v.Reason == "" {
		t.Fatalf("unordered or unexplained: %+v", v)
	}
}

func order(s api.RuleStatus) int {
	return slices.Index([]api.RuleStatus{api.RuleFailed, api.RulePassed, api.RuleInformational}, s)
}

func TestVersion_isAnOrder(t *testing.T) {
	t.Parallel()
	text := rapid.StringMatching(`[0-9]{1,3}([.-][0-9]{1,3}){0,3}(-rc[0-9]|~beta|-amd64)?`)
	rapid.Check(t, func(t *rapid.T) {
		var v [3]version
		for i := range v {
			var err error
			if v[i], err = parseVersion(text.Draw(t, "version")); err != nil {
				t.Fatal(err)
			}
		}
		if v[0].compare(v[1]) != -v[1].compare(v[0]) || v[0].compare(v[0]) != 0 {
			t.Fatalf("%v and %v", v[0], v[1])
		}
		slices.SortFunc(v[:], version.compare)
		if v[0].compare(v[2]) > 0 {
			t.Fatalf("not transitive: %v", v)
		}
	})
}

func FuzzAppraise(f *testing.F) {
	add := func(p api.Policy, facts []api.Fact, device bool) {
		pj, errP := json.Marshal(p)
		fj, errF := json.Marshal(facts)
		if errP != nil || errF != nil {
			f.Fatal(errP, errF)
		}
		f.Add(pj, fj, fj, device, int64(0))
	}
	for _, e := range everyExpectation {
		add(policyOf(ruleOf(e.fact, api.MatchAll, string(e.operator), e.value)), []api.Fact{{Name: e.fact, Values: e.meets[:1]}}, true)
	}
	add(api.Policy{}, nil, false)
	f.Fuzz(func(t *testing.T, policyJSON, evidenceJSON, observedJSON []byte, device bool, unix int64) {
		var p api.Policy
		c := Context{DeviceInPolicy: device, ImageInPolicy: true, Now: time.Unix(unix%1e11, 0)}
		if json.Unmarshal(policyJSON, &p) != nil || json.Unmarshal(evidenceJSON, &c.Evidence.Facts) != nil || json.Unmarshal(observedJSON, &c.Observed) != nil {
			return
		}
		v := Appraise(p, c)
		checkVerdict(t, p, c, v)
		if len(Validate(p)) == 0 {
			for _, finding := range v.Findings {
				if finding.Status == api.RuleFailed && len(finding.Condition) == 0 {
					t.Fatalf("a valid rule failed without a condition: %+v", finding)
				}
			}
		}
	})
}
