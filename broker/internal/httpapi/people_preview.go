package httpapi

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

type replayInput struct {
	Days int `query:"days" minimum:"1" maximum:"30" default:"30"`
	Body api.Policy
}

// registerPreviews registers what a policy would do if it were saved; nothing is.
func registerPreviews(r *Router, d PeopleDeps) {
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/policies/preview", Operation: rbac.PoliciesWrite,
		Summary: "Preview a policy: what it would do with today's machines if it were saved"},
		func(ctx context.Context, p tenant.Principal, in *policyInput) (*answer[api.PolicyPreview], error) {
			return answerOf(d.Previews.Policy(ctx, p, in.Body))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/policies/replay", Operation: rbac.PoliciesWrite,
		Summary: "Replay a policy: what it would have done with the requests of the last days"},
		func(ctx context.Context, p tenant.Principal, in *replayInput) (*answer[api.PolicyReplay], error) {
			return answerOf(d.Previews.Replay(ctx, p, in.Body, in.Days))
		})
}
