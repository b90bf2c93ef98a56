package httpapi

import (
	"context"
	"net/http"

	"keyward/broker/api"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// registerIdentities registers what people decide about the keys and certificates of machines and images.
func registerIdentities(r *Router, d PeopleDeps) {
	for _, a := range []struct {
		name, summary string
		do            func(context.Context, tenant.Principal, string, api.Decision) error
	}{
		{"revoke-certificate", "Revoke a machine's certificate", d.Inventory.RevokeCertificate},
		{"accept-key", "Let another key enrol as this machine", d.Inventory.AcceptKey},
		{"refuse-key", "Keep another key from enrolling as this machine", d.Inventory.RefuseKey},
	} {
		handle(r, Route{Method: http.MethodPost, Path: "/api/v1/instances/{id}/" + a.name, Operation: rbac.InstancesWrite, Summary: a.summary},
			func(ctx context.Context, p tenant.Principal, in *decisionInput) (*answer[api.Instance], error) {
				if err := a.do(ctx, p, in.ID, in.Body); err != nil {
					return nil, err
				}
				return answerOf(d.Inventory.Instance(ctx, p, in.ID))
			})
	}
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/images/{id}/revoke-certificate", Operation: rbac.ImagesWrite, Summary: "Revoke the certificate by which machines of an image enrol"},
		func(ctx context.Context, p tenant.Principal, in *decisionInput) (*answer[api.Image], error) {
			if err := d.Inventory.RevokeImageCertificate(ctx, p, in.ID, in.Body); err != nil {
				return nil, err
			}
			return answerOf(d.Inventory.Image(ctx, p, in.ID))
		})
}
