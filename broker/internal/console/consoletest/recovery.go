package consoletest

import (
	"context"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// Key is the account's recovery key.
func (b *Broker) Key(context.Context, tenant.Principal) (api.RecoveryKey, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.recovery == nil {
		return api.RecoveryKey{}, problem.NotFound("recovery key")
	}
	return *b.recovery, nil
}

// SetKey takes what looks like a key.
func (b *Broker) SetKey(_ context.Context, p tenant.Principal, in api.RecoveryKeyWrite) (api.RecoveryKey, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !strings.HasPrefix(in.PublicKey, "-----BEGIN KEYWARD RECOVERY PUBLIC KEY-----") {
		return api.RecoveryKey{}, problem.Invalid("public_key", "is no recovery public key")
	}
	b.recovery = &api.RecoveryKey{KeyID: "c0ffee5f0e1d2c3b4a59687786950413", Threshold: 2, Holders: []string{"Ada Lund", "Kim Sato", "Noor Haddad"}, CreatedAt: b.Clock(), CreatedBy: p.Actor()}
	return *b.recovery, b.write(p, "key", "recovery-key.set", b.recovery.KeyID)
}

// RetireKey removes it.
func (b *Broker) RetireKey(_ context.Context, p tenant.Principal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.recovery == nil {
		return problem.NotFound("recovery key")
	}
	b.recovery = nil
	return b.write(p, "key", "recovery-key.retired", "")
}

// Machines have an envelope of every state.
func (b *Broker) Machines(context.Context, tenant.Principal) ([]api.RecoveryMachine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	states := []api.EnvelopeState{api.EnvelopeCurrent, api.EnvelopeFormer, api.EnvelopeNone, api.EnvelopeIssued}
	issued, confirmed := b.Clock().Add(-26*time.Hour), b.Clock().Add(-25*time.Hour)
	var out []api.RecoveryMachine
	for i, m := range b.machines {
		r := api.RecoveryMachine{InstanceID: m.ID, InstanceName: m.HostName, State: states[i%len(states)]}
		if r.State != api.EnvelopeNone {
			r.IssuedAt = &issued
		}
		if r.State == api.EnvelopeCurrent {
			r.ConfirmedAt = &confirmed
		}
		out = append(out, r)
	}
	return out, nil
}
