package keyrequest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Filter selects rows of Running Instances. No statuses mean all that are not Expired; Query is found in the names of
// device, instance, image and policy, whatever the case of ASCII letters; Page counts from 1, and a Size of 0 returns all.
type Filter struct {
	Query      string
	Statuses   []api.KeyStatus
	Page, Size int
}

// names resolves IDs for rows.
type names struct {
	devices, images, policies map[string]string
	instances                 map[string]store.Instance
	checks                    map[string]store.Policy // policies with checks enabled
	versions                  map[string]int64        // of requests
	asked                     *time.Time              // the account's last scheduled check
	now                       time.Time
}

// List returns the newest request of every device on every running machine, newest first, and the counters of the page.
// Machines that are missing are left out. What is selected, counted and cut into pages is the database's work: an account
// has many more requests than fit on a page.
func (s *Service) List(ctx context.Context, p tenant.Principal, f Filter) (api.RunningInstances, error) {
	out := api.RunningInstances{Rows: []api.RunningInstance{}}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		shown := current(slices.Contains(f.Statuses, api.KeyExpired))
		counters, err := store.In[store.KeyRequest](t).CountBy("status", shown...)
		if err != nil {
			return err
		}
		out.Pending, out.Approved = counters[string(api.KeyPending)], counters[string(api.KeyApproved)]+counters[string(api.KeyDelivered)]
		requests := store.In[store.KeyRequest](t)
		if out.Instances, err = requests.CountDistinct("instance_id", append(shown, store.Ne("status", api.KeyExpired))...); err != nil {
			return err
		}
		chosen := append(shown, f.where()...)
		if out.Total, err = requests.Count(chosen...); err != nil {
			return err
		}
		// Without verdict and evidence, which are large.
		chosen = append(chosen, store.Desc("number"), store.Only("id", "number", "status", "integrity", "device_id", "image_id", "instance_id", "policy_id", "created_at", "status_at", "checked_at", "revoke_due_at"))
		if f.Size > 0 {
			skip, beyond := f.skip(out.Total)
			if beyond {
				return nil
			}
			chosen = append(chosen, store.Offset(skip), store.Limit(f.Size))
		}
		rows, err := requests.List(chosen...)
		if err != nil {
			return err
		}
		n, err := namesFor(t, rows...)
		if err != nil {
			return err
		}
		out.Rows = out.Rows[:0]
		for _, r := range rows {
			out.Rows = append(out.Rows, n.row(r))
		}
		return nil
	})
	return out, err
}

// current selects the newest request of every pair of device and machine that is not missing; a key that another boot
// holds is shown beside it. Expired requests hide older ones of their pair that are over, and are shown when asked for.
func current(expired bool) []store.Filter {
	pair := []string{"device_id", "instance_id"}
	running := store.Among[store.Instance]("instance_id", "id", store.Eq("missing", false))
	held := store.OneOf("status", keyOut())
	last := store.Newest[store.KeyRequest](pair, "number")
	if expired {
		return []store.Filter{running, store.Any([]store.Filter{held}, []store.Filter{last})}
	}
	over := []api.KeyStatus{api.KeyDenied, api.KeyFailure, api.KeyRevoked}
	waits := store.Newest[store.KeyRequest](pair, "number", store.Ne("status", api.KeyExpired))
	return []store.Filter{running, store.Ne("status", api.KeyExpired), store.Any([]store.Filter{held},
		[]store.Filter{store.OneOf("status", []api.KeyStatus{api.KeyPending, api.KeyApproved}), waits},
		[]store.Filter{store.OneOf("status", over), last})}
}

// where are the conditions of a person's choice.
func (f Filter) where() []store.Filter {
	var out []store.Filter
	if len(f.Statuses) > 0 {
		out = append(out, store.OneOf("status", f.Statuses))
	}
	if f.Query != "" {
		out = append(out, store.Any(
			[]store.Filter{store.Among[store.Device]("device_id", "id", store.Eq("raid_set_id", ""), store.Like("name", f.Query))},
			[]store.Filter{store.Among[store.Device]("device_id", "id", store.Among[store.RAIDSet]("raid_set_id", "id", store.Like("name", f.Query)))},
			[]store.Filter{store.Among[store.Instance]("instance_id", "id", store.Like("host_name", f.Query))},
			[]store.Filter{store.Among[store.Image]("image_id", "id", store.Like("name", f.Query))},
			[]store.Filter{store.Among[store.Policy]("policy_id", "id", store.Like("name", f.Query))}))
	}
	return out
}

// skip is how many rows stand before the page, and whether there are no more than that; no product overflows.
func (f Filter) skip(total int64) (int, bool) {
	before := max(f.Page, 1) - 1
	if int64(before) > total/int64(f.Size) {
		return 0, true
	}
	return before * f.Size, false
}

// Get returns a request with its findings and history.
func (s *Service) Get(ctx context.Context, p tenant.Principal, id string) (api.KeyRequestDetail, error) {
	var out api.KeyRequestDetail
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r, err := request(t, id)
		if err != nil {
			return err
		}
		n, err := namesFor(t, r)
		if err != nil {
			return err
		}
		row := n.row(r)
		out = api.KeyRequestDetail{RunningInstance: row, Verdict: r.Verdict, Reason: r.Reason, DecidedBy: r.DecidedBy,
			DecidedAt: r.DecidedAt, LeaseExpiresAt: r.LeaseExpiresAt, RevokeDueAt: r.RevokeDueAt, RetryUntil: r.RetryUntil, History: []api.KeyRequestEvent{}}
		pol, err := policyOf(t, r.PolicyID)
		if err != nil {
			return err
		}
		out.LeaseSeconds, out.HeartbeatSeconds, out.RevokeMode = pol.LeaseSeconds, pol.HeartbeatSeconds, pol.RevokeMode
		if i := n.instances[r.InstanceID]; KeyOut(r.Status) {
			out.CheckAskedAt = i.CheckAskedAt
		}
		if r.Status != api.KeyRevokePending {
			out.RevokeDueAt = nil // then it is the broker's own alarm
		}
		if out.WaitsFor, out.MayApprove, err = explain(t, r, true); err != nil {
			return err
		}
		d, err := store.In[store.Device](t).Get(r.DeviceID)
		if err == nil {
			out.Device, err = inventory.UnitView(t, d)
		} else if errors.Is(err, store.ErrNotFound) {
			out.Device, err = api.Device{ID: r.DeviceID, Name: row.DeviceName}, nil
		}
		if err != nil {
			return err
		}
		if err := explainApprovals(t, r, n, &out); err != nil {
			return err
		}
		events, err := store.In[store.KeyRequestEvent](t).List(store.Eq("request_id", id), store.Asc("created_at"))
		for _, e := range events {
			out.History = append(out.History, api.KeyRequestEvent{At: e.CreatedAt, From: e.FromStatus, To: e.ToStatus, Event: e.Event, Actor: e.Actor, Reason: e.Reason})
		}
		return err
	})
	return out, err
}

// explainApprovals says who has approved, and what is still needed.
func explainApprovals(t *store.Tenant, r store.KeyRequest, n names, out *api.KeyRequestDetail) error {
	d, err := demandOf(t, r)
	if err != nil {
		return err
	}
	out.ApprovalsNeeded, out.SeparateApprover = d.needed, d.separate
	if r.Status == api.KeyPending {
		out.ExpiresAt = r.ExpiresAt
	}
	if r.RequestedDeviceID != "" {
		out.RequestedDeviceName = n.devices[r.RequestedDeviceID]
	}
	out.Approvals, err = d.approvals(t, r)
	return err
}

// someIDs is how many values one statement is given.
const someIDs = 1000

// namesFor reads what rows of some requests are shown with.
func namesFor(t *store.Tenant, requests ...store.KeyRequest) (names, error) {
	n := names{devices: map[string]string{}, images: map[string]string{}, policies: map[string]string{}, instances: map[string]store.Instance{},
		checks: map[string]store.Policy{}, versions: map[string]int64{}}
	acc, err := store.Global[store.Account](t.Tx()).Get(t.AccountID())
	if err != nil {
		return n, err
	}
	n.now, n.asked = t.Now(), acc.CheckAskedAt
	for some := range slices.Chunk(requests, someIDs) {
		if err := n.read(t, some); err != nil {
			return n, err
		}
	}
	return n, nil
}

func (n names) read(t *store.Tenant, requests []store.KeyRequest) error {
	ids := func(of func(store.KeyRequest) []string) store.Filter {
		seen := map[string]bool{"": true}
		var out []string
		for _, r := range requests {
			for _, id := range of(r) {
				if !seen[id] {
					seen[id] = true
					out = append(out, id)
				}
			}
		}
		return store.OneOf("id", out)
	}
	devices, err := store.In[store.Device](t).List(ids(func(r store.KeyRequest) []string { return []string{r.DeviceID, r.RequestedDeviceID} }),
		store.Only("id", "name", "raid_set_id", "raid_index"))
	if err != nil {
		return err
	}
	for _, d := range devices {
		n.devices[d.ID] = d.Name
	}
	sets, err := inventory.SetNames(t, devices)
	if err != nil {
		return err
	}
	maps.Copy(n.devices, sets)
	images, err := store.In[store.Image](t).List(ids(func(r store.KeyRequest) []string { return []string{r.ImageID} }), store.Only("id", "name"))
	if err != nil {
		return err
	}
	for _, i := range images {
		n.images[i.ID] = i.Name
	}
	policies, err := store.In[store.Policy](t).List(ids(func(r store.KeyRequest) []string { return []string{r.PolicyID} }),
		store.Only("id", "name", "check_enabled", "heartbeat_seconds"))
	if err != nil {
		return err
	}
	for _, p := range policies {
		n.policies[p.ID] = p.Name
		if p.CheckEnabled {
			n.checks[p.ID] = p
		}
	}
	instances, err := store.In[store.Instance](t).List(ids(func(r store.KeyRequest) []string { return []string{r.InstanceID} }),
		store.Only("id", "host_name", "provider", "missing", "check_asked_at"))
	if err != nil {
		return err
	}
	for _, i := range instances {
		n.instances[i.ID] = i
	}
	own := make([]string, len(requests))
	for i, r := range requests {
		own[i] = r.ID
	}
	versions, err := store.In[store.KeyRequestEvent](t).CountBy("request_id", store.OneOf("request_id", own))
	maps.Copy(n.versions, versions)
	return err
}

func (n names) row(r store.KeyRequest) api.RunningInstance {
	inst := n.instances[r.InstanceID]
	device := n.devices[r.DeviceID]
	if device == "" {
		device = "(deleted device)"
	}
	row := api.RunningInstance{RequestID: r.ID, Number: r.Number, Status: r.Status, Integrity: r.Integrity, DeviceID: r.DeviceID,
		DeviceName: device, ImageID: r.ImageID, ImageName: n.images[r.ImageID], InstanceID: r.InstanceID, InstanceName: inst.HostName,
		Provider: inst.Provider, PolicyID: r.PolicyID, PolicyName: n.policies[r.PolicyID], RequestedAt: r.CreatedAt, Version: n.versions[r.ID],
		Since: r.StatusAt, CheckedAt: r.CheckedAt, CheckOverdue: n.overdue(r, inst)}
	if r.Status == api.KeyRevokePending {
		row.RevokeAt = r.RevokeDueAt
	}
	return row
}

// overdue says whether a check of a delivered key has gone unanswered.
func (n names) overdue(r store.KeyRequest, inst store.Instance) bool {
	if !LeaseRenewed(r.Status) {
		return false
	}
	pol, enabled := n.checks[r.PolicyID]
	if inst.CheckAskedAt != nil && overdue(n.now, *inst.CheckAskedAt, pol) {
		return true
	}
	return enabled && n.asked != nil && r.CheckedAt != nil && r.CheckedAt.Before(*n.asked) && overdue(n.now, *n.asked, pol)
}
