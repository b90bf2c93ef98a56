// Package account keeps tenants and their people: users with one role each, log-on, sessions, enrolment tokens and the
// account's settings. Every change writes its audit record in the same transaction.
package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Deps is what the service works with.
type Deps struct {
	Store *store.Store
	// Root wraps the keys of new accounts.
	Root keystore.Root
	// ServiceURL is the agents' interface as machines reach it, shown beside the account's ID.
	ServiceURL string
	// CAPin is the SHA-256 of the CA's SubjectPublicKeyInfo, which enrolment tokens carry.
	CAPin []byte
	// MaxPassword is the longest password, 32 to 128 characters; 0 means 32.
	MaxPassword int
	// OnCreate completes a new account in the transaction that creates it, for example by its default policy.
	OnCreate []func(*store.Tenant) error
	Clock    func() time.Time
	Logger   *slog.Logger
}

// Service manages accounts. It is safe for concurrent use.
type Service struct {
	Deps
	hashing     *hasher
	quiet       quiet
	refuseAfter time.Duration
}

// New makes the service.
func New(d Deps) *Service {
	if d.Clock == nil {
		d.Clock = time.Now
	}
	if d.Logger == nil {
		d.Logger = slog.Default()
	}
	if d.MaxPassword == 0 {
		d.MaxPassword = DefaultMaxPassword
	}
	return &Service{Deps: d, hashing: newHasher(current), quiet: quiet{last: map[string]time.Time{}}, refuseAfter: refuseAfter}
}

// First is the user that a new account is created with.
type First struct {
	Name     string
	Role     api.Role
	Password string
}

// Create makes an account with its key and its first users, all or nothing. Only the broker's operator can: there is no
// route to it.
func (s *Service) Create(ctx context.Context, name string, users ...First) (api.Account, error) {
	fields := map[string]string{}
	if !validName(name, accountName) {
		fields["name"] = "1 to 64 letters, digits, spaces and . _ -"
	}
	admins := 0
	hashes := make([]string, len(users))
	for i, u := range users {
		if u.Role == api.RoleAccountAdmin {
			admins++
		}
		if err := s.checkUser(api.UserWrite{Name: u.Name, Role: u.Role, Password: u.Password}, true); err != nil {
			return api.Account{}, fmt.Errorf("user %q: %w", u.Name, err)
		}
		var err error
		if hashes[i], err = s.hashing.hash(ctx, u.Password); err != nil {
			return api.Account{}, err
		}
	}
	if admins == 0 {
		fields["users"] = "an account starts with at least one account administrator"
	}
	if len(fields) > 0 {
		return api.Account{}, problem.InvalidFields(fields)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return api.Account{}, err
	}
	key, err := keystore.NewAccountKey(s.Root, id.String())
	if err != nil {
		return api.Account{}, err
	}
	row := store.Account{ID: id.String(), Name: name, TimeZone: defaultZone, DateFormat: dateFormats[0],
		WrappedKey: key.Wrapped, RootKeyID: key.RootKeyID, KeyGeneration: key.Generation}
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		row := row // a repeated transaction starts from the same
		if err := store.Global[store.Account](tx).Insert(&row); err != nil {
			return taken(err, "account", name)
		}
		t := tx.Tenant(row.ID)
		if err := audit.Append(t, audit.Entry{Category: audit.Server, Event: "account.created", Actor: "operator", Subject: row.ID,
			Detail: map[string]string{"name": name}}); err != nil {
			return err
		}
		for _, complete := range s.OnCreate {
			if err := complete(t); err != nil {
				return fmt.Errorf("completing the new account: %w", err)
			}
		}
		for i, u := range users {
			user := store.User{Name: u.Name, Role: u.Role, PasswordHash: hashes[i]}
			if err := insertUser(t, tenant.Principal{AccountID: row.ID, Operator: true}, &user); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return api.Account{}, err
	}
	return s.Account(ctx, tenant.Broker(row.ID))
}

// Account describes the caller's account.
func (s *Service) Account(ctx context.Context, p tenant.Principal) (api.Account, error) {
	var row store.Account
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		row, err = store.Global[store.Account](tx).Get(p.AccountID)
		return err
	})
	return api.Account{ID: row.ID, Name: row.Name, ServiceURL: s.ServiceURL, TimeZone: row.TimeZone, DateFormat: row.DateFormat, CreatedAt: row.CreatedAt}, err
}

// Find returns a principal for the commands of the broker's operator in an account, by its name or ID.
func (s *Service) Find(ctx context.Context, nameOrID string) (tenant.Principal, error) {
	var row store.Account
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		row, err = tx.FindAccount(nameOrID)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return tenant.Principal{}, problem.New(404, "not-found", "Not found", fmt.Sprintf("There is no account %q.", nameOrID), "Check the name; account names ignore upper and lower case.")
	}
	return tenant.Principal{AccountID: row.ID, Operator: true}, err
}

// taken turns a duplicate into a problem that says what is taken.
func taken(err error, thing, name string) error {
	if errors.Is(err, store.ErrDuplicate) {
		return problem.New(409, "name-taken", "The name is taken", fmt.Sprintf("There is %s named %q already.", article(thing), name), "Choose another name; upper and lower case do not make a difference.")
	}
	return err
}

func article(noun string) string {
	if noun != "" && (noun[0] == 'a' || noun[0] == 'e' || noun[0] == 'i' || noun[0] == 'o') {
		return "an " + noun
	}
	return "a " + noun
}

// missing turns a row that is not there into a problem that says what it was.
func missing(err error, thing string) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return problem.NotFound(thing)
	case errors.Is(err, store.ErrStale):
		return problem.Stale(thing)
	}
	return err
}

// quiet lets one event a minute through per key, so that strangers cannot fill an account's log.
type quiet struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (q *quiet) allow(key string, now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for k, at := range q.last {
		if now.Sub(at) >= time.Minute {
			delete(q.last, k)
		}
	}
	if _, recent := q.last[key]; recent {
		return false
	}
	q.last[key] = now
	return true
}
