package consoletest

import (
	"context"
	"net/http"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// Code is the one code that every second factor takes.
const Code = "123456"

func wrongCode() error { return problem.Invalid("code", "this is no code of yours") }

// AuthenticateAny finds a session; the stage is that of Stage.
func (b *Broker) AuthenticateAny(ctx context.Context, token, address string) (tenant.Principal, error) {
	p, err := b.Authenticate(ctx, token, address)
	b.mu.Lock()
	defer b.mu.Unlock()
	p.Stage = b.Stage
	return p, err
}

// FactorInfo is none until one is confirmed.
func (b *Broker) FactorInfo(_ context.Context, p tenant.Principal) (api.FactorInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	info := api.FactorInfo{StepUp: b.factors.StepUp, Required: b.factors.SecondFactor == "required"}
	if since, ok := b.phones[p.UserID]; ok {
		info.Since, info.CodesLeft = &since, 10
	}
	return info, nil
}

// StartFactor takes the one password.
func (b *Broker) StartFactor(_ context.Context, _ tenant.Principal, in api.FactorStart) (api.FactorSetup, error) {
	if in.Password != Password {
		return api.FactorSetup{}, problem.Invalid("password", "the password is wrong")
	}
	return api.FactorSetup{Secret: "JBSWY3DPEHPK3PXP", URL: "otpauth://totp/x", Image: []byte("picture")}, nil
}

// ConfirmFactor takes the one code.
func (b *Broker) ConfirmFactor(_ context.Context, p tenant.Principal, in api.FactorCode) (api.RecoveryCodes, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.Code != Code {
		return api.RecoveryCodes{}, wrongCode()
	}
	if b.phones == nil {
		b.phones = map[string]time.Time{}
	}
	b.phones[p.UserID], b.Stage = b.Clock(), ""
	return api.RecoveryCodes{Codes: []string{"aaaa-bbbb-cccc-dddd", "eeee-ffff-gggg-hhhh"}}, b.write(p, "user", "user.second-factor-set", p.UserID)
}

// ShowFactor takes the one code.
func (b *Broker) ShowFactor(_ context.Context, _ tenant.Principal, in api.FactorCode) (time.Time, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.Code != Code {
		return time.Time{}, wrongCode()
	}
	b.Stage = ""
	return b.Clock().Add(5 * time.Minute), nil
}

// NewRecoveryCodes takes the one code.
func (b *Broker) NewRecoveryCodes(_ context.Context, _ tenant.Principal, in api.FactorCode) (api.RecoveryCodes, error) {
	if in.Code != Code {
		return api.RecoveryCodes{}, wrongCode()
	}
	return api.RecoveryCodes{Codes: []string{"iiii-jjjj-kkkk-llll"}}, nil
}

// RemoveFactor takes the one code.
func (b *Broker) RemoveFactor(_ context.Context, p tenant.Principal, in api.FactorCode) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.Code != Code {
		return wrongCode()
	}
	delete(b.phones, p.UserID)
	return nil
}

// ResetFactor takes another user's away.
func (b *Broker) ResetFactor(_ context.Context, p tenant.Principal, userID string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := find(b.users, func(u api.User) bool { return u.ID == userID }, "user"); err != nil {
		return err
	}
	delete(b.phones, userID)
	return b.write(p, "user", "user.second-factor-reset", userID)
}

// FactorSettings are the account's.
func (b *Broker) FactorSettings(context.Context, tenant.Principal) (api.FactorSettings, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.factors.SecondFactor == "" {
		b.factors.SecondFactor = "optional"
	}
	return b.factors, nil
}

// SetFactorSettings changes them.
func (b *Broker) SetFactorSettings(_ context.Context, p tenant.Principal, in api.FactorSettings) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if in.SecondFactor == "" {
		return problem.Invalid("second_factor", "choose optional or required")
	}
	b.factors = in
	return b.write(p, "server", "settings.second-factor-changed", "")
}

// Clear takes the suspicion from a machine.
func (s *requests) Clear(_ context.Context, p tenant.Principal, id string, in api.Clearance) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := find(s.machines, func(m api.Instance) bool { return m.ID == id }, "instance")
	if err != nil {
		return err
	}
	if in.Reason == "" {
		return problem.Invalid("reason", "say why there is no second machine")
	}
	if s.machines[i].Suspicion == "" {
		return problem.New(http.StatusConflict, "conflict", "Not possible in this state", "Nothing speaks against this machine.", "Look again.")
	}
	s.machines[i].Suspicion = ""
	return (*Broker)(s).write(p, "user", "instance.clone-cleared", id)
}
