package consoletest

import (
	"context"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// Settings tells the connection to a Deep Security Manager.
func (b *Broker) Settings(context.Context, tenant.Principal) (api.DeepSecuritySettings, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.deepSecurity, nil
}

// SetSettings keeps it.
func (b *Broker) SetSettings(_ context.Context, p tenant.Principal, in api.DeepSecuritySettingsWrite) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.Enabled && in.Server == "" {
		return problem.Invalid("server", "is needed to enable the connection")
	}
	now := b.Clock()
	b.deepSecurity = api.DeepSecuritySettings{Enabled: in.Enabled, Server: in.Server, Port: in.Port, Authority: in.Authority,
		HasAPIKey: b.deepSecurity.HasAPIKey || in.APIKey != "", AnsweredAt: &now, Computers: 214}
	return b.write(p, "server", "settings.deep-security-changed", in.Server)
}

// Test knows one manager.
func (b *Broker) Test(_ context.Context, _ tenant.Principal, in api.DeepSecuritySettingsWrite) error {
	if in.Server != "dsm.harbour.example.org" {
		return problem.New(422, "deep-security-test-failed", "The Deep Security Manager could not be asked", "No such host.", "Correct what the message names and test again.")
	}
	return nil
}
