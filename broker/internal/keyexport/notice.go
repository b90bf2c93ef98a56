package keyexport

import (
	"fmt"
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// maxNotices is the longest list of notices.
const maxNotices = 20

// readers are the roles that may know of exports.
var readers = approval.Roles(rbac.KeyExportsRead)

// Notices tells who may know of exports which of them wait for somebody to agree, newest first. Such a notice lasts as long
// as the export waits, so nobody puts it aside.
func (s *Service) Notices(t *store.Tenant, p tenant.Principal) ([]api.Notice, error) {
	if !slices.Contains(readers, string(p.Role)) {
		return nil, nil
	}
	rows, err := store.In[store.KeyExport](t).List(store.Eq("status", api.ExportWaiting), store.Desc("created_at"), store.Limit(maxNotices))
	if err != nil {
		return nil, err
	}
	var out []api.Notice
	for _, e := range rows {
		st, err := standingOf(t, e)
		if err != nil {
			return nil, err
		}
		out = append(out, api.Notice{ID: e.ID, Kind: "export-waits", At: e.CreatedAt, ExportID: e.ID,
			Text: fmt.Sprintf("%s asks for %s: %s. %d of %d people agree.", e.AskedBy, subject(e), strings.TrimRight(e.Reason, ". \n"), st.agreed, st.needed)})
	}
	return out, nil
}

// subject says in a few words what leaves the broker.
func subject(e store.KeyExport) string {
	switch {
	case e.Kind == api.ExportRecoveryKey:
		return "another recovery key, whose holders can read every key"
	case len(e.Devices) == 1:
		return fmt.Sprintf("the key of device %q", e.Devices[0].Name)
	}
	return fmt.Sprintf("the keys of %d devices", len(e.Devices))
}
