package client

import (
	"context"
	"io"
	"net/http"
	"net/url"

	"keyward/broker/api"
)

// Recovery fetches the recovery envelope of the machine's devices, unless it is the one with the revision that is given.
func (a *Agent) Recovery(ctx context.Context, revision string) (out api.RecoveryEnvelope, err error) {
	return out, a.call.do(ctx, call{method: http.MethodGet, path: api.PathRecovery, query: url.Values{"revision": {revision}}, out: &out})
}

// SendOfflineRecords hands over what the machine did without the broker.
func (a *Agent) SendOfflineRecords(ctx context.Context, in api.OfflineRecords) error {
	return a.call.do(ctx, call{method: http.MethodPost, path: api.PathOfflineRecords, in: in})
}

// RecoveryKey is the account's recovery key.
func (p *People) RecoveryKey(ctx context.Context) (out api.RecoveryKey, err error) {
	return out, p.Do(ctx, http.MethodGet, "/api/v1/recovery-key", nil, &out)
}

// RecoveryMachines lists which machines have the envelope that they should have.
func (p *People) RecoveryMachines(ctx context.Context) ([]api.RecoveryMachine, error) {
	var out struct {
		Machines []api.RecoveryMachine `json:"machines"`
	}
	err := p.Do(ctx, http.MethodGet, "/api/v1/recovery-key/machines", nil, &out)
	return out.Machines, err
}

// SetRecoveryKey makes the key of a file recovery-key.pub the account's.
func (p *People) SetRecoveryKey(ctx context.Context, in api.RecoveryKeyWrite) (out api.RecoveryKey, err error) {
	return out, p.Do(ctx, http.MethodPut, "/api/v1/recovery-key", in, &out)
}

// RecoveryEnvelope writes the envelope of all of the account's devices to w.
func (p *People) RecoveryEnvelope(ctx context.Context, w io.Writer) error {
	return p.Download(ctx, http.MethodGet, "/api/v1/recovery-envelope", nil, w)
}

// AskRecoveryKey asks for the account's recovery key to become another one, where others have to agree.
func (p *People) AskRecoveryKey(ctx context.Context, in api.RecoveryKeyAsk) (out api.KeyExport, err error) {
	return out, p.Do(ctx, http.MethodPost, "/api/v1/recovery-key/ask", in, &out)
}

// SetAgreedRecoveryKey makes the recovery key of an approved export the account's.
func (p *People) SetAgreedRecoveryKey(ctx context.Context, exportID string) (out api.RecoveryKey, err error) {
	return out, p.Do(ctx, http.MethodPost, exportPath(exportID, "/set-recovery-key"), nil, &out)
}
