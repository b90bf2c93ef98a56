package httpapi

import (
	"bytes"
	"context"
	"net/http"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

type deviceQuery struct {
	api.Page
	Status   []api.DeviceStatus `query:"status,explode" doc:"only these states"`
	Instance string             `query:"instance" maxLength:"64" doc:"only devices of this instance"`
	Policy   string             `query:"policy" maxLength:"64" doc:"only devices in this policy"`
	Image    string             `query:"image" maxLength:"64" doc:"only devices of this image"`
	Search   string             `query:"search" maxLength:"255" doc:"found in name, identity or mount point"`
}

type deviceList struct {
	Devices []api.Device `json:"devices"`
	Total   int64        `json:"total"`
}

type jobQuery struct {
	Device string `query:"device" maxLength:"64" doc:"only jobs of this device"`
}

type jobList struct {
	Jobs []api.Job `json:"jobs"`
}

type deviceChange struct {
	ByID
	Body api.DeviceWrite
}

type encryptInput struct {
	ByID
	Body api.EncryptWrite
}

type unconfigureInput struct {
	ByID
	Body api.UnconfigureWrite
}

type copyInput struct {
	ByID
	Body struct {
		SourceID string `json:"source_id" minLength:"1" maxLength:"64" doc:"the device that this one is a clone of"`
	}
}

func registerDevices(r *Router, d PeopleDeps) {
	device := func(ctx context.Context, p tenant.Principal, id string, err error) (*answer[api.Device], error) {
		if err != nil {
			return nil, err
		}
		return answerOf(d.Inventory.Device(ctx, p, id))
	}
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/devices", Operation: rbac.DevicesRead, Summary: "List devices and RAID sets"},
		func(ctx context.Context, p tenant.Principal, in *deviceQuery) (*answer[deviceList], error) {
			list, total, err := d.Inventory.Devices(ctx, p, inventory.DeviceQuery{Status: in.Status, Instance: in.Instance, Policy: in.Policy,
				Image: in.Image, Search: in.Search, Page: in.Page.Page, Size: in.Size})
			return answerOf(deviceList{list, total}, err)
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/devices/{id}", Operation: rbac.DevicesRead, Summary: "Read a device or RAID set"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.Device], error) {
			return device(ctx, p, in.ID, nil)
		})
	handle(r, Route{Method: http.MethodPut, Path: "/api/v1/devices/{id}", Operation: rbac.DevicesWrite, Summary: "Configure a device"},
		func(ctx context.Context, p tenant.Principal, in *deviceChange) (*answer[api.Device], error) {
			return device(ctx, p, in.ID, d.Inventory.Configure(ctx, p, in.ID, in.Body))
		})
	handle(r, Route{Method: http.MethodDelete, Path: "/api/v1/devices/{id}", Operation: rbac.DevicesDelete, Summary: "Delete a device that no machine shows any more, with its key"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*None, error) {
			return nil, d.Inventory.DeleteDevice(ctx, p, in.ID)
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/devices/{id}/encrypt", Operation: rbac.DevicesEncrypt, Summary: "Encrypt a configured device; what it holds is destroyed"},
		func(ctx context.Context, p tenant.Principal, in *encryptInput) (*answer[api.Device], error) {
			return device(ctx, p, in.ID, d.Inventory.Encrypt(ctx, p, in.ID, in.Body))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/devices/{id}/cancel-encryption", Operation: rbac.DevicesEncrypt, Summary: "Take back an encryption that no machine has begun"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.Device], error) {
			return device(ctx, p, in.ID, d.Inventory.CancelEncryption(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/devices/{id}/unconfigure", Operation: rbac.DevicesUnconfigure, Summary: "Destroy a device's key for ever"},
		func(ctx context.Context, p tenant.Principal, in *unconfigureInput) (*answer[api.Device], error) {
			return device(ctx, p, in.ID, d.Inventory.Unconfigure(ctx, p, in.ID, in.Body))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/devices/{id}/copy-configuration", Operation: rbac.DevicesWrite, Summary: "Give a clone the configuration and key of its source"},
		func(ctx context.Context, p tenant.Principal, in *copyInput) (*answer[api.Device], error) {
			return device(ctx, p, in.ID, d.Inventory.CopyConfiguration(ctx, p, in.ID, in.Body.SourceID))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/devices/{id}/rotate-key", Operation: rbac.DevicesRotateKey, Summary: "Make a new key for a device's data, and the job that writes the data anew"},
		func(ctx context.Context, p tenant.Principal, in *bodyByID[api.KeyRotationWrite]) (*answer[api.Device], error) {
			return device(ctx, p, in.ID, d.Inventory.RotateKey(ctx, p, in.ID, in.Body))
		})
	handle(r, Route{Method: http.MethodPost, Path: "/api/v1/devices/{id}/cancel-key-rotation", Operation: rbac.DevicesRotateKey, Summary: "Take back a rotation that no machine has begun, and destroy its key"},
		func(ctx context.Context, p tenant.Principal, in *ByID) (*answer[api.Device], error) {
			return device(ctx, p, in.ID, d.Inventory.CancelRotation(ctx, p, in.ID))
		})
	handle(r, Route{Method: http.MethodGet, Path: "/api/v1/jobs", Operation: rbac.DevicesRead, Summary: "List jobs, newest first: encryptions and rotations of keys"},
		func(ctx context.Context, p tenant.Principal, in *jobQuery) (*answer[jobList], error) {
			list, err := d.Inventory.JobList(ctx, p, in.Device)
			return answerOf(jobList{list}, err)
		})
	raw(r, Route{Method: http.MethodPost, Path: "/api/v1/devices/export", Operation: rbac.DevicesExport, Summary: "Export device keys, encrypted under a passphrase, as a ZIP archive"},
		func(c *fiber.Ctx, p tenant.Principal) error { return exportKeys(c, p, d) })
}

// exportKeys answers with an archive.
func exportKeys(c *fiber.Ctx, p tenant.Principal, d PeopleDeps) error {
	var in api.ExportWrite
	if err := secretBody(c, &in); err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := d.Inventory.Export(c.UserContext(), p, in, &archive); err != nil {
		return err
	}
	return sendExport(c, archive.Bytes())
}
