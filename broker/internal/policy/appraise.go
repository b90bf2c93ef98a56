package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
)

// Appraise judges evidence by a policy. It never fails: what cannot be judged is a failed rule or an Unknown rating, and
// an Unknown rating always waits for a person.
func Appraise(p api.Policy, c Context) api.Verdict {
	facts := collect(c)
	judged := map[key]bool{}
	if integrity, reason := unknown(p, c); integrity != "" {
		return api.Verdict{Integrity: integrity, Action: api.ActionManual, Reason: reason, Findings: informational(facts, judged)}
	}
	var failed, passed, unused []api.Finding
	for _, r := range p.Rules {
		if why := c.Unused[r.Fact]; why != "" {
			unused = append(unused, api.Finding{Fact: r.Fact, Subject: r.Subject, Title: titleOf(key{r.Fact, r.Subject}), Condition: formula(r),
				Actual: "not used: " + why, Status: api.RuleInformational})
			continue
		}
		f, used := judge(r, facts, c.Now)
		for _, k := range used {
			judged[k] = true
		}
		if f.Status == api.RulePassed {
			passed = append(passed, f)
		} else {
			failed = append(failed, f)
		}
	}
	v := api.Verdict{Findings: slices.Concat(failed, passed, unused, informational(facts, judged))}
	if len(failed) == 0 {
		v.Integrity, v.Action = api.IntegrityGood, known(p.OnMatch)
		v.Reason = fmt.Sprintf("All %s of policy %q passed: %s.", count(len(passed), "rule"), p.Name, describe(v.Action))
		if v.Action == api.ActionManual && p.ApproveAfterSeconds > 0 {
			v.ApproveAfterSeconds = p.ApproveAfterSeconds
			v.Reason = strings.TrimSuffix(v.Reason, ".") + fmt.Sprintf(", or by itself after %s.", time.Duration(p.ApproveAfterSeconds)*time.Second)
		}
		return v
	}
	v.Integrity, v.Action = api.IntegrityBad, known(p.OnFailure)
	v.Reason = fmt.Sprintf("%d of %s of policy %q failed (%s): %s.",
		len(failed), count(len(p.Rules)-len(unused), "rule"), p.Name, titles(failed), describe(v.Action))
	return v
}

// unknown is the rating, with its reason, when there is nothing to judge by; empty when there is.
func unknown(p api.Policy, c Context) (api.Integrity, string) {
	switch {
	case !c.DeviceInPolicy && !c.ImageInPolicy:
		return api.IntegrityUnknownMismatch, "The device and the machine's image are not in the same policy: assign both to one, then decide."
	case !c.DeviceInPolicy:
		return api.IntegrityUnknownDevPolicy, fmt.Sprintf("The device is not in policy %q: assign it, then decide.", p.Name)
	case !c.ImageInPolicy:
		return api.IntegrityUnknownImgPolicy, fmt.Sprintf("The machine's image is not in policy %q: add it, then decide.", p.Name)
	case len(p.Rules) == 0:
		return api.IntegrityUnknownNoRules, fmt.Sprintf("Policy %q has no rules: a person decides.", p.Name)
	case !slices.ContainsFunc(p.Rules, func(r api.Rule) bool { return c.Unused[r.Fact] == "" }):
		return api.IntegrityUnknownNoRules, fmt.Sprintf("No rule of policy %q is used now: a person decides.", p.Name)
	}
	return "", ""
}

// judge applies one rule, and says which facts it judged.
func judge(r api.Rule, facts collected, now time.Time) (api.Finding, []key) {
	if r.Fact == api.FactExpression {
		return judgeExpression(r, facts, now)
	}
	k := key{r.Fact, r.Subject}
	fact, why := facts.find(k)
	finding := found(k, fact, why, api.RuleFailed)
	finding.Condition = formula(r)
	if refuse(&finding, r) || why != "" {
		return finding, []key{k}
	}
	holds, err := meets(r, fact, now)
	if err != nil {
		finding.Actual += " [no data: " + err.Error() + "]"
	}
	if holds {
		finding.Status = api.RulePassed
	}
	return finding, []key{k}
}

// found shows a fact.
func found(k key, f api.Fact, why string, status api.RuleStatus) api.Finding {
	finding := api.Finding{Fact: k.name, Subject: k.subject, Title: titleOf(k), Actual: actual(f, why), Status: status, Grade: f.Grade, Source: f.Source}
	if !f.At.IsZero() {
		at := f.At.UTC()
		finding.At = &at
	}
	return finding
}

// refuse says in the finding why its rule cannot be judged, if that is so.
func refuse(f *api.Finding, r api.Rule) bool {
	wrong := checkRule(r)
	if len(wrong) > 0 {
		f.Condition = strings.TrimSpace(f.Condition + " [this rule cannot be judged: " + wrong[0].Message + "]")
	}
	return len(wrong) > 0
}

// meets evaluates the conditions of a rule that checkRule accepts. A value that cannot be read fails the rule even if
// another condition of an "any" rule would hold.
func meets(r api.Rule, fact api.Fact, now time.Time) (bool, error) {
	info, _ := lookup(r.Fact)
	holding := 0
	for _, c := range r.Conditions {
		holds, err := compile(info, c)
		if err != nil {
			return false, err
		}
		ok, err := holds(fact.Values, now)
		if err != nil {
			return false, err
		}
		if ok {
			holding++
		}
	}
	if r.Match == api.MatchAny {
		return holding > 0, nil
	}
	return holding == len(r.Conditions) && holding > 0, nil
}

// informational lists the collected facts that no rule judges.
func informational(facts collected, judged map[key]bool) []api.Finding {
	var out []api.Finding
	for _, k := range facts.order {
		if !judged[k] {
			f := facts.facts[k]
			out = append(out, found(k, f, absent(f), api.RuleInformational))
		}
	}
	return out
}

// known turns an action that is none of the three into "manual": a damaged policy releases nothing without a person.
func known(a api.Action) api.Action {
	if a == api.ActionApprove || a == api.ActionDeny {
		return a
	}
	return api.ActionManual
}

func describe(a api.Action) string {
	switch a {
	case api.ActionApprove:
		return "the policy approves"
	case api.ActionDeny:
		return "the policy denies"
	}
	return "a person decides"
}

func titles(findings []api.Finding) string {
	names := make([]string, len(findings))
	for i, f := range findings {
		names[i] = f.Title
	}
	return strings.Join(slices.Compact(names), ", ")
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
