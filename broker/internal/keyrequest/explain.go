package keyrequest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/store"
	"keyward/rbac"
)

// mayApprove are the people whose approval of a pending request would count now: by role and name, without those who
// have approved it already and those whose own request it is. The machine that asks is no person, so it is never among
// them.
func mayApprove(t *store.Tenant, r store.KeyRequest, d demand, done []api.Approval) ([]api.Approver, error) {
	out := []api.Approver{}
	for _, role := range approvers {
		users, err := store.In[store.User](t).List(store.Eq("role", role), store.Asc("name"),
			store.Only("id", "name", "display_name", "role", "locked_until"))
		if err != nil {
			return nil, err
		}
		for _, u := range users {
			if slices.ContainsFunc(done, func(a api.Approval) bool { return a.UserID == u.ID }) {
				continue
			}
			if d.separate {
				if why, err := involved(t, r, u.ID); err != nil {
					return nil, err
				} else if why != "" {
					continue
				}
			}
			out = append(out, api.Approver{UserID: u.ID, Name: u.Name, DisplayName: u.DisplayName, Role: u.Role,
				Locked: u.LockedUntil != nil && u.LockedUntil.After(t.Now())})
		}
	}
	return out, nil
}

// explain says what a pending request waits for and who may approve it; nothing for others. The sentence names roles and
// no people, for the machine reads it too.
func explain(t *store.Tenant, r store.KeyRequest, people bool) (waits string, who []api.Approver, err error) {
	if r.Status != api.KeyPending {
		return "", nil, nil
	}
	if !assigned(r.Integrity) {
		return sentenceOf(approval.Roles(rbac.KeyRequestsAssignPolicy)) +
			" puts the device and the machine's image into one policy; until then nobody can approve.", nil, nil
	}
	d, err := demandOf(t, r)
	if err != nil {
		return "", nil, err
	}
	all, err := d.approvals(t, r)
	if err != nil {
		return "", nil, err
	}
	done := approval.Counting(all)
	if people {
		if who, err = mayApprove(t, r, d, done); err != nil {
			return "", nil, err
		}
	}
	return waitsFor(r, d, len(done)), who, nil
}

func waitsFor(r store.KeyRequest, d demand, done int) string {
	text := sentenceOf(approvers) + " of the account approves or denies it"
	if d.needed > 1 {
		text = fmt.Sprintf("%d of %d people have approved it; %s, one who has not, approves or denies it", done, d.needed, lower(sentenceOf(approvers)))
	}
	if d.separate {
		text += ", but nobody who brought the request about"
	}
	switch r.WaitsFor {
	case waitsForPool:
		text = "A device of the resource pool becomes free, or " + lower(text)
	case waitsForSilence:
		text = "The machine's other run falls silent, or " + lower(text)
	}
	if r.ApproveAt != nil {
		text += ", or it is approved by itself at " + r.ApproveAt.UTC().Format(time.RFC3339)
	}
	return text + "."
}

func lower(text string) string { return strings.ToLower(text[:1]) + text[1:] }

// sentenceOf writes roles as the beginning of a sentence: "An Account Administrator or Key Approver".
func sentenceOf(roles []string) string {
	var titles []string
	for _, info := range rbac.Roles() {
		for _, role := range roles {
			if info.Name == role {
				titles = append(titles, info.Title)
			}
		}
	}
	text := strings.Join(titles, " or ")
	if text == "" {
		return "Nobody"
	}
	if strings.ContainsRune("AEIOU", rune(text[0])) {
		return "An " + text
	}
	return "A " + text
}

// shortfalls are the failed rules as the machine itself is told them: what was found of it, never what the policy wants.
// A condition may hold what amounts to a secret (user data), and who reads it on the machine could report just that.
func shortfalls(v api.Verdict) []api.Shortfall {
	var out []api.Shortfall
	for _, f := range v.Findings {
		if f.Status == api.RuleFailed {
			out = append(out, api.Shortfall{Title: f.Title, Actual: f.Actual, Grade: f.Grade})
		}
	}
	return out
}
