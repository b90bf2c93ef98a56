package keyrequest

import (
	"errors"
	"fmt"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// eventStands is the history line of a request that was born under a person's denial or revocation. Each new request
// carries it on, so the earlier request alone tells whether a person has the last word, however long the history is.
const eventStands = EventPersonDecides

// EventPersonDecides names that line.
const EventPersonDecides = "person-decides"

// policyDecides says whether policy and timer may give the key of r's device to r's machine: nobody has denied or
// revoked it since a person last approved it.
func policyDecides(t *store.Tenant, r store.KeyRequest) (bool, error) {
	events, err := store.In[store.KeyRequestEvent](t).List(store.Eq("request_id", r.ID), store.Desc("created_at"), store.Desc("id"),
		store.OneOf("event", []string{string(EventApproved), string(EventDenied), string(EventRevokedByPerson), string(EventQuarantined), eventStands}))
	if err != nil || len(events) == 0 {
		return true, err
	}
	return events[0].Event == string(EventApproved), nil
}

// askPerson says why policy and timer may not give a device's key to a machine; "" means that they may. last is the
// machine's latest request for the device, nil when it never asked. person is true when somebody denied or revoked it.
// The devices of a resource pool are at home on every machine of the policy, but not on one that enrolled anew.
func askPerson(t *store.Tenant, pol store.Policy, d store.Device, inst store.Instance, last *store.KeyRequest) (why string, person bool, err error) {
	if last != nil {
		decides, err := policyDecides(t, *last)
		if err != nil {
			return "", false, err
		}
		if !decides {
			return textStands, true, nil
		}
	}
	if inst.Suspicion != "" {
		return inst.Suspicion + " " + textSuspected, false, nil
	}
	again := inst.EnrolledAt.After(inst.FirstSeenAt)
	if d.HomeInstanceID == inst.ID || pol.ResourcePool && !again {
		return "", false, nil
	}
	approved, err := approvedHere(t, d.ID, inst)
	if err != nil || approved {
		return "", false, err
	}
	if d.HomeInstanceID == "" || pol.ResourcePool {
		return textAnew, false, nil
	}
	from := d.HomeInstanceID
	if home, err := store.In[store.Instance](t).Get(from); err == nil {
		from = home.HostName
	} else if !errors.Is(err, store.ErrNotFound) {
		return "", false, err
	}
	return fmt.Sprintf("This device moved here from machine %q: a person approves its key on this machine once.", from), false, nil
}

const (
	textStands    = "This key was denied to or revoked from this machine before: only a person gives it back."
	textSuspected = "A person decides, or clears the machine on its page once there is only one."
	textAnew      = "The machine that held this key has enrolled anew: a person approves the key once."
)

// approvedHere says whether a person has approved the device's key for who holds the machine's certificate now. A machine
// publishes what it likes, so that it lists a device is not enough for a policy to give it the key.
func approvedHere(t *store.Tenant, deviceID string, inst store.Instance) (bool, error) {
	decided, err := store.In[store.KeyRequest](t).List(store.Eq("device_id", deviceID), store.Eq("instance_id", inst.ID),
		store.NotNull("decided_at"), store.Desc("number"), store.Limit(5))
	if err != nil {
		return false, err
	}
	for _, r := range decided {
		n, err := store.In[store.KeyRequestEvent](t).Count(store.Eq("request_id", r.ID), store.Eq("event", string(EventApproved)),
			store.After("created_at", inst.EnrolledAt))
		if err != nil || n > 0 {
			return n > 0, err
		}
	}
	return false, nil
}

// mayDecide is askPerson for a request that exists, whose device or machine may be gone.
func mayDecide(t *store.Tenant, r store.KeyRequest) (bool, error) {
	d, err := store.In[store.Device](t).Get(r.DeviceID)
	if err != nil {
		return false, ignoreMissing(err)
	}
	inst, err := store.In[store.Instance](t).Get(r.InstanceID)
	if err != nil {
		return false, ignoreMissing(err)
	}
	pol, err := policyOf(t, r.PolicyID)
	if err != nil || r.WaitsFor != "" {
		return false, err
	}
	why, _, err := askPerson(t, pol, d, inst, &r)
	return why == "", err
}

func ignoreMissing(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func stands(t *store.Tenant, p tenant.Principal, r *store.KeyRequest) error {
	return addEvent(t, store.KeyRequestEvent{RequestID: r.ID, FromStatus: r.Status, ToStatus: r.Status, Event: eventStands, Actor: p.Actor(), Reason: textStands})
}

// status is a request as its machine sees it.
func status(t *store.Tenant, r store.KeyRequest) (api.KeyRequestStatus, error) {
	version, err := version(t, r.ID)
	if err != nil {
		return api.KeyRequestStatus{}, err
	}
	pol, err := policyOf(t, r.PolicyID)
	if err != nil {
		return api.KeyRequestStatus{}, err
	}
	waits, _, err := explain(t, r, false)
	if err != nil {
		return api.KeyRequestStatus{}, err
	}
	return api.KeyRequestStatus{ID: r.ID, Number: r.Number, DeviceID: r.DeviceID, Status: r.Status, Integrity: r.Integrity,
		Reason: r.Reason, Version: version, HeartbeatSeconds: pol.HeartbeatSeconds, LeaseSeconds: pol.LeaseSeconds, RevokeMode: pol.RevokeMode,
		WaitsFor: waits, Failed: shortfalls(r.Verdict)}, nil
}

// version counts what happened to a request. The row's own version will not do: every heartbeat that renews a lease
// changes it, and neither a waiting agent nor a person with the page open should notice.
func version(t *store.Tenant, requestID string) (int64, error) {
	return store.Keep(t.Tx(), versionKey{requestID}, func() (int64, error) {
		return store.In[store.KeyRequestEvent](t).Count(store.Eq("request_id", requestID))
	})
}

// versionKey is where a request's version is kept among transactions that share a commit.
type versionKey struct{ request string }

// addEvent adds a line to a request's history.
func addEvent(t *store.Tenant, e store.KeyRequestEvent) error {
	store.Adjust(t.Tx(), versionKey{e.RequestID}, func(n int64) int64 { return n + 1 })
	return store.In[store.KeyRequestEvent](t).InsertLater(&e)
}
