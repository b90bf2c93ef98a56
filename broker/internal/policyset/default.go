package policyset

import (
	"errors"
	"fmt"
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
)

// What a default policy says until somebody changes it: a person decides, a machine reports every half minute, and a key
// lives five minutes without contact.
const (
	defaultName      = "Default Policy"
	defaultLease     = 300
	defaultHeartbeat = 30
	defaultRequest   = 7 * 86400
)

// Default returns the account's default policy and makes it when there is none yet.
func Default(t *store.Tenant) (store.Policy, error) {
	policies := store.In[store.Policy](t)
	row, err := policies.First(store.Eq("is_default", true))
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return row, err
	}
	row = store.Policy{
		Name: defaultName, Description: "Receives every new image and device. A person decides on each key request.",
		IsDefault: true, Rules: []api.Rule{}, OnMatch: api.ActionManual, OnFailure: api.ActionManual,
		LeaseSeconds: defaultLease, HeartbeatSeconds: defaultHeartbeat, RevokeMode: api.RevokeUnmount,
		ApprovalsNeeded: 1, RequestSeconds: defaultRequest,
	}
	if err := policies.Insert(&row); err != nil {
		return row, fmt.Errorf("making the default policy: %w", err)
	}
	return row, audit.Append(t, audit.Entry{Category: "policy", Event: "policy.created", Actor: "broker", Subject: row.ID,
		Detail: map[string]string{"name": row.Name, "default": "true"}})
}

// Check refuses what no policy may say.
func Check(in api.Policy) error {
	fields := map[string]string{}
	for _, e := range policy.Validate(in) {
		if fields[e.Field] == "" {
			fields[e.Field] = e.Message
		}
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	return nil
}

// checkDefault refuses what may not change of the default policy.
func checkDefault(t *store.Tenant, row store.Policy, in api.Policy) error {
	if in.Name != row.Name {
		return problem.Invalid("name", "the default policy keeps its name")
	}
	images, err := imagesIn(t, row.ID)
	if err != nil {
		return err
	}
	devices, err := devicesIn(t, row.ID)
	if err != nil {
		return err
	}
	if len(in.ImageIDs) > 0 && !same(in.ImageIDs, images) {
		return problem.Invalid("image_ids", "the default policy's images are computed; add an image to another policy there")
	}
	if len(in.DeviceIDs) > 0 && !same(in.DeviceIDs, devices) {
		return problem.Invalid("device_ids", "the default policy's devices are computed; move a device by adding it to another policy")
	}
	return nil
}

func same(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// Prepare gives a new account its default policy; account.Deps.OnCreate takes it.
func Prepare(t *store.Tenant) error {
	_, err := Default(t)
	return err
}
