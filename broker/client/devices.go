package client

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"keyward/broker/api"
)

// Devices is a page of devices and RAID sets.
type Devices struct {
	Devices []api.Device `json:"devices"`
	Total   int64        `json:"total"`
}

// CopyConfiguration names the device whose configuration and key a clone takes over.
type CopyConfiguration struct {
	SourceID string `json:"source_id"`
	// Version is the clone's version that the person saw; 0 skips the check.
	Version int64 `json:"version,omitempty"`
}

// Devices lists devices. query takes status, instance, policy, search, page and size.
func (p *People) Devices(ctx context.Context, query url.Values) (out Devices, err error) {
	return out, p.Do(ctx, http.MethodGet, "/api/v1/devices?"+query.Encode(), nil, &out)
}

// Device fetches one device.
func (p *People) Device(ctx context.Context, id string) (out api.Device, err error) {
	return out, p.Do(ctx, http.MethodGet, devicePath(id, ""), nil, &out)
}

// ConfigureDevice saves a device's configuration.
func (p *People) ConfigureDevice(ctx context.Context, id string, in api.DeviceWrite) (out api.Device, err error) {
	return out, p.Do(ctx, http.MethodPut, devicePath(id, ""), in, &out)
}

// EncryptDevice asks the machine that sees the device to encrypt it.
func (p *People) EncryptDevice(ctx context.Context, id string, in api.EncryptWrite) (out api.Device, err error) {
	return out, p.Do(ctx, http.MethodPost, devicePath(id, "/encrypt"), in, &out)
}

// CancelEncryption takes an encryption back that no agent has begun.
func (p *People) CancelEncryption(ctx context.Context, id string) (out api.Device, err error) {
	return out, p.Do(ctx, http.MethodPost, devicePath(id, "/cancel-encryption"), nil, &out)
}

// RotateDeviceKey makes a new key for a device's data, and the job that writes the data anew.
func (p *People) RotateDeviceKey(ctx context.Context, id string, in api.KeyRotationWrite) (out api.Device, err error) {
	return out, p.Do(ctx, http.MethodPost, devicePath(id, "/rotate-key"), in, &out)
}

// CancelKeyRotation takes a rotation back that no machine has begun.
func (p *People) CancelKeyRotation(ctx context.Context, id string) (out api.Device, err error) {
	return out, p.Do(ctx, http.MethodPost, devicePath(id, "/cancel-key-rotation"), nil, &out)
}

// UnconfigureDevice destroys a device's key for ever.
func (p *People) UnconfigureDevice(ctx context.Context, id string, in api.UnconfigureWrite) (out api.Device, err error) {
	return out, p.Do(ctx, http.MethodPost, devicePath(id, "/unconfigure"), in, &out)
}

// CopyDeviceConfiguration gives a clone the configuration and key of its source.
func (p *People) CopyDeviceConfiguration(ctx context.Context, id string, in CopyConfiguration) (out api.Device, err error) {
	return out, p.Do(ctx, http.MethodPost, devicePath(id, "/copy-configuration"), in, &out)
}

// DeleteDevice removes a device that no machine shows any more, with its key.
func (p *People) DeleteDevice(ctx context.Context, id string) error {
	return p.Do(ctx, http.MethodDelete, devicePath(id, ""), nil, nil)
}

// ExportKeys writes a ZIP of encrypted device keys to w.
func (p *People) ExportKeys(ctx context.Context, in api.ExportWrite, w io.Writer) error {
	return p.Download(ctx, http.MethodPost, "/api/v1/devices/export", in, w)
}

// AskExport asks for an export of device keys that others have to agree to.
func (p *People) AskExport(ctx context.Context, in api.KeyExportWrite) (out api.KeyExport, err error) {
	return out, p.Do(ctx, http.MethodPost, "/api/v1/key-exports", in, &out)
}

// KeyExport reads an export that was asked for.
func (p *People) KeyExport(ctx context.Context, id string) (out api.KeyExport, err error) {
	return out, p.Do(ctx, http.MethodGet, exportPath(id, ""), nil, &out)
}

// ApproveExport agrees to an export that another person asked for.
func (p *People) ApproveExport(ctx context.Context, id string, in api.Decision) (out api.KeyExport, err error) {
	return out, p.Do(ctx, http.MethodPost, exportPath(id, "/approve"), in, &out)
}

// DenyExport denies it.
func (p *People) DenyExport(ctx context.Context, id string, in api.Decision) (out api.KeyExport, err error) {
	return out, p.Do(ctx, http.MethodPost, exportPath(id, "/deny"), in, &out)
}

// CancelExport takes one's own back.
func (p *People) CancelExport(ctx context.Context, id string, in api.Decision) (out api.KeyExport, err error) {
	return out, p.Do(ctx, http.MethodPost, exportPath(id, "/cancel"), in, &out)
}

// FetchExport writes the ZIP of an approved export to w, once.
func (p *People) FetchExport(ctx context.Context, id string, in api.KeyExportFetch, w io.Writer) error {
	return p.Download(ctx, http.MethodPost, exportPath(id, "/fetch"), in, w)
}

func exportPath(id, action string) string {
	return "/api/v1/key-exports/" + url.PathEscape(id) + action
}

func devicePath(id, action string) string { return "/api/v1/devices/" + url.PathEscape(id) + action }
