package account

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

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
	// codeLife is how long a log-on waits for its code.
	codeLife = 5 * time.Minute
	// period and window are those of RFC 6238: a code counts for its half minute, and for one before and after it.
	period = 30
	window = 1
	// factorPurpose is what the wrapped secret is bound to.
	factorPurpose = "second factor"
	// FactorRequired is the account's setting that demands one of everybody.
	FactorRequired = "required"
)

// errWrongCode says that a code is none of the user's, or was used before.
var errWrongCode = errors.New("the code is wrong, too old, or was used before")

// StageProblem is the refusal of a session that has not shown its second factor.
func StageProblem(stage api.Stage) error {
	if stage == api.StageEnrol {
		return problem.New(http.StatusForbidden, "second-factor-missing", "This account requires a second factor", "The log-on is not complete.",
			"Set a second factor up: on the Second Factor page, or by POST /api/v1/second-factor.")
	}
	return problem.New(http.StatusForbidden, "second-factor-needed", "The log-on needs a second factor", "The log-on is not complete.",
		"Show a code of your authenticator or a recovery code: on the log-on page, or by POST /api/v1/second-factor/show.")
}

// stage is what a log-on with the right password lacks. A code that comes with it is spent.
func (s *Service) stage(t *store.Tenant, a store.Account, u *store.User, code string) (api.Stage, error) {
	switch {
	case u.FactorSince == nil && a.SecondFactor == FactorRequired:
		return api.StageEnrol, nil
	case u.FactorSince == nil:
		return api.StageComplete, nil
	case code == "":
		return api.StageCode, nil
	}
	return api.StageComplete, s.spend(t, u, code)
}

// stageNow also sends those to set a second factor up whose account has come to require one.
func stageNow(tx *store.Tx, u store.User, stage api.Stage) (api.Stage, error) {
	if u.FactorSince != nil || stage == api.StageCode {
		return stage, nil
	}
	a, err := store.Global[store.Account](tx).Get(u.AccountID)
	if err != nil {
		return stage, err
	}
	if a.SecondFactor == FactorRequired {
		return api.StageEnrol, nil
	}
	return api.StageComplete, nil
}

// spend checks a code of the user's second factor and makes it worthless; the user is stored.
func (s *Service) spend(t *store.Tenant, u *store.User, code string) error {
	code = plainCode(code)
	if len(code) == recoveryChars {
		return s.spendRecovery(t, *u, code)
	}
	step, err := s.match(t, *u, code)
	if err != nil {
		return err
	}
	u.FactorStep = step
	return store.In[store.User](t).Update(u)
}

// match finds the time step whose code this is; it must be newer than the last that was used.
func (s *Service) match(t *store.Tenant, u store.User, code string) (int64, error) {
	if len(code) != otp.DigitsSix.Length() || u.FactorSecret == nil {
		return 0, errWrongCode
	}
	secret, err := s.factorSecret(t, u)
	if err != nil {
		return 0, err
	}
	now, found := t.Now().Unix()/period, int64(0)
	for step := now - window; step <= now+window; step++ {
		want, err := hotp.GenerateCodeCustom(secret, uint64(step), hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1})
		if err != nil {
			return 0, fmt.Errorf("computing a code: %w", err)
		}
		if subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 && step > u.FactorStep {
			found = step
		}
	}
	if found == 0 {
		return 0, errWrongCode
	}
	return found, nil
}

// factorSecret is the user's secret as authenticators write it.
func (s *Service) factorSecret(t *store.Tenant, u store.User) (string, error) {
	key, err := inventory.AccountKey(t)
	if err != nil {
		return "", err
	}
	secret, err := keystore.OpenAccountSecret(s.Root, key, factorPurpose, u.ID, u.FactorSecret)
	if err != nil {
		return "", err
	}
	defer secret.Wipe()
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(secret.Bytes()), nil
}

func plainCode(code string) string {
	return strings.ToLower(strings.NewReplacer(" ", "", "-", "").Replace(code))
}

func (s *Service) spendRecovery(t *store.Tenant, u store.User, code string) error {
	hash := sha256.Sum256([]byte(code))
	n, err := store.In[store.RecoveryCode](t).DeleteWhere(store.Eq("user_id", u.ID), store.Eq("code_hash", hash[:]))
	if err != nil {
		return err
	}
	if n != 1 {
		return errWrongCode
	}
	left, err := store.In[store.RecoveryCode](t).Count(store.Eq("user_id", u.ID))
	if err != nil {
		return err
	}
	return audit.Append(t, audit.Entry{Category: audit.User, Event: "user.recovery-code-used", Actor: "user:" + u.Name, Subject: u.ID,
		Detail: map[string]string{"left": fmt.Sprint(left)}})
}

// ShowFactor completes a log-on that waits for a code, or makes the second factor of a session fresh again. It returns
// until when it is.
func (s *Service) ShowFactor(ctx context.Context, p tenant.Principal, in api.FactorCode) (time.Time, error) {
	var until time.Time
	err := s.withCode(ctx, p, in.Code, func(t *store.Tenant, u *store.User) error {
		sessions := store.In[store.Session](t)
		row, err := sessions.Get(p.SessionID)
		if err != nil {
			return missing(err, "session")
		}
		event, now := "user.second-factor-shown", t.Now()
		if row.Stage != "" {
			event, u.LastLogOnAt = "user.logged-on", &now
			row.Stage, row.ExpiresAt = "", now.Add(SessionLife)
			if err := store.In[store.User](t).Update(u); err != nil {
				return err
			}
		}
		row.FactorAt, until = &now, now.Add(stepup.FreshFor)
		if err := sessions.Update(&row); err != nil {
			return err
		}
		return audit.Append(t, audit.Entry{Category: audit.User, Event: event, Actor: p.Actor(), Subject: p.UserID,
			Detail: map[string]string{"address": p.Address, "session": row.ID, "second_factor": "shown"}})
	})
	return until, err
}

// withCode spends a code of the caller and then does what it was shown for. Wrong codes count like wrong passwords.
func (s *Service) withCode(ctx context.Context, p tenant.Principal, code string, do func(*store.Tenant, *store.User) error) error {
	var refusal error
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		refusal = nil
		u, err := store.In[store.User](t).Get(p.UserID)
		if err != nil {
			return missing(err, "user")
		}
		if u.FactorSince == nil {
			return problem.Conflict("You have no second factor.", "Set one up on the Second Factor page.")
		}
		if u.LockedUntil != nil && u.LockedUntil.After(t.Now()) {
			refusal, err = s.judge(t, u, false, p.Address)
			return err
		}
		err = s.spend(t, &u, code)
		if errors.Is(err, errWrongCode) {
			refusal, err = s.judge(t, u, false, p.Address)
			return err
		}
		if err != nil {
			return err
		}
		if u.FailedLogOns != 0 || u.LockedUntil != nil {
			u.FailedLogOns, u.LockedUntil = 0, nil
			if err := store.In[store.User](t).Update(&u); err != nil {
				return err
			}
		}
		return do(t, &u)
	})
	if err == nil && refusal != nil {
		return wrongCode()
	}
	return err
}

func wrongCode() error {
	return problem.Invalid("code", fmt.Sprintf("this is no code of yours that counts now, or the user is locked for %d minutes after %d wrong ones; each code counts once",
		int(LockFor.Minutes()), LockAfter))
}
