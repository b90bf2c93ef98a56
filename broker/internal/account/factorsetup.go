package account

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"image/png"
	"strings"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

const (
	secretBytes   = 20
	recoveryCount = 10
	recoveryBytes = 10 // 80 bits: a stolen hash is not worth trying
	recoveryChars = 16
	pictureSize   = 240 // pixels
)

// FactorInfo says how things stand with the caller's second factor.
func (s *Service) FactorInfo(ctx context.Context, p tenant.Principal) (api.FactorInfo, error) {
	var out api.FactorInfo
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		u, err := store.In[store.User](t).Get(p.UserID)
		if err != nil {
			return missing(err, "user")
		}
		a, err := store.Global[store.Account](tx).Get(p.AccountID)
		if err != nil {
			return missing(err, "account")
		}
		out = api.FactorInfo{Since: u.FactorSince, Required: a.SecondFactor == FactorRequired, StepUp: a.StepUp}
		if stepup.Fresh(p, tx.Now()) {
			until := p.FactorAt.Add(stepup.FreshFor)
			out.FreshUntil = &until
		}
		out.CodesLeft, err = store.In[store.RecoveryCode](t).Count(store.Eq("user_id", u.ID))
		return err
	})
	return out, err
}

// StartFactor makes the secret of a second factor, which counts once ConfirmFactor has seen a code of it. The password is
// asked for again: a session that was left open must not become somebody else's.
func (s *Service) StartFactor(ctx context.Context, p tenant.Principal, in api.FactorStart) (api.FactorSetup, error) {
	var user store.User
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		user, err = store.In[store.User](tx.Tenant(p.AccountID)).Get(p.UserID)
		return missing(err, "user")
	})
	if err != nil {
		return api.FactorSetup{}, err
	}
	ok, _, err := s.hashing.matches(ctx, in.Password, user.PasswordHash)
	if err != nil {
		return api.FactorSetup{}, err
	}
	secret := make([]byte, secretBytes)
	rand.Read(secret)
	var account store.Account
	var refusal error
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		u, err := store.In[store.User](t).Get(p.UserID)
		if err != nil {
			return missing(err, "user")
		}
		if refusal, err = s.judge(t, u, ok && u.PasswordHash == user.PasswordHash, p.Address); err != nil || refusal != nil {
			return err
		}
		if u.FactorSince != nil {
			return problem.Conflict("You have a second factor already.", "Remove it first, with one of its codes.")
		}
		if account, err = store.Global[store.Account](tx).Get(p.AccountID); err != nil {
			return missing(err, "account")
		}
		key, err := inventory.AccountKey(t)
		if err != nil {
			return err
		}
		if u.FactorSecret, err = keystore.WrapAccountSecret(s.Root, key, factorPurpose, u.ID, keystore.KeyOf(bytes.Clone(secret))); err != nil {
			return err
		}
		u.FactorStep, u.FailedLogOns = 0, 0
		return store.In[store.User](t).Update(&u)
	})
	if err == nil && refusal != nil {
		err = problem.Invalid("password", "the password is wrong, or the user is locked after too many wrong ones")
	}
	if err != nil {
		return api.FactorSetup{}, err
	}
	return setup(account.Name, p.UserName, secret)
}

// setup writes a secret for authenticators.
func setup(account, user string, secret []byte) (api.FactorSetup, error) {
	defer clear(secret)
	key, err := totp.Generate(totp.GenerateOpts{Issuer: "Keyward " + account, AccountName: user, Period: period, Secret: secret,
		Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
	if err != nil {
		return api.FactorSetup{}, fmt.Errorf("writing the second factor's address: %w", err)
	}
	picture, err := key.Image(pictureSize, pictureSize)
	if err != nil {
		return api.FactorSetup{}, fmt.Errorf("drawing the second factor's address: %w", err)
	}
	var out bytes.Buffer
	if err := png.Encode(&out, picture); err != nil {
		return api.FactorSetup{}, fmt.Errorf("drawing the second factor's address: %w", err)
	}
	return api.FactorSetup{Secret: key.Secret(), URL: key.URL(), Image: out.Bytes()}, nil
}

// ConfirmFactor makes a second factor count, by a code of it, and returns recovery codes. The user's other sessions end.
func (s *Service) ConfirmFactor(ctx context.Context, p tenant.Principal, in api.FactorCode) (api.RecoveryCodes, error) {
	var out api.RecoveryCodes
	var refusal error
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		refusal = nil
		u, err := store.In[store.User](t).Get(p.UserID)
		if err != nil {
			return missing(err, "user")
		}
		if u.FactorSince != nil || u.FactorSecret == nil {
			return problem.Conflict("No second factor waits to be confirmed.", "Begin its set-up first.")
		}
		step, err := s.match(t, u, plainCode(in.Code))
		if errors.Is(err, errWrongCode) || u.LockedUntil != nil && u.LockedUntil.After(t.Now()) {
			refusal, err = s.judge(t, u, false, p.Address)
			return err
		}
		if err != nil {
			return err
		}
		now := t.Now()
		u.FactorSince, u.FactorStep, u.FailedLogOns = &now, step, 0
		if err := store.In[store.User](t).Update(&u); err != nil {
			return missing(err, "user")
		}
		if err := endSessions(t, u.ID, p.SessionID); err != nil {
			return err
		}
		session, err := store.In[store.Session](t).Get(p.SessionID)
		if err != nil {
			return missing(err, "session")
		}
		session.Stage, session.FactorAt = "", &now
		if err := store.In[store.Session](t).Update(&session); err != nil {
			return err
		}
		if out.Codes, err = newCodes(t, u.ID); err != nil {
			return err
		}
		return audit.Append(t, audit.Entry{Category: audit.User, Event: "user.second-factor-set", Actor: p.Actor(), Subject: u.ID,
			Detail: map[string]string{"address": p.Address}})
	})
	if err == nil && refusal != nil {
		err = wrongCode()
	}
	if err != nil {
		return api.RecoveryCodes{}, err
	}
	return out, nil
}

// NewRecoveryCodes replaces the caller's recovery codes; it takes a code.
func (s *Service) NewRecoveryCodes(ctx context.Context, p tenant.Principal, in api.FactorCode) (api.RecoveryCodes, error) {
	var out api.RecoveryCodes
	err := s.withCode(ctx, p, in.Code, func(t *store.Tenant, u *store.User) error {
		var err error
		if out.Codes, err = newCodes(t, u.ID); err != nil {
			return err
		}
		return audit.Append(t, audit.Entry{Category: audit.User, Event: "user.recovery-codes-made", Actor: p.Actor(), Subject: u.ID,
			Detail: map[string]string{"address": p.Address}})
	})
	return out, err
}

// RemoveFactor takes the caller's second factor away; it takes a code of it.
func (s *Service) RemoveFactor(ctx context.Context, p tenant.Principal, in api.FactorCode) error {
	return s.withCode(ctx, p, in.Code, func(t *store.Tenant, u *store.User) error {
		return dropFactor(t, p, u, "user.second-factor-removed")
	})
}

// ResetFactor takes another user's second factor away, who lost it, and ends the user's sessions. One's own is removed
// with a code: a session that somebody left open must not get rid of it.
func (s *Service) ResetFactor(ctx context.Context, p tenant.Principal, userID string) error {
	if p.UserID != "" && userID == p.UserID {
		return problem.Conflict("You cannot reset your own second factor.", "Remove it on the Second Factor page with a code, or ask another Account Administrator.")
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		if err := stepup.Require(t, p); err != nil {
			return err
		}
		u, err := store.In[store.User](t).Get(userID)
		if err != nil {
			return missing(err, "user")
		}
		if u.FactorSecret == nil {
			return problem.Conflict(fmt.Sprintf("User %q has no second factor.", u.Name), "Nothing was changed.")
		}
		if err := endSessions(t, u.ID, ""); err != nil {
			return err
		}
		return dropFactor(t, p, &u, "user.second-factor-reset")
	})
}

func dropFactor(t *store.Tenant, p tenant.Principal, u *store.User, event string) error {
	if _, err := store.In[store.RecoveryCode](t).DeleteWhere(store.Eq("user_id", u.ID)); err != nil {
		return err
	}
	u.FactorSecret, u.FactorSince, u.FactorStep = nil, nil, 0
	if err := store.In[store.User](t).Update(u); err != nil {
		return missing(err, "user")
	}
	return audit.Append(t, audit.Entry{Category: audit.User, Event: event, Actor: p.Actor(), Subject: u.ID, Detail: map[string]string{"name": u.Name}})
}

func newCodes(t *store.Tenant, userID string) ([]string, error) {
	table := store.In[store.RecoveryCode](t)
	if _, err := table.DeleteWhere(store.Eq("user_id", userID)); err != nil {
		return nil, err
	}
	codes := make([]string, recoveryCount)
	for i := range codes {
		raw := make([]byte, recoveryBytes)
		rand.Read(raw)
		code := strings.ToLower(base32.StdEncoding.EncodeToString(raw))
		hash := sha256.Sum256([]byte(code))
		if err := table.Insert(&store.RecoveryCode{UserID: userID, CodeHash: hash[:]}); err != nil {
			return nil, err
		}
		codes[i] = code[:4] + "-" + code[4:8] + "-" + code[8:12] + "-" + code[12:]
	}
	return codes, nil
}

// FactorSettings are the account's wish for second factors.
func (s *Service) FactorSettings(ctx context.Context, p tenant.Principal) (api.FactorSettings, error) {
	var out api.FactorSettings
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		a, err := store.Global[store.Account](tx).Get(p.AccountID)
		out = api.FactorSettings{SecondFactor: a.SecondFactor, StepUp: a.StepUp}
		if out.SecondFactor == "" {
			out.SecondFactor = "optional"
		}
		return missing(err, "account")
	})
	return out, err
}

// SetFactorSettings changes that wish. People without a second factor get no further than its set-up from then on.
func (s *Service) SetFactorSettings(ctx context.Context, p tenant.Principal, in api.FactorSettings) error {
	if in.SecondFactor != "optional" && in.SecondFactor != FactorRequired {
		return problem.Invalid("second_factor", "choose optional or required")
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		if err := stepup.Require(t, p); err != nil {
			return err
		}
		table := store.Global[store.Account](tx)
		row, err := table.Get(p.AccountID)
		if err != nil {
			return missing(err, "account")
		}
		before := fmt.Sprintf("second factor %s, step-up %t", row.SecondFactor, row.StepUp)
		row.SecondFactor, row.StepUp = in.SecondFactor, in.StepUp
		if err := table.Update(&row); err != nil {
			return missing(err, "account")
		}
		return audit.Append(t, audit.Entry{Category: audit.Server, Event: "settings.second-factor-changed", Actor: p.Actor(), Subject: row.ID,
			Detail: map[string]string{"before": before, "after": fmt.Sprintf("second factor %s, step-up %t", row.SecondFactor, row.StepUp)}})
	})
}
