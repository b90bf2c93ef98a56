package keyexport

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/recovery"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

// person is a user of the model.
type person struct {
	row     store.User
	deleted bool
	agreed  time.Time // the newest approval of the export at hand
}

// model runs one export through what people may do to it, beside what may come of that.
type model struct {
	t       *rapid.T
	st      *store.Store
	s       *Service
	direct  *inventory.Service
	account string
	clock   *time.Time
	people  []*person
	asker   *person
	device  store.Device
	export  string
	needed  []int64 // when it was asked for, and now
}

func (m *model) in(f func(*store.Tenant) error) {
	m.t.Helper()
	if err := m.st.Tx(context.Background(), func(tx *store.Tx) error { return f(tx.Tenant(m.account)) }); err != nil {
		m.t.Fatalf("%v", err)
	}
}

func (p *person) principal(account string) tenant.Principal {
	return tenant.Principal{AccountID: account, UserID: p.row.ID, UserName: p.row.Name, Role: p.row.Role}
}

// may says whether a person has a session of a Security Administrator.
func (p *person) may() bool { return !p.deleted && slices.Contains(approvers, string(p.row.Role)) }

// Whatever people do, in whatever order, keys leave the broker only when as many different Security Administrators stand
// behind it as the account wants, now and when it was asked for, all within the day; once; and never by the way that is
// meant for one person.
func TestExport_noKeyLeavesWithoutEnoughPeople(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 5, 0, 0, 0, time.UTC)
	clock := func() time.Time { now = now.Add(time.Microsecond); return now }
	st := storetest.Open(t, storetest.SQLite(t), clock)
	root, err := keystore.CreateRootFile(filepath.Join(t.TempDir(), "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	hub := &feed.Hub{}
	s := New(Deps{Store: st, Feed: hub, Root: root, Recovery: recovery.New(recovery.Deps{Store: st, Feed: hub, Root: root})})
	s.archive = func(keystore.Root, time.Time, keystore.AccountKey, []inventory.Chosen, string) ([]byte, error) {
		return []byte("archive"), nil
	}
	direct := inventory.New(inventory.Deps{Store: st, Feed: hub, Root: root, Clock: clock})
	left, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, st: st, s: s, direct: direct, clock: &now}
		m.site(root)
		if rapid.Bool().Draw(t, "agreed") { // few would get so far by chance
			for _, p := range m.people[1:m.needed[0]] {
				m.do("approve", p)
			}
		}
		atOnce := rapid.Bool().Draw(t, "fetched at once")
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			next := m.step
			if atOnce {
				next = func() string { return m.do("fetch", m.asker) }
			}
			atOnce = false
			switch next() {
			case "left":
				left++
				return
			case "refused":
				refused++
			case "over":
				return
			}
		}
	})
	if left == 0 || refused == 0 {
		t.Errorf("%d exports left and %d were refused: the test shows nothing", left, refused)
	}
}

// site makes an account with people, a device with a key, and one export that was asked for.
func (m *model) site(root keystore.Root) {
	needed := rapid.Int64Range(2, 4).Draw(m.t, "needed")
	m.needed = []int64{needed, needed}
	account := store.Account{Name: "a" + m.clock.String(), TimeZone: "UTC", DateFormat: "x", KeyGeneration: 1, ExportPeople: needed}
	err := m.st.Tx(context.Background(), func(tx *store.Tx) error {
		account.ID = "account-" + time.Duration(m.clock.UnixNano()).String()
		key, err := keystore.NewAccountKey(root, account.ID)
		if err != nil {
			return err
		}
		account.WrappedKey, account.RootKeyID = key.Wrapped, key.RootKeyID
		if err := store.Global[store.Account](tx).Insert(&account); err != nil {
			return err
		}
		m.account = account.ID
		t := tx.Tenant(account.ID)
		for i := range 5 {
			p := &person{row: store.User{Name: string(rune('a' + i)), Role: api.RoleSecurityAdmin, PasswordHash: "x"}}
			if err := store.In[store.User](t).Insert(&p.row); err != nil {
				return err
			}
			m.people = append(m.people, p)
		}
		m.asker = m.people[0]
		m.device = store.Device{Provider: "native", Identity: "d", Name: "d", Size: 1 << 30, Status: api.DeviceEncrypted, KeyBits: 128,
			Volume: &api.VolumeRecord{UUID: "2f6d9a58-3f55-4c0e-9d3a-6f1f5f6a7b21", Cipher: api.CipherXTS, KeyBits: 128, SectorSize: 512, DataOffset: 16 << 20, DataSize: 1 << 29,
				DigestSalt: make([]byte, 32), DigestIterations: 1000, Digest: make([]byte, 32), HeaderHash: make([]byte, 32), Broker: "b", Account: account.ID, Device: "d"}}
		if err := store.In[store.Device](t).Insert(&m.device); err != nil {
			return err
		}
		_, err = inventory.NewKey(t, root, m.device)
		return err
	})
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	e, err := m.s.Ask(context.Background(), m.asker.principal(m.account), api.KeyExportWrite{DeviceIDs: []string{m.device.ID}, Reason: "why"})
	if err != nil {
		m.t.Fatalf("%v", err)
	}
	m.export = e.ID
}

// step does one thing and says what came of it.
func (m *model) step() string {
	who := rapid.SampledFrom(m.people).Draw(m.t, "who")
	what := rapid.SampledFrom([]string{"approve", "approve", "approve", "approve", "fetch", "fetch", "direct", "role", "delete", "wait", "setting", "deny"})
	return m.do(what.Draw(m.t, "what"), who)
}

func (m *model) do(what string, who *person) string {
	ctx := context.Background()
	p := who.principal(m.account)
	switch what {
	case "approve":
		if !who.may() {
			return "" // no session, or the route refuses the role
		}
		if _, err := m.s.Approve(ctx, p, m.export, api.Decision{}); err == nil {
			who.agreed = *m.clock
		}
	case "fetch":
		if !who.may() {
			return ""
		}
		var out bytes.Buffer
		if err := m.s.Fetch(ctx, p, m.export, api.KeyExportFetch{Passphrase: "correct horse battery"}, &out); err != nil {
			if out.Len() > 0 {
				m.t.Fatal("keys left with an error")
			}
			return "refused"
		}
		m.judge(who)
		if err := m.s.Fetch(ctx, p, m.export, api.KeyExportFetch{Passphrase: "correct horse battery"}, &out); err == nil {
			m.t.Fatal("the same export left twice")
		}
		return "left"
	case "direct":
		var out bytes.Buffer
		err := m.direct.Export(ctx, p, api.ExportWrite{DeviceIDs: []string{m.device.ID}, Passphrase: "correct horse battery"}, &out)
		if who.may() && err == nil && m.needed[1] > 1 {
			m.t.Fatal("one person exported alone")
		}
	case "role":
		if !who.deleted {
			who.row.Role = rapid.SampledFrom([]api.Role{api.RoleSecurityAdmin, api.RoleAuditor}).Draw(m.t, "role")
			m.in(func(t *store.Tenant) error { return store.In[store.User](t).Update(&who.row) })
		}
	case "delete":
		if !who.deleted {
			who.deleted = true
			m.in(func(t *store.Tenant) error { return store.In[store.User](t).Delete(who.row.ID) })
		}
	case "wait":
		*m.clock = m.clock.Add(time.Duration(rapid.IntRange(1, 20).Draw(m.t, "hours")) * time.Hour)
	case "setting":
		n := rapid.Int64Range(1, 4).Draw(m.t, "needed now")
		if m.s.SetSettings(ctx, tenant.Principal{AccountID: m.account, Operator: true}, api.ExportSettings{People: n}) == nil {
			m.needed[1] = n
		}
	case "deny":
		if who.may() && who != m.asker {
			if _, err := m.s.Deny(ctx, p, m.export, api.Decision{}); err == nil {
				return "over"
			}
		}
	}
	return ""
}

// judge counts who stands behind an export that left.
func (m *model) judge(fetched *person) {
	if fetched != m.asker {
		m.t.Fatalf("%s fetched what %s asked for", fetched.row.Name, m.asker.row.Name)
	}
	behind := int64(1)
	for _, p := range m.people {
		if p != m.asker && p.may() && !p.agreed.IsZero() && m.clock.Sub(p.agreed) < approval.Life {
			behind++
		}
	}
	if behind < slices.Max(m.needed) {
		m.t.Fatalf("keys left with %d of %d people behind it", behind, slices.Max(m.needed))
	}
}
