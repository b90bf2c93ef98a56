package keyrequest

import (
	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// eventStands is the history line of a request that was born under a person's denial or revocation. Each new request
// carries it on, so the earlier request alone tells whether a person has the last word, however long the history is.
const eventStands = "person-decides"

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

func stands(t *store.Tenant, p tenant.Principal, r *store.KeyRequest) error {
	return store.In[store.KeyRequestEvent](t).Insert(&store.KeyRequestEvent{RequestID: r.ID, FromStatus: r.Status, ToStatus: r.Status,
		Event: eventStands, Actor: p.Actor(), Reason: "This key was denied to or revoked from this machine before: only a person gives it back."})
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
	return api.KeyRequestStatus{ID: r.ID, Number: r.Number, DeviceID: r.DeviceID, Status: r.Status, Integrity: r.Integrity,
		Reason: r.Reason, Version: version, HeartbeatSeconds: pol.HeartbeatSeconds, LeaseSeconds: pol.LeaseSeconds, RevokeMode: pol.RevokeMode}, nil
}

// version counts what happened to a request. The row's own version will not do: every heartbeat that renews a lease
// changes it, and neither a waiting agent nor a person with the page open should notice.
func version(t *store.Tenant, requestID string) (int64, error) {
	return store.In[store.KeyRequestEvent](t).Count(store.Eq("request_id", requestID))
}
