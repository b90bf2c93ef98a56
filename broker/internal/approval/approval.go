// Package approval counts people who agree: to a key request, or to an export of keys. An approval counts for a day, and
// only while its person exists and may approve.
package approval

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// Life is how long one person's approval counts while others are still needed.
const Life = 24 * time.Hour

// Row is an approval as a table keeps it. The tables have the same columns.
type Row interface {
	store.KeyRequestApproval | store.KeyExportApproval
}

// Rules say whose approval of a thing counts.
type Rules struct {
	// Roles are those that may approve.
	Roles []string
	// Against says why a person's word does not count for this thing; "" when nothing speaks against it. It may be nil.
	Against func(userID string) (string, error)
}

// Roles are the roles that may perform an operation, most privileged first.
func Roles(op rbac.Operation) []string {
	for _, row := range rbac.Matrix() {
		if row.Operation == op {
			return row.Roles
		}
	}
	return nil
}

// Give stores the caller's approval of the thing with the ID. Who approved already is told so, with what the thing still
// needs; an approval that ended in the meantime is given anew.
func Give[R Row](t *store.Tenant, p tenant.Principal, id, reason, needs, hint string) error {
	table := store.In[R](t)
	ends := t.Now().Add(Life)
	row := R(store.KeyRequestApproval{RequestID: id, UserID: p.UserID, UserName: p.UserName, Reason: reason, ExpiresAt: ends})
	err := table.Insert(&row)
	if !errors.Is(err, store.ErrDuplicate) {
		return err
	}
	found, err := table.First(store.Eq("request_id", id), store.Eq("user_id", p.UserID))
	if err != nil {
		return err
	}
	old := store.KeyRequestApproval(found)
	if old.ExpiresAt.After(t.Now()) {
		return problem.New(http.StatusConflict, "already-approved", "You have approved this already",
			fmt.Sprintf("%s; you are one of them since %s.", needs, old.UpdatedAt.UTC().Format(time.RFC3339)), hint)
	}
	old.UserName, old.Reason, old.ExpiresAt = p.UserName, reason, ends
	found = R(old)
	return table.Update(&found)
}

// List lists the approvals of a thing, oldest first, with why those that count no longer do not. Of a thing that is decided
// what counted then stays: open is false.
func List[R Row](t *store.Tenant, id string, open bool, rules Rules) ([]api.Approval, error) {
	rows, err := store.In[R](t).List(store.Eq("request_id", id), store.Asc("created_at"))
	if err != nil {
		return nil, err
	}
	out := make([]api.Approval, 0, len(rows))
	for _, r := range rows {
		row := store.KeyRequestApproval(r)
		a := api.Approval{UserID: row.UserID, User: row.UserName, At: row.UpdatedAt, Reason: row.Reason, ExpiresAt: row.ExpiresAt}
		if open {
			if a.Void, err = rules.void(t, row); err != nil {
				return nil, err
			}
		}
		out = append(out, a)
	}
	return out, nil
}

func (r Rules) void(t *store.Tenant, row store.KeyRequestApproval) (string, error) {
	if !row.ExpiresAt.After(t.Now()) {
		return "expired", nil
	}
	u, err := store.In[store.User](t).Get(row.UserID)
	if errors.Is(err, store.ErrNotFound) {
		return "the user was deleted", nil
	}
	if err != nil {
		return "", err
	}
	if !slices.Contains(r.Roles, string(u.Role)) {
		return "the user may not approve any more", nil
	}
	if r.Against == nil {
		return "", nil
	}
	return r.Against(row.UserID)
}

// Counting are the approvals that count.
func Counting(all []api.Approval) []api.Approval {
	return slices.DeleteFunc(slices.Clone(all), func(a api.Approval) bool { return a.Void != "" })
}

// Names are the names of those who approved.
func Names(all []api.Approval) []string {
	names := make([]string, len(all))
	for i, a := range all {
		names[i] = a.User
	}
	return names
}

// Sentence joins names as people write them.
func Sentence(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
