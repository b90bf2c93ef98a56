package cli

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/policyfile"
)

// showPlan prints a plan for people or for scripts.
func showPlan(w io.Writer, plan policyfile.Plan, asJSON bool) error {
	if asJSON {
		return printJSON(w, plan)
	}
	b := bufio.NewWriter(w)
	if plan.Empty() {
		fmt.Fprintf(b, "Nothing to do: the policies of account %s are those of the file.\n", plan.Account)
	}
	for _, s := range plan.Steps {
		fmt.Fprintf(b, "%s policy %q\n", s.Action, s.Policy)
		for _, line := range s.Diff {
			fmt.Fprintf(b, "    %s\n", line)
		}
	}
	if len(plan.Kept) > 0 {
		fmt.Fprintf(b, "Not in the file, and left as they are: %s.\n", strings.Join(plan.Kept, ", "))
	}
	if plan.Preview != nil {
		showPreview(b, *plan.Preview)
	}
	return b.Flush()
}

// listed is how many machines a plan names; --json has more.
const listed = 20

func showPreview(w io.Writer, p api.PolicyPreview) {
	total := p.After.Approved + p.After.Waits + p.After.Denied + p.After.Keeps + p.After.Revoked + p.After.Unknown
	fmt.Fprintf(w, "Machines, by what they reported last: %d of %d judged otherwise than today.\n", p.Changed, total)
	fmt.Fprintf(w, "    %-22s %8s %8s\n", "", "today", "then")
	for _, c := range []struct {
		name        string
		today, then int64
	}{{"approved", p.Before.Approved, p.After.Approved}, {"wait", p.Before.Waits, p.After.Waits}, {"denied", p.Before.Denied, p.After.Denied},
		{"keep their key", p.Before.Keeps, p.After.Keeps}, {"revoked when checked", p.Before.Revoked, p.After.Revoked},
		{"unknown, no facts", p.Before.Unknown, p.After.Unknown}} {
		fmt.Fprintf(w, "    %-22s %8d %8d\n", c.name, c.today, c.then)
	}
	shown := int64(0)
	for _, r := range p.Rows {
		if r.Before.Outcome == r.After.Outcome || shown == listed {
			break
		}
		shown++
		fmt.Fprintf(w, "    %s on %s: %s -> %s. %s\n", r.DeviceName, r.InstanceName, r.Before.Outcome, r.After.Outcome, r.After.Reason)
		for _, f := range r.After.Failed {
			fmt.Fprintf(w, "        %s: wants %s, found %s (%s)\n", f.Title, f.Condition, f.Actual, orNone(string(f.Grade)))
		}
	}
	if p.Changed > shown {
		fmt.Fprintf(w, "    and %d more; --json lists up to 200\n", p.Changed-shown)
	}
	if p.Unseen > 0 {
		fmt.Fprintf(w, "    %d devices were not looked at: the time was over\n", p.Unseen)
	}
}

func orNone(grade string) string {
	if grade == "" {
		return "nobody vouches for it"
	}
	return grade
}
