package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/recovery"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

type recoveryKeyInput struct{ Body api.RecoveryKeyWrite }

type recoveryMachines struct {
	Machines []api.RecoveryMachine `json:"machines"`
}

type revisionInput struct {
	Revision string `query:"revision" maxLength:"64" doc:"the revision that the machine has"`
}

// RegisterRecovery registers what people and machines prepare for a time without the broker.
func RegisterRecovery(people, agents *Router, d *recovery.Service) {
	const path = "/api/v1/recovery-key"
	handle(people, Route{Method: http.MethodGet, Path: path, Operation: rbac.RecoveryKeyRead, Summary: "Read who holds the recovery key"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.RecoveryKey], error) {
			return answerOf(d.Key(ctx, p))
		})
	handle(people, Route{Method: http.MethodPut, Path: path, Operation: rbac.RecoveryKeyWrite, Summary: "Set the recovery key by its public half"},
		func(ctx context.Context, p tenant.Principal, in *recoveryKeyInput) (*answer[api.RecoveryKey], error) {
			return answerOf(d.SetKey(ctx, p, in.Body))
		})
	handle(people, Route{Method: http.MethodDelete, Path: path, Operation: rbac.RecoveryKeyWrite, Summary: "Retire the recovery key: no further envelopes are made"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*None, error) {
			return nil, d.RetireKey(ctx, p)
		})
	handle(people, Route{Method: http.MethodGet, Path: path + "/machines", Operation: rbac.RecoveryKeyRead, Summary: "List which machines have the recovery envelope that they should have"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[recoveryMachines], error) {
			list, err := d.Machines(ctx, p)
			return answerOf(recoveryMachines{list}, err)
		})
	raw(people, Route{Method: http.MethodGet, Path: "/api/v1/recovery-envelope", Operation: rbac.RecoveryEnvelope, Summary: "Download the recovery envelope of all devices"},
		func(c *fiber.Ctx, p tenant.Principal) error {
			data, err := d.Envelope(c.UserContext(), p)
			if err != nil {
				return err
			}
			c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSON)
			c.Set(fiber.HeaderContentDisposition, `attachment; filename="`+recovery.EnvelopeName(time.Now())+`"`)
			return c.Send(data)
		})
	handle(agents, Route{Method: http.MethodGet, Path: api.PathRecovery, Machine: true, Summary: "Fetch the recovery envelope of this machine's devices"},
		func(ctx context.Context, p tenant.Principal, in *revisionInput) (*answer[api.RecoveryEnvelope], error) {
			return answerOf(d.InstanceEnvelope(ctx, p, in.Revision))
		})
	handle(agents, Route{Method: http.MethodPost, Path: api.PathOfflineRecords, Machine: true, Summary: "Hand over what was done without the broker"},
		func(ctx context.Context, p tenant.Principal, in *AgentCall[api.OfflineRecords]) (*None, error) {
			return nil, d.Take(ctx, p, callerOf(ctx).machineKey, in.Body)
		})
}
