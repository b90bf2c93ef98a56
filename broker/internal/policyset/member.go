package policyset

import (
	"errors"
	"fmt"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// members are an account's memberships by policy.
type members struct{ images, devices map[string][]string }

func membersOf(t *store.Tenant) (members, error) {
	m := members{images: map[string][]string{}, devices: map[string][]string{}}
	images, err := store.In[store.PolicyImage](t).List()
	if err != nil {
		return m, err
	}
	for _, i := range images {
		m.images[i.PolicyID] = append(m.images[i.PolicyID], i.ImageID)
	}
	devices, err := store.In[store.Device](t).List(store.Eq("raid_set_id", ""), store.Only("id", "policy_id"))
	if err != nil {
		return m, err
	}
	for _, d := range devices {
		m.devices[d.PolicyID] = append(m.devices[d.PolicyID], d.ID)
	}
	sets, err := store.In[store.RAIDSet](t).List()
	if err != nil {
		return m, err
	}
	for _, r := range sets {
		m.devices[r.PolicyID] = append(m.devices[r.PolicyID], r.ID)
	}
	return m, nil
}

func (m members) view(r store.Policy) api.Policy {
	return view(r, m.images[r.ID], m.devices[r.ID])
}

func view(r store.Policy, images, devices []string) api.Policy {
	p := View(r)
	p.ImageIDs, p.DeviceIDs = append(p.ImageIDs, images...), append(p.DeviceIDs, devices...)
	return p
}

// View is a policy without its members, as appraisal needs it.
func View(r store.Policy) api.Policy {
	return api.Policy{
		ID: r.ID, Name: r.Name, Description: r.Description, Default: r.IsDefault,
		Rules: append([]api.Rule{}, r.Rules...), OnMatch: r.OnMatch, OnFailure: r.OnFailure,
		ApproveAfterSeconds: r.ApproveAfterSeconds, LeaseSeconds: r.LeaseSeconds, HeartbeatSeconds: r.HeartbeatSeconds,
		RevokeMode: r.RevokeMode, CheckEnabled: r.CheckEnabled, CheckEveryHeartbeat: r.CheckEveryHeartbeat, OnCheckFailure: r.OnCheckFailure,
		PostponeSeconds: r.PostponeSeconds, MissingAfterSeconds: r.MissingAfterSeconds,
		ResourcePool: r.ResourcePool, ApprovalsNeeded: r.ApprovalsNeeded, SeparateApprover: r.SeparateApprover,
		RequestSeconds: r.RequestSeconds, ImageIDs: []string{}, DeviceIDs: []string{}, Version: r.Version,
	}
}

func read(t *store.Tenant, id string) (api.Policy, error) {
	row, err := store.In[store.Policy](t).Get(id)
	if err != nil {
		return api.Policy{}, missing(err)
	}
	images, err := imagesIn(t, id)
	if err != nil {
		return api.Policy{}, err
	}
	devices, err := devicesIn(t, id)
	if err != nil {
		return api.Policy{}, err
	}
	return view(row, images, devices), nil
}

func imagesIn(t *store.Tenant, policyID string) ([]string, error) {
	rows, err := store.In[store.PolicyImage](t).List(store.Eq("policy_id", policyID))
	ids := make([]string, 0, len(rows))
	for _, r := range rows {
		ids = append(ids, r.ImageID)
	}
	return ids, err
}

// devicesIn lists devices and RAID sets. A member of a set is in its set's policy, which names the set.
func devicesIn(t *store.Tenant, policyID string) ([]string, error) {
	devices, err := store.In[store.Device](t).List(store.Eq("policy_id", policyID), store.Eq("raid_set_id", ""))
	if err != nil {
		return nil, err
	}
	sets, err := store.In[store.RAIDSet](t).List(store.Eq("policy_id", policyID))
	ids := make([]string, 0, len(devices)+len(sets))
	for _, d := range devices {
		ids = append(ids, d.ID)
	}
	for _, r := range sets {
		ids = append(ids, r.ID)
	}
	return ids, err
}

// assign makes the lists of in the members of row; a nil list changes nothing.
func (s *Service) assign(t *store.Tenant, p tenant.Principal, row *store.Policy, in api.Policy) error {
	if in.ImageIDs != nil {
		if err := s.assignImages(t, p, row, in.ImageIDs); err != nil {
			return err
		}
	}
	if in.DeviceIDs == nil {
		return nil
	}
	before, err := devicesIn(t, row.ID)
	if err != nil {
		return err
	}
	for _, id := range in.DeviceIDs {
		if slices.Contains(before, id) {
			continue
		}
		if err := MoveDevice(t, p, id, row.ID); err != nil {
			return err
		}
	}
	var home store.Policy
	for _, id := range before {
		if slices.Contains(in.DeviceIDs, id) {
			continue
		}
		if home.ID == "" {
			if home, err = Default(t); err != nil {
				return err
			}
		}
		if err := MoveDevice(t, p, id, home.ID); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) assignImages(t *store.Tenant, p tenant.Principal, row *store.Policy, want []string) error {
	before, err := imagesIn(t, row.ID)
	if err != nil {
		return err
	}
	for _, id := range want {
		if slices.Contains(before, id) {
			continue
		}
		if err := AddImage(t, p, id, row.ID); err != nil {
			return err
		}
	}
	for _, id := range before {
		if slices.Contains(want, id) {
			continue
		}
		if _, err := store.In[store.PolicyImage](t).DeleteWhere(store.Eq("policy_id", row.ID), store.Eq("image_id", id)); err != nil {
			return err
		}
		if err := moved(t, p, "policy.image-removed", id, row.Name); err != nil {
			return err
		}
	}
	return nil
}

// AddImage puts an image into a policy; one that is in it already stays.
func AddImage(t *store.Tenant, p tenant.Principal, imageID, policyID string) error {
	row, err := store.In[store.Policy](t).Get(policyID)
	if err != nil {
		return missing(err)
	}
	if _, err := store.In[store.Image](t).Get(imageID); errors.Is(err, store.ErrNotFound) {
		return problem.Invalid("image_ids", fmt.Sprintf("there is no image %q", imageID))
	} else if err != nil {
		return err
	}
	err = store.In[store.PolicyImage](t).Insert(&store.PolicyImage{PolicyID: policyID, ImageID: imageID})
	if errors.Is(err, store.ErrDuplicate) {
		return nil
	}
	if err != nil {
		return err
	}
	return moved(t, p, "policy.image-added", imageID, row.Name)
}

// MoveDevice moves a device or RAID set into a policy. The policy that it leaves counts as changed, so that a person who
// has that policy open does not move it back unseen.
func MoveDevice(t *store.Tenant, p tenant.Principal, deviceID, policyID string) error {
	to, err := store.In[store.Policy](t).Get(policyID)
	if err != nil {
		return missing(err)
	}
	from, err := setPolicy(t, deviceID, policyID)
	if err != nil || from == policyID {
		return err
	}
	left, err := store.In[store.Policy](t).Get(from)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil && !left.IsDefault {
		if err := store.In[store.Policy](t).Update(&left); err != nil {
			return err
		}
	}
	return moved(t, p, "policy.device-moved", deviceID, to.Name)
}

// setPolicy returns the policy that the device or RAID set was in.
func setPolicy(t *store.Tenant, id, policyID string) (string, error) {
	d, err := store.In[store.Device](t).Get(id)
	if err == nil && d.RAIDSetID != "" {
		return setPolicy(t, d.RAIDSetID, policyID) // a set is judged as one
	}
	if err == nil {
		from := d.PolicyID
		d.PolicyID = policyID
		if from == policyID {
			return from, nil
		}
		return from, store.In[store.Device](t).Update(&d)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return "", err
	}
	r, err := store.In[store.RAIDSet](t).Get(id)
	if errors.Is(err, store.ErrNotFound) {
		return "", problem.Invalid("device_ids", fmt.Sprintf("there is no device or RAID set %q", id))
	}
	if err != nil {
		return "", err
	}
	from := r.PolicyID
	r.PolicyID = policyID
	if from == policyID {
		return from, nil
	}
	members, err := store.In[store.Device](t).List(store.Eq("raid_set_id", id))
	if err != nil {
		return "", err
	}
	for _, d := range members {
		d.PolicyID = policyID
		if err := store.In[store.Device](t).Update(&d); err != nil {
			return "", err
		}
	}
	return from, store.In[store.RAIDSet](t).Update(&r)
}

func moved(t *store.Tenant, p tenant.Principal, event, subject, policyName string) error {
	return audit.Append(t, audit.Entry{Category: "policy", Event: event, Actor: p.Actor(), Subject: subject,
		Detail: map[string]string{"policy": policyName}})
}
