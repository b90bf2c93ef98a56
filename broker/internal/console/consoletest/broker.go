// Package consoletest plays the services behind the console from memory, with the data of a small site, so that pages
// can be tested and looked at without a database or machines.
package consoletest

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/console"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// Password is that of every user.
const Password = "Correct-horse-7"

// Broker is the state behind all fakes. Its methods are those of the console's interfaces.
type Broker struct {
	Clock func() time.Time
	Hub   *feed.Hub

	mu           sync.Mutex
	account      api.Account
	users        []api.User
	sessions     map[string]session // by token
	tokens       []api.EnrolmentTokenInfo
	images       []api.Image
	machines     []api.Instance
	devices      []api.Device
	policies     []api.Policy
	requests     []api.KeyRequestDetail
	records      []api.AuditRecord
	deletedFor   string
	deepSecurity api.DeepSecuritySettings
	checks       api.CheckSettings
	notices      []api.Notice
	exports      []api.KeyExport
	recovery     *api.RecoveryKey
	people       int64 // who must agree to an export
	// Stage is that of every session.
	Stage   api.Stage
	factors api.FactorSettings
	phones  map[string]time.Time
	// Refuse, when set, is the answer of every write: tests of how pages show refusals.
	Refuse error
}

type session struct {
	api.Session
	userID string
}

// UserOf is the log-on name of the user who has a role.
func UserOf(role string) string {
	return map[string]string{
		"account-administrator": "ada", "security-administrator": "sven", "data-analyst": "dana", "auditor": "otto", "key-approver": "kim",
	}[role]
}

// New is a site with users of every role and something of everything.
func New(clock func() time.Time) *Broker {
	b := &Broker{Clock: clock, Hub: &feed.Hub{}, sessions: map[string]session{}}
	b.fill(clock())
	return b
}

// Deps are the fakes as the console takes them.
func (b *Broker) Deps() (console.Deps, error) {
	access, err := rbac.New()
	return console.Deps{Accounts: b, Inventory: b, Policies: (*policies)(b), Previews: (*policies)(b), Requests: (*requests)(b), Audit: b, DeepSecurity: b, Exports: (*exports)(b), Recovery: b, Feed: b.Hub,
		Access: access, Clock: b.Clock, Logger: slog.New(slog.DiscardHandler)}, err
}

// Session logs a user in without a password and returns the token.
func (b *Broker) Session(user string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	token := uuid.NewString()
	u := b.users[slices.IndexFunc(b.users, func(u api.User) bool { return u.Name == user })]
	now := b.Clock()
	b.sessions[token] = session{userID: u.ID, Session: api.Session{ID: uuid.NewString(), User: u.Name, Address: "192.0.2.7",
		UserAgent: "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/145.0", CreatedAt: now, LastSeenAt: now, ExpiresAt: now.Add(12 * time.Hour)}}
	return token
}

// write guards a change: it fails as the test wants, and keeps the log.
func (b *Broker) write(p tenant.Principal, category, event, subject string) error {
	if b.Refuse != nil {
		return b.Refuse
	}
	b.records = append(b.records, api.AuditRecord{Sequence: int64(len(b.records) + 1), At: b.Clock(), Category: category, Event: event,
		Actor: p.Actor(), Subject: subject, Hash: []byte{byte(len(b.records)), 0xab, 0xcd}})
	return nil
}

func find[T any](all []T, is func(T) bool, thing string) (int, error) {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return i, nil
	}
	return -1, problem.NotFound(thing)
}
