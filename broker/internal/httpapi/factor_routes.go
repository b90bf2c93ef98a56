package httpapi

import (
	"context"
	"net/http"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// freshness is the answer to a second factor that was shown.
type freshness struct {
	FreshUntil time.Time `json:"fresh_until"`
}

// registerFactors registers what people do with second factors. A session that is not complete may make those calls that
// complete it.
func registerFactors(r *Router, a *Accounts) {
	own := func(method, path, summary string, stages ...api.Stage) Route {
		return Route{Method: method, Path: "/api/v1/second-factor" + path, Operation: rbac.SecondFactorOwn, Summary: summary, Stages: stages}
	}
	handle(r, own(http.MethodGet, "", "Read how things stand with one's own second factor", api.StageEnrol),
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.FactorInfo], error) {
			return answerOf(a.FactorInfo(ctx, p))
		})
	handle(r, own(http.MethodPost, "", "Begin the set-up of a second factor; its secret is in this answer only", api.StageEnrol),
		func(ctx context.Context, p tenant.Principal, in *body[api.FactorStart]) (*answer[api.FactorSetup], error) {
			return answerOf(a.StartFactor(ctx, p, in.Body))
		})
	handle(r, own(http.MethodPost, "/confirm", "Make a second factor count by a code; recovery codes are in this answer only", api.StageEnrol),
		func(ctx context.Context, p tenant.Principal, in *body[api.FactorCode]) (*answer[api.RecoveryCodes], error) {
			return answerOf(a.ConfirmFactor(ctx, p, in.Body))
		})
	handle(r, own(http.MethodPost, "/show", "Show a code: completes a log-on, or makes the second factor fresh again", api.StageCode),
		func(ctx context.Context, p tenant.Principal, in *body[api.FactorCode]) (*answer[freshness], error) {
			until, err := a.ShowFactor(ctx, p, in.Body)
			return answerOf(freshness{until}, err)
		})
	handle(r, own(http.MethodPost, "/recovery-codes", "Replace one's recovery codes; takes a code"),
		func(ctx context.Context, p tenant.Principal, in *body[api.FactorCode]) (*answer[api.RecoveryCodes], error) {
			return answerOf(a.NewRecoveryCodes(ctx, p, in.Body))
		})
	handle(r, own(http.MethodPost, "/remove", "Remove one's second factor; takes a code"),
		func(ctx context.Context, p tenant.Principal, in *body[api.FactorCode]) (*None, error) {
			return nil, a.RemoveFactor(ctx, p, in.Body)
		})
	handle(r, Route{Method: http.MethodDelete, Path: "/api/v1/users/{id}/second-factor", Operation: rbac.UsersWrite, Summary: "Take a user's second factor away, who lost it"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*None, error) {
			return nil, a.ResetFactor(ctx, p, in.ID)
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/second-factor-settings", Operation: rbac.SecondFactorSettingsRead, Summary: "Read what the account wants of second factors"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.FactorSettings], error) {
			return answerOf(a.FactorSettings(ctx, p))
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/second-factor-settings", Operation: rbac.SecondFactorSettingsWrite, Summary: "Set what the account wants of second factors"},
		func(ctx context.Context, p tenant.Principal, in *body[api.FactorSettings]) (*None, error) {
			return nil, a.SetFactorSettings(ctx, p, in.Body)
		})
}
