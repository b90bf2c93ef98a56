package httpapi

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

func registerChecks(r *Router, d PeopleDeps) {
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/integrity-settings", Operation: rbac.IntegritySettingsRead, Summary: "Read when delivered keys are judged again, and how the last time went"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.CheckSchedule], error) {
			return answerOf(d.Requests.CheckSchedule(ctx, p))
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/integrity-settings", Operation: rbac.IntegritySettingsWrite, Summary: "Say when delivered keys are judged again"},
		func(ctx context.Context, p tenant.Principal, in *body[api.CheckSettings]) (*answer[api.CheckSchedule], error) {
			if err := d.Requests.SetCheckSettings(ctx, p, in.Body); err != nil {
				return nil, err
			}
			return answerOf(d.Requests.CheckSchedule(ctx, p))
		})
	for _, on := range []struct {
		path, summary string
		do            func(context.Context, tenant.Principal, string) (api.CheckAsked, error)
	}{
		{"/api/v1/instances/{id}/check", "Ask a machine for fresh evidence and judge it now", d.Requests.CheckNow},
		{"/api/v1/devices/{id}/check", "Ask the machine of a device for fresh evidence and judge it now", d.Requests.CheckDevice},
	} {
		handle(r, Route{Method: http.MethodPost, Path: on.path, Operation: rbac.IntegrityChecksRun, Summary: on.summary},
			func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.CheckAsked], error) {
				return answerOf(on.do(ctx, p, in.ID))
			})
	}
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/notices", Operation: rbac.RunningInstancesRead, Summary: "List what happened by itself and nobody has put aside"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.NoticeList], error) {
			return answerOf(d.Requests.Notices(ctx, p))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/notices/{id}/dismiss", Operation: rbac.KeyRequestsDecide, Summary: `Put a notice aside for everybody; "all" means every one`},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*None, error) {
			return nil, d.Requests.Dismiss(ctx, p, in.ID)
		})
}
