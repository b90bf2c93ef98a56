package keyrequest

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"keyward/broker/api"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

// person is a user of the model.
type person struct {
	row      store.User
	deleted  bool
	approved time.Time // the newest approval of the request at hand
}

// approvalModel runs one request through what people may do to it, beside what may come of that.
type approvalModel struct {
	t        *rapid.T
	st       *store.Store
	s        *Service
	account  string
	clock    *time.Time
	people   []*person
	policy   string
	device   string
	request  string
	needed   []int64 // at the time of asking, and now
	separate []bool
	involved string
}

// in runs f in a transaction of the account.
func (m *approvalModel) in(f func(*store.Tenant) error) {
	m.t.Helper()
	if err := m.st.Tx(context.Background(), func(tx *store.Tx) error { return f(tx.Tenant(m.account)) }); err != nil {
		m.t.Fatalf("%v", err)
	}
}

// Whatever people do, in whatever order, a pending request is approved only when as many people as it needs stand behind
// it: different users, who exist, may approve, did so within the day, and did not bring it about.
func TestApproval_noKeyWithoutThePolicyOrEnoughPeople(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Microsecond)
	st := storetest.Open(t, storetest.SQLite(t), func() time.Time { now = now.Add(time.Microsecond); return now })
	s := &Service{Deps: Deps{Store: st, Feed: &feed.Hub{}, Logger: slog.New(slog.DiscardHandler)}, began: now}
	approved := 0
	rapid.Check(t, func(t *rapid.T) {
		m := &approvalModel{t: t, st: st, s: s, clock: &now}
		m.site()
		for range rapid.IntRange(1, 14).Draw(t, "steps") {
			if m.step() {
				approved++
				return
			}
		}
	})
	if approved == 0 {
		t.Error("no request was approved: the test shows nothing")
	}
}

// site makes an account with people, a policy and one pending request.
func (m *approvalModel) site() {
	needed, separate := rapid.Int64Range(1, 3).Draw(m.t, "needed"), rapid.Bool().Draw(m.t, "separate")
	m.needed, m.separate = []int64{needed, needed}, []bool{separate, separate}
	err := m.st.Tx(context.Background(), func(tx *store.Tx) error {
		a := store.Account{Name: "a" + time.Duration(m.clock.UnixNano()).String(), TimeZone: "UTC", DateFormat: "x", WrappedKey: []byte{1}, RootKeyID: "r", KeyGeneration: 1}
		if err := store.Global[store.Account](tx).Insert(&a); err != nil {
			return err
		}
		m.account = a.ID
		t := tx.Tenant(a.ID)
		for i, role := range []api.Role{api.RoleKeyApprover, api.RoleKeyApprover, api.RoleAccountAdmin, api.RoleAccountAdmin, api.RoleAuditor} {
			p := &person{row: store.User{Name: string(role) + string(rune('a'+i)), Role: role, PasswordHash: "x"}}
			if err := store.In[store.User](t).Insert(&p.row); err != nil {
				return err
			}
			m.people = append(m.people, p)
		}
		m.involved = m.people[2].row.ID
		return m.rows(t, needed, separate)
	})
	if err != nil {
		m.t.Fatalf("%v", err)
	}
}

func (m *approvalModel) rows(t *store.Tenant, needed int64, separate bool) error {
	img := store.Image{Provider: "native", Identity: "i", Name: "i"}
	pol := store.Policy{Name: "p", IsDefault: true, OnMatch: api.ActionManual, OnFailure: api.ActionManual, LeaseSeconds: 60, HeartbeatSeconds: 10,
		RevokeMode: api.RevokeUnmount, ApprovalsNeeded: needed, SeparateApprover: separate}
	if err := store.In[store.Image](t).Insert(&img); err != nil {
		return err
	}
	if err := store.In[store.Policy](t).Insert(&pol); err != nil {
		return err
	}
	inst := store.Instance{Provider: "native", Identity: "i", HostName: "h", ImageID: img.ID, EnrolledBy: m.involved}
	if err := store.In[store.Instance](t).Insert(&inst); err != nil {
		return err
	}
	d := store.Device{Provider: "native", Identity: "d", Name: "d", Status: api.DeviceEncrypted, Access: api.AccessReadWrite, KeyBits: 256,
		PolicyID: pol.ID, InstanceID: inst.ID, Volume: &api.VolumeRecord{UUID: "u"}}
	if err := store.In[store.Device](t).Insert(&d); err != nil {
		return err
	}
	ends := t.Now().Add(30 * 24 * time.Hour)
	r := store.KeyRequest{Number: 1, DeviceID: d.ID, InstanceID: inst.ID, ImageID: img.ID, PolicyID: pol.ID, Status: api.KeyPending,
		Integrity: api.IntegrityGood, PublicKey: []byte{1}, ApprovalsNeeded: needed, SeparateApprover: separate, ExpiresAt: &ends}
	m.policy, m.device = pol.ID, d.ID
	err := store.In[store.KeyRequest](t).Insert(&r)
	m.request = r.ID
	return err
}

// step does one thing and reports whether the request is over.
func (m *approvalModel) step() bool {
	who := rapid.SampledFrom(m.people).Draw(m.t, "who")
	p := tenant.Principal{AccountID: m.account, UserID: who.row.ID, UserName: who.row.Name, Role: who.row.Role}
	switch rapid.SampledFrom([]string{"approve", "approve", "approve", "approve", "role", "delete", "wait", "policy", "deny"}).Draw(m.t, "what") {
	case "approve":
		if who.deleted || !slices.Contains(approvers, string(who.row.Role)) {
			return false // no session, or the route refuses the role
		}
		err := m.s.Approve(context.Background(), p, m.request, api.Decision{})
		if err == nil {
			who.approved = *m.clock
		} else if m.fit(who) && m.clock.Sub(who.approved) > approval.Life {
			m.t.Fatalf("an approval that counts was refused: %v", err)
		}
	case "role":
		role := rapid.SampledFrom([]api.Role{api.RoleKeyApprover, api.RoleAccountAdmin, api.RoleAuditor}).Draw(m.t, "role")
		if !who.deleted {
			who.row.Role = role
			m.in(func(t *store.Tenant) error { return store.In[store.User](t).Update(&who.row) })
		}
	case "delete":
		if !who.deleted {
			who.deleted = true
			m.in(func(t *store.Tenant) error { return store.In[store.User](t).Delete(who.row.ID) })
		}
	case "wait":
		*m.clock = m.clock.Add(time.Duration(rapid.IntRange(1, 20).Draw(m.t, "hours")) * time.Hour)
	case "policy":
		m.needed[1], m.separate[1] = rapid.Int64Range(1, 3).Draw(m.t, "needed now"), rapid.Bool().Draw(m.t, "separate now")
		m.in(func(t *store.Tenant) error {
			pol, err := store.In[store.Policy](t).Get(m.policy)
			if err != nil {
				return err
			}
			pol.ApprovalsNeeded, pol.SeparateApprover = m.needed[1], m.separate[1]
			return store.In[store.Policy](t).Update(&pol)
		})
	case "deny":
		if err := m.s.Deny(context.Background(), p, m.request, api.Decision{}); err != nil {
			m.t.Fatalf("deny: %v", err)
		}
	}
	return m.judge()
}

// fit says whether a person's word counts.
func (m *approvalModel) fit(p *person) bool {
	return !p.deleted && slices.Contains(approvers, string(p.row.Role)) && !(slices.Contains(m.separate, true) && p.row.ID == m.involved)
}

func (m *approvalModel) judge() bool {
	var r store.KeyRequest
	m.in(func(t *store.Tenant) error {
		var err error
		r, err = store.In[store.KeyRequest](t).Get(m.request)
		return err
	})
	behind := 0
	for _, p := range m.people {
		if m.fit(p) && !p.approved.IsZero() && m.clock.Sub(p.approved) < approval.Life {
			behind++
		}
	}
	if r.Status == api.KeyApproved && int64(behind) < slices.Max(m.needed) {
		m.t.Fatalf("approved with %d of %d people behind it", behind, slices.Max(m.needed))
	}
	return r.Status != api.KeyPending
}
