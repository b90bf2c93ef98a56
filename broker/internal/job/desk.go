package job

import (
	"context"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/tenant"
)

// Desk is the inventory together with the jobs that people start from it, as one thing for the console and the API.
type Desk struct {
	*inventory.Service
	Jobs *Service
}

// Encrypt is Service.Encrypt.
func (d Desk) Encrypt(ctx context.Context, p tenant.Principal, id string, in api.EncryptWrite) error {
	return d.Jobs.Encrypt(ctx, p, id, in)
}

// CancelEncryption is Service.CancelEncryption.
func (d Desk) CancelEncryption(ctx context.Context, p tenant.Principal, id string) error {
	return d.Jobs.CancelEncryption(ctx, p, id)
}
