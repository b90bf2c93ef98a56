package account

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// The lock after wrong passwords, and the life of a session.
const (
	LockAfter   = 5
	LockFor     = 15 * time.Minute
	SessionIdle = 30 * time.Minute
	SessionLife = 12 * time.Hour
	// maxSessions is how many sessions a user can have; the one unused longest ends when another begins.
	maxSessions = 20
)

// refusedLogOn is the one answer to every log-on that fails: it tells a stranger neither which accounts and users exist
// nor which of them are locked.
func refusedLogOn() error {
	return problem.New(401, "log-on-refused", "The log-on was refused", "Account, user or password is wrong, or the user is locked.",
		fmt.Sprintf("Check all three. After %d wrong passwords a user is locked for %d minutes.", LockAfter, int(LockFor.Minutes())))
}

// refuseAfter is the least time from asking to being refused. It covers that a wrong password of a user who exists is
// written down and that of one who does not is not: the hash takes the same time for both, the database does not.
const refuseAfter = 200 * time.Millisecond

// LogOn checks a password and opens a session.
func (s *Service) LogOn(ctx context.Context, in api.LogOn, address, userAgent string) (api.LoggedOn, error) {
	refusal := time.NewTimer(s.refuseAfter)
	defer refusal.Stop()
	out, err := s.logOn(ctx, in, address, userAgent)
	if err != nil {
		select {
		case <-refusal.C:
		case <-ctx.Done():
		}
	}
	return out, err
}

func (s *Service) logOn(ctx context.Context, in api.LogOn, address, userAgent string) (api.LoggedOn, error) {
	var account store.Account
	var user store.User
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		if account, err = tx.FindAccount(in.Account); err != nil {
			return err
		}
		user, err = findUser(tx.Tenant(account.ID), in.User)
		return err
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return api.LoggedOn{}, err
	}
	// The password is checked before anything else is said or written, and for strangers and locked users too.
	ok, outdated, err := s.hashing.matches(ctx, in.Password, user.PasswordHash)
	if err != nil {
		return api.LoggedOn{}, err
	}
	if user.ID == "" {
		return api.LoggedOn{}, s.stranger(ctx, account.ID, address)
	}
	rehashed := ""
	if ok && outdated {
		if rehashed, err = s.hashing.hash(ctx, in.Password); err != nil {
			return api.LoggedOn{}, err
		}
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	token := base64.RawURLEncoding.EncodeToString(secret)
	var out api.LoggedOn
	var refusal error
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(account.ID)
		// Read again: what happened while the hash was computed counts, so guesses in parallel are no more than five.
		u, err := store.In[store.User](t).Get(user.ID)
		if err != nil {
			return err
		}
		if refusal, err = s.judge(t, u, ok && u.PasswordHash == user.PasswordHash, address); err != nil || refusal != nil {
			return err
		}
		stage, err := s.stage(t, account, &u, in.Code)
		if errors.Is(err, errWrongCode) {
			refusal, err = s.judge(t, u, false, address)
			return err
		}
		if err != nil {
			return err
		}
		now := tx.Now()
		if stage != api.StageCode { // wrong codes go on counting until a right one comes
			u.FailedLogOns, u.LockedUntil, u.LastLogOnAt = 0, nil, &now
		}
		if rehashed != "" {
			u.PasswordHash = rehashed
		}
		if err := store.In[store.User](t).Update(&u); err != nil {
			return err
		}
		out, err = openSession(t, u, stage, token, address, userAgent)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return api.LoggedOn{}, refusedLogOn() // deleted meanwhile
	}
	if err == nil {
		err = refusal
	}
	if err != nil {
		return api.LoggedOn{}, err
	}
	return out, nil
}

// judge counts a wrong password and locks the user after the fifth. The refusal is committed with its audit record.
func (s *Service) judge(t *store.Tenant, u store.User, ok bool, address string) (refusal, err error) {
	now := t.Now()
	if u.LockedUntil != nil && u.LockedUntil.After(now) {
		if !s.quiet.allow("locked\x00"+u.ID, now) {
			return refusedLogOn(), nil
		}
		return refusedLogOn(), failedLogOn(t, u, address, "the user is locked")
	}
	if ok {
		return nil, nil
	}
	if u.LockedUntil != nil { // the lock has ended: counting starts again
		u.LockedUntil, u.FailedLogOns = nil, 0
	}
	u.FailedLogOns++
	why := "wrong password"
	if u.FailedLogOns >= LockAfter {
		until := now.Add(LockFor)
		u.LockedUntil, u.FailedLogOns = &until, 0
		why = "wrong password; the user is locked now"
	}
	if err := store.In[store.User](t).Update(&u); err != nil {
		return nil, err
	}
	return refusedLogOn(), failedLogOn(t, u, address, why)
}

func failedLogOn(t *store.Tenant, u store.User, address, why string) error {
	return audit.Append(t, audit.Entry{Category: audit.User, Event: "user.log-on-failed", Actor: "user:" + u.Name, Subject: u.ID,
		Detail: map[string]string{"address": address, "reason": why}})
}

// stranger records a log-on of a user that an account does not have, once a minute. The name is left out: people type
// passwords into the wrong field.
func (s *Service) stranger(ctx context.Context, accountID, address string) error {
	if accountID == "" || !s.quiet.allow("stranger\x00"+accountID, s.Clock()) {
		return refusedLogOn()
	}
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		return audit.Append(tx.Tenant(accountID), audit.Entry{Category: audit.User, Event: "user.log-on-failed", Actor: "unknown",
			Detail: map[string]string{"address": address, "reason": "unknown user"}})
	})
	if err != nil {
		return err
	}
	return refusedLogOn()
}

func findUser(t *store.Tenant, name string) (store.User, error) {
	return store.In[store.User](t).First(store.EqFold("name", name))
}

func openSession(t *store.Tenant, u store.User, stage api.Stage, token, address, userAgent string) (api.LoggedOn, error) {
	table := store.In[store.Session](t)
	old, err := table.List(store.Eq("user_id", u.ID), store.Asc("last_seen_at"))
	if err != nil {
		return api.LoggedOn{}, err
	}
	for i := 0; i <= len(old)-maxSessions; i++ {
		if err := table.Delete(old[i].ID); err != nil {
			return api.LoggedOn{}, err
		}
	}
	hash := sha256.Sum256([]byte(token))
	row := store.Session{UserID: u.ID, TokenHash: hash[:], Address: address, UserAgent: clip(userAgent, 256), LastSeenAt: t.Now(), ExpiresAt: t.Now().Add(SessionLife)}
	row.Stage = string(stage)
	event, detail := "user.logged-on", map[string]string{"address": address}
	switch now := t.Now(); {
	case stage == api.StageCode:
		row.ExpiresAt, event = now.Add(codeLife), "user.log-on-begun"
	case u.FactorSince != nil:
		row.FactorAt, detail["second_factor"] = &now, "shown"
	}
	if err := table.Insert(&row); err != nil {
		return api.LoggedOn{}, err
	}
	detail["session"] = row.ID
	err = audit.Append(t, audit.Entry{Category: audit.User, Event: event, Actor: "user:" + u.Name, Subject: u.ID, Detail: detail})
	return api.LoggedOn{Token: token, SessionID: row.ID, ExpiresAt: row.ExpiresAt, User: viewUser(u), Stage: stage}, err
}

// Authenticate finds the person of a session token and notes that the session is in use. Who has not shown a second
// factor yet, where one is needed, is refused.
func (s *Service) Authenticate(ctx context.Context, token, address string) (tenant.Principal, error) {
	p, err := s.AuthenticateAny(ctx, token, address)
	if err == nil && p.Stage != api.StageComplete {
		return tenant.Principal{}, StageProblem(p.Stage)
	}
	return p, err
}

// AuthenticateAny is Authenticate for the few calls that a session in a stage may make; the caller looks at the stage.
func (s *Service) AuthenticateAny(ctx context.Context, token, address string) (tenant.Principal, error) {
	if token == "" || len(token) > 256 {
		return tenant.Principal{}, problem.Unauthenticated()
	}
	hash := sha256.Sum256([]byte(token))
	var p tenant.Principal
	var row store.Session
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		if row, err = tx.FindSession(hash[:]); err != nil {
			return err
		}
		if ended(row, tx.Now()) {
			return store.ErrNotFound
		}
		u, err := store.In[store.User](tx.Tenant(row.AccountID)).Get(row.UserID)
		if err != nil {
			return err
		}
		p = tenant.Principal{AccountID: row.AccountID, UserID: u.ID, UserName: u.Name, Role: u.Role, SessionID: row.ID, Address: address,
			Stage: api.Stage(row.Stage), FactorAt: row.FactorAt}
		p.Stage, err = stageNow(tx, u, p.Stage)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return tenant.Principal{}, problem.Unauthenticated()
	}
	if err != nil {
		return tenant.Principal{}, err
	}
	if s.Clock().Sub(row.LastSeenAt) >= time.Minute { // not at every call: the sign of life is a write
		if err := s.seen(ctx, row); err != nil {
			return tenant.Principal{}, err
		}
	}
	return p, nil
}

// seen notes the use of a session; one that ended at this moment is none.
func (s *Service) seen(ctx context.Context, row store.Session) error {
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		table := store.In[store.Session](tx.Tenant(row.AccountID))
		row, err := table.Get(row.ID)
		if err != nil {
			return err
		}
		row.LastSeenAt = tx.Now()
		return table.Update(&row)
	})
	if errors.Is(err, store.ErrNotFound) {
		return problem.Unauthenticated()
	}
	return err
}

func ended(row store.Session, now time.Time) bool {
	return !row.ExpiresAt.After(now) || !row.LastSeenAt.Add(SessionIdle).After(now)
}

// clip shortens text that a stranger sent to n bytes of valid UTF-8.
func clip(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	for len(s) > n {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}
