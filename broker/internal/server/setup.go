package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/account"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keyring"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/policyfile"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/preview"
	"keyward/broker/internal/rootkey"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Operator is what commands on the broker's machine work with: the services without listeners. It may run beside a
// serving broker.
type Operator struct {
	Accounts *account.Service
	Audit    *audit.Service
	// Identity is the broker's.
	Identity Identity
	// Files exports, plans and applies policies as files.
	Files  *policyfile.Service
	Keys   *keyring.Service
	config Config
	store  *store.Store
	roots  *keystore.Ring
}

// operatorLimit is how long a command may look at machines before it answers with what it has seen.
const operatorLimit = 10 * time.Minute

// Store is the broker's database.
func (o *Operator) Store() *store.Store { return o.store }

// OpenOperator opens a broker that was set up before.
func OpenOperator(ctx context.Context, c Config) (*Operator, error) {
	return openOperator(ctx, c, false)
}

func openOperator(ctx context.Context, c Config, create bool) (*Operator, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	roots, err := openRoots(c, create)
	if err != nil {
		return nil, err
	}
	o := &Operator{config: c, roots: roots}
	if err := o.open(ctx, create); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// prepareIdentity makes the files of the data folder that are missing, unless the database has accounts: their machines
// and logs trust the files that are gone, and new ones would silently lock all of them out.
func prepareIdentity(ctx context.Context, c Config, root keystore.Root) error {
	if missing(c.Data, fileCA) || missing(c.Data, fileAudit) {
		n, err := accounts(ctx, c)
		if err != nil {
			return err
		}
		if n > 0 {
			return fmt.Errorf("%s lacks %s or %s, and the database has %d account(s) that rely on them: restore %s, %s, %s and %s from a backup, or name the right --data",
				c.Data, fileCA, fileAudit, n, fileCA, fileCAKey, fileAudit, fileAuditKey)
		}
	}
	return createIdentity(c.Data, root, c.Clock)
}

// accounts counts what the database has already.
func accounts(ctx context.Context, c Config) (n int64, err error) {
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return 0, fmt.Errorf("making the data folder: %w", err)
	}
	st, err := store.Open(ctx, store.Options{DSN: c.DSN, Clock: c.Clock, Logger: c.Logger})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	err = st.View(ctx, func(tx *store.Tx) error {
		n, err = store.Global[store.Account](tx).Count()
		return err
	})
	return n, err
}

func (o *Operator) open(ctx context.Context, create bool) error {
	c := o.config
	if create {
		if err := prepareIdentity(ctx, c, o.roots); err != nil {
			return err
		}
	}
	id, err := openIdentity(c.Data, o.roots, c.Clock)
	if err != nil {
		return err
	}
	if o.store, err = store.Open(ctx, store.Options{DSN: c.DSN, Clock: c.Clock, Logger: c.Logger}); err != nil {
		return err
	}
	o.Keys = keyring.New(o.store, o.roots)
	if err := o.Keys.Settle(ctx); err != nil {
		return err
	}
	o.Identity = id
	previews := preview.New(o.store)
	previews.Limit = operatorLimit
	o.Files = policyfile.New(o.store, policyset.New(o.store, &feed.Hub{}), previews)
	o.Accounts = newAccounts(c, id, o.store)
	if o.Audit, err = newAudit(c, id, o.store); err != nil {
		return err
	}
	return nil
}

// Close closes the database and lets the root key go.
func (o *Operator) Close() error {
	var err error
	if o.store != nil {
		err = o.store.Close()
	}
	return errors.Join(err, rootkey.Close(o.roots))
}

// OpenRotation opens a broker for RotateRoot. ref names the root key to rotate to, as Config.RootKeyNext does; a file that is
// not there is made. An empty ref means the configured one.
func OpenRotation(ctx context.Context, c Config, ref, passphraseFrom string) (*Operator, error) {
	if ref != "" {
		c.RootKeyNext, c.RootNextPassphraseFrom, c.createNext = ref, passphraseFrom, true
	}
	return openOperator(ctx, c, false)
}

// Renews says that a rotation has no other root key to go to, and that the present one is kept in a place where it can have
// a newer version: everything is wrapped with that one then.
func (o *Operator) Renews() bool {
	return len(o.roots.Roots()) == 1 && len(rootkey.Remotes(o.roots)) == 1
}

// RotateRoot moves everything from the present root key to the next one. See keyring.Service.RotateRoot.
func (o *Operator) RotateRoot(ctx context.Context, progress keyring.Progress) (keystore.Root, error) {
	if o.Renews() {
		return keystore.Active(o.roots), o.Keys.Renew(ctx, func() error { return rewrapIdentity(o.config.Data, o.roots, true) }, progress)
	}
	all := o.roots.Roots()
	if len(all) < 2 {
		return nil, errors.New("there is no root key to rotate to, or it is the present one: name another with --to, or with --root-key-next")
	}
	to := all[1]
	return to, o.Keys.RotateRoot(ctx, to, func() error { return rewrapIdentity(o.config.Data, o.roots, false) }, progress)
}

// Login is a new person's name and password, which is shown once and kept nowhere.
type Login struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

// Setup is a new account with its first people.
type Setup struct {
	AccountID   string `json:"account_id"`
	AccountName string `json:"account_name"`
	Admin       Login  `json:"admin"`
	Approver    *Login `json:"approver,omitempty"`
}

// Init sets a broker up: root key, certificate authority, audit key, database and, when named, a first account. What is
// there already is used and never replaced, so an Init that was cut off can be repeated; one with an account refuses a
// database that has accounts. An empty approver means none.
func Init(ctx context.Context, c Config, accountName, admin, approver string) (*Setup, error) {
	o, err := openOperator(ctx, c, true)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	if accountName == "" {
		return nil, nil
	}
	if err := o.store.View(ctx, func(tx *store.Tx) error {
		n, err := store.Global[store.Account](tx).Count()
		if err == nil && n > 0 {
			err = errors.New("this broker has accounts already; add another one with keyward-broker account create")
		}
		return err
	}); err != nil {
		return nil, err
	}
	return o.NewAccount(ctx, accountName, admin, approver)
}

// NewAccount makes an account with its first Account Administrator and, unless the name is empty, a Key Approver.
func (o *Operator) NewAccount(ctx context.Context, name, admin, approver string) (*Setup, error) {
	out := &Setup{AccountName: name, Admin: Login{admin, account.NewPassword()}}
	users := []account.First{{Name: admin, Role: api.RoleAccountAdmin, Password: out.Admin.Password}}
	if approver != "" {
		out.Approver = &Login{approver, account.NewPassword()}
		users = append(users, account.First{Name: approver, Role: api.RoleKeyApprover, Password: out.Approver.Password})
	}
	a, err := o.Accounts.Create(ctx, name, users...)
	if err != nil {
		return nil, fmt.Errorf("creating account %q: %w", name, err)
	}
	out.AccountID = a.ID
	return out, nil
}

// NewUser adds a user to an account, by the account's name or ID.
func (o *Operator) NewUser(ctx context.Context, accountName string, in api.UserWrite) (api.User, *Login, error) {
	p, err := o.Account(ctx, accountName)
	if err != nil {
		return api.User{}, nil, err
	}
	in.Password = account.NewPassword()
	u, err := o.Accounts.CreateUser(ctx, p, in)
	if err != nil {
		return api.User{}, nil, fmt.Errorf("creating user %q: %w", in.Name, err)
	}
	return u, &Login{u.Name, in.Password}, nil
}

// ResetFactor takes a user's second factor away, by the user's name, and ends the user's sessions.
func (o *Operator) ResetFactor(ctx context.Context, accountName, user string) error {
	p, err := o.Account(ctx, accountName)
	if err != nil {
		return err
	}
	users, err := o.Accounts.Users(ctx, p)
	if err != nil {
		return err
	}
	for _, u := range users {
		if strings.EqualFold(u.Name, user) {
			return o.Accounts.ResetFactor(ctx, p, u.ID)
		}
	}
	return fmt.Errorf("account %q has no user %q; its log-on names are in the console under Administration > User Management", accountName, user)
}

// RotateDevice asks for another key of a device, by its name or ID, or takes that back.
func (o *Operator) RotateDevice(ctx context.Context, accountName, device string, in api.KeyRotationWrite, cancel bool) (api.Device, error) {
	p, err := o.Account(ctx, accountName)
	if err != nil {
		return api.Device{}, err
	}
	inv := inventory.New(inventory.Deps{Store: o.store, Feed: &feed.Hub{}, Root: o.roots, Clock: o.config.Clock, Logger: o.config.Logger})
	all, _, err := inv.Devices(ctx, p, inventory.DeviceQuery{})
	if err != nil {
		return api.Device{}, err
	}
	all = slices.DeleteFunc(all, func(d api.Device) bool { return d.ID != device && !strings.EqualFold(d.Name, device) })
	switch len(all) {
	case 0:
		return api.Device{}, fmt.Errorf("account %q has no device %q; the console lists them under Inventory > Devices", accountName, device)
	case 1:
	default:
		return api.Device{}, fmt.Errorf("account %q has %d devices %q: name one by its ID, which is in its address in the console", accountName, len(all), device)
	}
	if cancel {
		err = inv.CancelRotation(ctx, p, all[0].ID)
	} else {
		err = inv.RotateKey(ctx, p, all[0].ID, in)
	}
	if err != nil {
		return api.Device{}, err
	}
	return inv.Device(ctx, p, all[0].ID)
}

// NewToken makes an enrolment token for an account.
func (o *Operator) NewToken(ctx context.Context, accountName string, in api.EnrolmentTokenWrite) (api.EnrolmentTokenInfo, error) {
	p, err := o.Account(ctx, accountName)
	if err != nil {
		return api.EnrolmentTokenInfo{}, err
	}
	return o.Accounts.CreateToken(ctx, p, in)
}

// Account returns a principal for the operator in an account, by its name or ID.
func (o *Operator) Account(ctx context.Context, accountName string) (tenant.Principal, error) {
	return o.Accounts.Find(ctx, accountName)
}
