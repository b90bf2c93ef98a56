package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keyexport"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

type exportList struct {
	Exports []api.KeyExport `json:"exports"`
}

// RegisterExports registers the exports that several people agree on.
func RegisterExports(r *Router, s *keyexport.Service) {
	const path = "/api/v1/key-exports"
	handle(r, Route{Method: http.MethodGet, Path: path, Operation: rbac.KeyExportsRead, Summary: "List exports that people agree on, newest first"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[exportList], error) {
			list, err := s.List(ctx, p)
			return answerOf(exportList{list}, err)
		})
	handle(r, Route{Method: http.MethodPost, Path: path, Operation: rbac.DevicesExport, Summary: "Ask for an export of device keys; fetch it when enough people agree", Status: http.StatusCreated},
		func(ctx context.Context, p tenant.Principal, in *body[api.KeyExportWrite]) (*answer[api.KeyExport], error) {
			return answerOf(s.Ask(ctx, p, in.Body))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/recovery-key/ask", Operation: rbac.RecoveryKeyWrite, Summary: "Ask for the recovery key to become another one; it does when enough people agree", Status: http.StatusCreated},
		func(ctx context.Context, p tenant.Principal, in *body[api.RecoveryKeyAsk]) (*answer[api.KeyExport], error) {
			return answerOf(s.AskRecoveryKey(ctx, p, in.Body))
		})
	handle(r, Route{Method: http.MethodGet, Path: path + "/{id}", Operation: rbac.KeyExportsRead, Summary: "Read an export with who agrees to it"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.KeyExport], error) {
			return answerOf(s.Get(ctx, p, in.ID))
		})
	for _, on := range []struct {
		path, summary string
		op            rbac.Operation
		do            func(context.Context, tenant.Principal, string, api.Decision) (api.KeyExport, error)
	}{
		{"/approve", "Agree to an export that another person asked for", rbac.KeyExportsDecide, s.Approve},
		{"/deny", "Deny an export that another person asked for", rbac.KeyExportsDecide, s.Deny},
		{"/cancel", "Cancel an export that one asked for oneself", rbac.DevicesExport, s.Cancel},
	} {
		handle(r, Route{Method: http.MethodPost, Path: path + "/{id}" + on.path, Operation: on.op, Summary: on.summary},
			func(ctx context.Context, p tenant.Principal, in *bodyByID[api.Decision]) (*answer[api.KeyExport], error) {
				return answerOf(on.do(ctx, p, in.ID, in.Body))
			})
	}
	raw(r, Route{Method: http.MethodPost, Path: path + "/{id}/fetch", Operation: rbac.DevicesExport, Summary: "Fetch an approved export, once, encrypted under a passphrase, as a ZIP archive"},
		func(c *fiber.Ctx, p tenant.Principal) error {
			var in api.KeyExportFetch
			if err := secretBody(c, &in); err != nil {
				return err
			}
			var archive bytes.Buffer
			if err := s.Fetch(c.UserContext(), p, c.Params("id"), in, &archive); err != nil {
				return err
			}
			return sendExport(c, archive.Bytes())
		})
	handle(r, Route{Method: http.MethodPost, Path: path + "/{id}/set-recovery-key", Operation: rbac.RecoveryKeyWrite, Summary: "Make the recovery key of an approved export the account's"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.RecoveryKey], error) {
			return answerOf(s.SetRecoveryKey(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/export-settings", Operation: rbac.ExportSettingsRead, Summary: "Read how many people an export of keys takes"},
		func(ctx context.Context, p tenant.Principal, _ *None) (*answer[api.ExportSettings], error) {
			return answerOf(s.Settings(ctx, p))
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/export-settings", Operation: rbac.ExportSettingsWrite, Summary: "Set how many people an export of keys takes"},
		func(ctx context.Context, p tenant.Principal, in *body[api.ExportSettings]) (*None, error) {
			return nil, s.SetSettings(ctx, p, in.Body)
		})
}

// secretBody reads the body of a call that brings a passphrase: beside log-ons the one secret that people send here.
func secretBody(c *fiber.Ctx, in any) error {
	decoder := json.NewDecoder(bytes.NewReader(c.BodyRaw()))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(in); err != nil {
		return problem.New(http.StatusBadRequest, "bad-request", "The request is malformed", "The body is not the JSON that is described.", "Check the request; openapi.json describes it.")
	}
	return nil
}

// sendExport answers with the archive of an export.
func sendExport(c *fiber.Ctx, archive []byte) error {
	c.Set(fiber.HeaderContentType, "application/zip")
	c.Set(fiber.HeaderContentDisposition, `attachment; filename="`+inventory.ExportName(time.Now())+`"`)
	return c.Send(archive)
}
