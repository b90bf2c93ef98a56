package keyrequest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Filter selects rows of Running Instances. No statuses mean all that are not Expired; Query is found in the names of
// device, instance, image and policy; Page counts from 1, and a Size of 0 returns all.
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
	asked                     *time.Time              // the account's last scheduled check
	now                       time.Time
}

// List returns the newest request of every device on every running machine, newest first, and the counters of the page.
// Machines that are missing are left out.
func (s *Service) List(ctx context.Context, p tenant.Principal, f Filter) (api.RunningInstances, error) {
	out := api.RunningInstances{Rows: []api.RunningInstance{}}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		n, err := namesOf(t)
		if err != nil {
			return err
		}
		requests, err := current(t, slices.Contains(f.Statuses, api.KeyExpired))
		if err != nil {
			return err
		}
		out.Rows = out.Rows[:0]
		instances := map[string]bool{}
		var chosen []store.KeyRequest
		for _, r := range requests {
			inst, ok := n.instances[r.InstanceID]
			if !ok || inst.Missing {
				continue
			}
			if r.Status != api.KeyExpired {
				instances[r.InstanceID] = true
			}
			switch r.Status {
			case api.KeyPending:
				out.Pending++
			case api.KeyApproved, api.KeyDelivered:
				out.Approved++
			}
			if f.matches(r, n) {
				chosen = append(chosen, r)
			}
		}
		out.Instances, out.Total = int64(len(instances)), int64(len(chosen))
		for _, r := range page(chosen, f.Page, f.Size) {
			row, err := n.row(t, r)
			if err != nil {
				return err
			}
			out.Rows = append(out.Rows, row)
		}
		return nil
	})
	return out, err
}

// current lists the newest request of every pair of device and machine, newest first.
func current(t *store.Tenant, expired bool) ([]store.KeyRequest, error) {
	// Without verdict and evidence, which are large.
	filters := []store.Filter{store.Desc("number"), store.Only("id", "number", "status", "integrity", "device_id", "image_id", "instance_id", "policy_id", "created_at", "status_at", "checked_at", "revoke_due_at")}
	if !expired {
		filters = append(filters, store.Ne("status", api.KeyExpired))
	}
	all, err := store.In[store.KeyRequest](t).List(filters...)
	if err != nil {
		return nil, err
	}
	seen := map[[2]string]bool{}
	var out []store.KeyRequest
	for _, r := range all {
		pair := [2]string{r.DeviceID, r.InstanceID}
		if seen[pair] && !KeyOut(r.Status) { // a key that another boot holds is shown beside the newest request
			continue
		}
		seen[pair] = true
		if !expired && (Ended(r.Status) || r.Status == api.KeyRevoked) {
			// A newer request of the pair may have expired since; then this one is history.
			last, err := store.In[store.KeyRequest](t).First(store.Only("id"), store.Eq("device_id", r.DeviceID), store.Eq("instance_id", r.InstanceID), store.Desc("number"))
			if err != nil {
				return nil, err
			}
			if last.ID != r.ID {
				continue
			}
		}
		out = append(out, r)
	}
	return out, nil
}

func (f Filter) matches(r store.KeyRequest, n names) bool {
	if len(f.Statuses) > 0 && !slices.Contains(f.Statuses, r.Status) {
		return false
	}
	if f.Query == "" {
		return true
	}
	text := strings.ToLower(strings.Join([]string{n.devices[r.DeviceID], n.instances[r.InstanceID].HostName, n.images[r.ImageID], n.policies[r.PolicyID]}, "\x00"))
	return strings.Contains(text, strings.ToLower(f.Query))
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
		n, err := namesOf(t)
		if err != nil {
			return err
		}
		row, err := n.row(t, r)
		if err != nil {
			return err
		}
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

func namesOf(t *store.Tenant) (names, error) {
	n := names{devices: map[string]string{}, images: map[string]string{}, policies: map[string]string{}, instances: map[string]store.Instance{}}
	named := store.Only("id", "name")
	devices, err := store.In[store.Device](t).List(named)
	if err != nil {
		return n, err
	}
	for _, d := range devices {
		n.devices[d.ID] = d.Name
	}
	sets, err := inventory.SetNames(t)
	if err != nil {
		return n, err
	}
	maps.Copy(n.devices, sets)
	images, err := store.In[store.Image](t).List(named)
	if err != nil {
		return n, err
	}
	for _, i := range images {
		n.images[i.ID] = i.Name
	}
	policies, err := store.In[store.Policy](t).List(named)
	if err != nil {
		return n, err
	}
	for _, p := range policies {
		n.policies[p.ID] = p.Name
	}
	instances, err := store.In[store.Instance](t).List(store.Only("id", "host_name", "provider", "missing", "check_asked_at"))
	if err != nil {
		return n, err
	}
	for _, i := range instances {
		n.instances[i.ID] = i
	}
	acc, err := store.Global[store.Account](t.Tx()).Get(t.AccountID())
	if err != nil {
		return n, err
	}
	n.now, n.asked = t.Now(), acc.CheckAskedAt
	n.checks, err = checkedPolicies(t)
	return n, err
}

func (n names) row(t *store.Tenant, r store.KeyRequest) (api.RunningInstance, error) {
	v, err := version(t, r.ID)
	inst := n.instances[r.InstanceID]
	device := n.devices[r.DeviceID]
	if device == "" {
		device = "(deleted device)"
	}
	row := api.RunningInstance{RequestID: r.ID, Number: r.Number, Status: r.Status, Integrity: r.Integrity, DeviceID: r.DeviceID,
		DeviceName: device, ImageID: r.ImageID, ImageName: n.images[r.ImageID], InstanceID: r.InstanceID, InstanceName: inst.HostName,
		Provider: inst.Provider, PolicyID: r.PolicyID, PolicyName: n.policies[r.PolicyID], RequestedAt: r.CreatedAt, Version: v,
		Since: r.StatusAt, CheckedAt: r.CheckedAt, CheckOverdue: n.overdue(r, inst)}
	if r.Status == api.KeyRevokePending {
		row.RevokeAt = r.RevokeDueAt
	}
	return row, err
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

func page[T any](rows []T, n, size int) []T {
	if size <= 0 {
		return rows
	}
	if n-1 > len(rows)/size { // before the product overflows
		return rows[:0]
	}
	from := min(max(n-1, 0)*size, len(rows))
	return rows[from:min(from+size, len(rows))]
}
