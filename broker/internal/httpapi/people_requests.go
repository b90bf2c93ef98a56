package httpapi

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

type runningInput struct {
	api.Page
	Status []api.KeyStatus `query:"status,explode" doc:"only these states; none means all that are not Expired"`
	Search string          `query:"search" maxLength:"255" doc:"found in the names of device, instance, image or policy"`
}

type decisionInput struct {
	ByID
	Body api.Decision
}

type assignInput struct {
	ByID
	Body api.PolicyAssignment
}

func registerRequests(r *Router, d PeopleDeps) {
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/running-instances", Operation: rbac.RunningInstancesRead, Summary: "List key requests of running instances"},
		func(ctx context.Context, p tenant.Principal, in *runningInput) (*answer[api.RunningInstances], error) {
			return answerOf(d.Requests.List(ctx, p, keyrequest.Filter{Query: in.Search, Statuses: in.Status, Page: in.Page.Page, Size: in.Size}))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/key-requests/{id}", Operation: rbac.RunningInstancesRead, Summary: "Read a key request"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.KeyRequestDetail], error) {
			return answerOf(d.Requests.Get(ctx, p, in.ID))
		})
	for _, a := range []struct {
		name, summary string
		op            rbac.Operation
		do            func(context.Context, tenant.Principal, string, api.Decision) error
	}{
		{"approve", "Approve a pending key request", rbac.KeyRequestsDecide, d.Requests.Approve},
		{"deny", "Deny a key request", rbac.KeyRequestsDecide, d.Requests.Deny},
		{"revoke", "Revoke a delivered key", rbac.KeyRequestsRevoke, d.Requests.Revoke},
		{"ignore", "Keep a key that a failed check would revoke", rbac.KeyRequestsRevoke, d.Requests.Ignore},
	} {
		handle(r, Route{Method: http.MethodPost, Path: "/api/v1/key-requests/{id}/" + a.name, Operation: a.op, Summary: a.summary},
			func(ctx context.Context, p tenant.Principal, in *decisionInput) (*answer[api.KeyRequestDetail], error) {
				if err := a.do(ctx, p, in.ID, in.Body); err != nil {
					return nil, err
				}
				return answerOf(d.Requests.Get(ctx, p, in.ID))
			})
	}
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/instances/{id}/clear-suspicion", Operation: rbac.KeyRequestsDecide, Summary: "Say that a machine under suspicion is the only one of its identity"},
		func(ctx context.Context, p tenant.Principal, in *bodyByID[api.Clearance]) (*answer[api.Instance], error) {
			if err := d.Requests.Clear(ctx, p, in.ID, in.Body); err != nil {
				return nil, err
			}
			return answerOf(d.Inventory.Instance(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/key-requests/{id}/assign-policy", Operation: rbac.KeyRequestsAssignPolicy, Summary: "Assign an Unknown request's device to a policy"},
		func(ctx context.Context, p tenant.Principal, in *assignInput) (*answer[api.KeyRequestDetail], error) {
			if err := d.Requests.AssignPolicy(ctx, p, in.ID, in.Body); err != nil {
				return nil, err
			}
			return answerOf(d.Requests.Get(ctx, p, in.ID))
		})
}
