package httpapi

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

type policyInput struct{ Body api.Policy }

type policyChange struct {
	ByID
	Body api.Policy
}

type policyList struct {
	Policies []api.Policy `json:"policies"`
}

type factList struct {
	Facts []policy.FactInfo `json:"facts"`
}

type policyIDs struct {
	Body struct {
		IDs []string `json:"ids" minItems:"1" maxItems:"1000"`
	}
}

func registerPolicies(r *Router, d PeopleDeps) {
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/policies", Operation: rbac.PoliciesRead, Summary: "List policies"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[policyList], error) {
			list, err := d.Policies.List(ctx, p)
			return answerOf(policyList{list}, err)
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/policies", Operation: rbac.PoliciesWrite, Summary: "Make a policy", Status: http.StatusCreated},
		func(ctx context.Context, p tenant.Principal, in *policyInput) (*answer[api.Policy], error) {
			return answerOf(d.Policies.Create(ctx, p, in.Body))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/policies/{id}", Operation: rbac.PoliciesRead, Summary: "Read a policy"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.Policy], error) {
			return answerOf(d.Policies.Get(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/policies/{id}", Operation: rbac.PoliciesWrite, Summary: "Save a policy"},
		func(ctx context.Context, p tenant.Principal, in *policyChange) (*answer[api.Policy], error) {
			return answerOf(d.Policies.Update(ctx, p, in.ID, in.Body))
		})
	handle(r, Route{Method: http.MethodDelete, Path: "/api/v1/policies/{id}", Operation: rbac.PoliciesWrite, Summary: "Delete a policy"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*None, error) {
			return nil, d.Policies.Delete(ctx, p, in.ID)
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/policies/delete", Operation: rbac.PoliciesWrite, Summary: "Delete several policies, all or none", Status: http.StatusNoContent},
		func(ctx context.Context, p tenant.Principal, in *policyIDs) (*None, error) {
			return nil, d.Policies.Delete(ctx, p, in.Body.IDs...)
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/facts", Operation: rbac.PoliciesRead, Summary: "List the facts that rules can judge"},
		func(context.Context, tenant.Principal, *None) (*answer[factList], error) {
			return answerOf(factList{d.Policies.Facts()}, nil)
		})
}
