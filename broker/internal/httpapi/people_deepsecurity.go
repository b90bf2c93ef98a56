package httpapi

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

func registerDeepSecurity(r *Router, d PeopleDeps) {
	const path = "/api/v1/deep-security-settings"
	handle(r, Route{Method: http.MethodGet, Path: path, Operation: rbac.DeepSecurityRead, Summary: "Read the connection to a Deep Security Manager, and how it stands"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.DeepSecuritySettings], error) {
			return answerOf(d.DeepSecurity.Settings(ctx, p))
		})
	handle(r, Route{Method: http.MethodPut, Path: path, Operation: rbac.DeepSecurityWrite, Summary: "Change the connection to a Deep Security Manager"},
		func(ctx context.Context, p tenant.Principal, in *body[api.DeepSecuritySettingsWrite]) (*None, error) {
			return nil, d.DeepSecurity.SetSettings(ctx, p, in.Body)
		})
	handle(r, Route{Method: http.MethodPost, Path: path + "/test", Operation: rbac.DeepSecurityWrite, Summary: "Ask a Deep Security Manager without changing anything"},
		func(ctx context.Context, p tenant.Principal, in *body[api.DeepSecuritySettingsWrite]) (*None, error) {
			return nil, d.DeepSecurity.Test(ctx, p, in.Body)
		})
}
