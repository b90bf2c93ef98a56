package preview_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/preview"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
	"keyward/broker/internal/tenant"
)

// site is an account with one policy that wants port 80 closed, a machine and a device in it.
type site struct {
	store  *store.Store
	p      tenant.Principal
	policy api.Policy
	image  string
	inst   store.Instance
	device store.Device
}

func newSite(t *testing.T, st *store.Store) *site {
	t.Helper()
	s := &site{store: st, p: tenant.Principal{UserName: "ann", Role: api.RoleAccountAdmin}}
	err := st.Tx(t.Context(), func(tx *store.Tx) error {
		a := store.Account{Name: "Acme", TimeZone: "UTC", WrappedKey: []byte{1}}
		if err := store.Global[store.Account](tx).Insert(&a); err != nil {
			return err
		}
		s.p.AccountID = a.ID
		tn := tx.Tenant(a.ID)
		if err := policyset.Prepare(tn); err != nil {
			return err
		}
		img := store.Image{Provider: "native", Identity: "img", Name: "img"}
		if err := store.In[store.Image](tn).Insert(&img); err != nil {
			return err
		}
		s.image = img.ID
		s.inst = store.Instance{Provider: "native", Identity: "m", HostName: "db1", ImageID: img.ID, CertFingerprint: make([]byte, 32), FirstSeenAt: tx.Now(),
			Evidence: ports(tx.Now(), "22")}
		if err := store.In[store.Instance](tn).Insert(&s.inst); err != nil {
			return err
		}
		home, err := policyset.Default(tn)
		if err != nil {
			return err
		}
		s.device = s.newDevice("data", home.ID)
		return store.In[store.Device](tn).Insert(&s.device)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.policy = api.Policy{Name: "web", OnMatch: api.ActionApprove, OnFailure: api.ActionDeny, LeaseSeconds: 60, HeartbeatSeconds: 10, RevokeMode: api.RevokeUnmount,
		ImageIDs: []string{s.image}, DeviceIDs: []string{s.device.ID}, Rules: []api.Rule{{Fact: api.FactTCPPorts, Match: api.MatchAll,
			Conditions: []api.Condition{{Operator: api.OpLacks, Value: "80"}}}}}
	if s.policy, err = policyset.New(st, &feed.Hub{}).Create(t.Context(), s.p, s.policy); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) newDevice(name, policy string) store.Device {
	return store.Device{Provider: "native", Identity: name, Name: name, Status: api.DeviceEncrypted, PolicyID: policy, InstanceID: s.inst.ID,
		HomeInstanceID: s.inst.ID, ImageID: s.image, Access: api.AccessReadWrite, KeyBits: 256, Volume: &api.VolumeRecord{UUID: "x"}}
}

func ports(at time.Time, values ...string) api.Evidence {
	return api.Evidence{CollectedAt: at, Facts: []api.Fact{{Name: api.FactTCPPorts, Values: values, Source: "test", Grade: api.GradeSelfReported, At: at}}}
}

// ask stores requests as they would have been answered, one a minute up to now: every fourth had port 80 open.
func (s *site) ask(t *testing.T, n int) {
	t.Helper()
	for from := 0; from < n; from += 500 {
		err := s.store.Tx(t.Context(), func(tx *store.Tx) error {
			tn := tx.Tenant(s.p.AccountID)
			for i := from; i < min(n, from+500); i++ {
				status, action, open := api.KeyApproved, api.ActionApprove, "22"
				if i%4 == 0 {
					status, action, open = api.KeyDenied, api.ActionDeny, "80"
				}
				r := store.KeyRequest{Number: int64(i + 1), DeviceID: s.device.ID, InstanceID: s.inst.ID, ImageID: s.image, PolicyID: s.policy.ID, Status: status,
					Integrity: api.IntegrityGood, Verdict: api.Verdict{Action: action, Integrity: api.IntegrityGood}, Evidence: ports(tx.Now(), open),
					Observed: keyrequest.Observed(s.inst, "192.0.2.7", tx.Now())}
				if err := store.In[store.KeyRequest](tn).Insert(&r); err != nil {
					return err
				}
				if err := store.In[store.KeyRequestEvent](tn).Insert(&store.KeyRequestEvent{RequestID: r.ID, ToStatus: status, Event: string(keyrequest.EventAsked), Actor: "instance:x"}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A replay of ten thousand requests is whole, lists at most 200 differences, and holds a part of them at a time.
func TestReplay_tenThousandRequests(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		n := int64(10_000)
		if strings.HasSuffix(t.Name(), "postgres") {
			n = 2_000 // filling it takes most of the test's time, and the queries are the same
		}
		s := newSite(t, st)
		s.ask(t, int(n))
		service := preview.New(st)
		service.Limit = 10 * time.Minute
		draft := s.policy
		draft.Rules = []api.Rule{{Fact: api.FactTCPPorts, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpLacks, Value: "22"}}}}
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		got, err := service.Replay(t.Context(), s.p, draft, 30)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d requests in %s", n, time.Since(began).Round(time.Millisecond))
		runtime.GC()
		runtime.ReadMemStats(&after)
		if got.Requests != n || got.Then.Denied != n/4 || got.Then.Approved != n*3/4 || got.Now.Denied != n*3/4 || got.Now.Approved != n/4 ||
			got.Different != n || len(got.Rows) != 200 || got.Omitted != n-200 || got.Unseen {
			t.Errorf("replayed %d requests, then %+v, now %+v, %d differ, %d listed, %d not", got.Requests, got.Then, got.Now, got.Different, len(got.Rows), got.Omitted)
		}
		if got.Rows[0].Number != n || got.Rows[199].Number != n-199 {
			t.Errorf("listed are %d to %d: the newest come first", got.Rows[0].Number, got.Rows[199].Number)
		}
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
			t.Errorf("the heap grew by %d MiB", grown>>20)
		}
	})
}

// When the time is over a replay and a preview say what they have not seen.
func TestService_saysWhatItHasNotSeen(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newSite(t, st)
		s.ask(t, 1200)
		service := preview.New(st)
		service.Limit = 0
		got, err := service.Replay(t.Context(), s.p, s.policy, 30)
		if err != nil || !got.Unseen || got.Requests == 0 || got.Requests == 1200 {
			t.Errorf("replayed %d, unseen %v: %v", got.Requests, got.Unseen, err)
		}
		seen, err := service.Policy(t.Context(), s.p, s.policy)
		if err != nil || seen.Unseen != 1 || len(seen.Rows) != 0 {
			t.Errorf("previewed %+v: %v", seen, err)
		}
		if _, err := service.Replay(t.Context(), s.p, s.policy, 31); err == nil {
			t.Error("31 days are replayed")
		}
		draft := s.policy
		draft.ID = "0197f1f0-0000-7000-8000-000000000000"
		if _, err := service.Policy(t.Context(), s.p, draft); err == nil {
			t.Error("a policy that is not there is previewed")
		}
	})
}

// A preview of many devices is read in parts, and counts all of them.
func TestPreview_manyDevices(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newSite(t, st)
		err := st.Tx(t.Context(), func(tx *store.Tx) error {
			tn := tx.Tenant(s.p.AccountID)
			for i := range 450 {
				d := s.newDevice(fmt.Sprintf("d%03d", i), s.policy.ID)
				if err := store.In[store.Device](tn).Insert(&d); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		draft := s.policy
		draft.DeviceIDs, draft.ImageIDs = nil, nil // as they are
		draft.Rules = []api.Rule{{Fact: api.FactTCPPorts, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpLacks, Value: "22"}}}}
		service := preview.New(st)
		service.Limit = time.Minute
		got, err := service.Policy(t.Context(), s.p, draft)
		if err != nil || got.Before.Approved != 451 || got.After.Denied != 451 || got.Changed != 451 || len(got.Rows) != 200 || got.Omitted != 251 {
			t.Errorf("before %+v after %+v, %d listed: %v", got.Before, got.After, len(got.Rows), err)
		}
		if !slices.IsSortedFunc(got.Rows, func(a, b api.PreviewRow) int { return compare(a.DeviceName, b.DeviceName) }) {
			t.Error("rows of one rank are not in the order of their names")
		}
	})
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// A device on a machine is judged by what a real request of it would be judged by, and leads where the request would.
func TestJudge_isWhatARealRequestGets(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	seen := now.Add(-time.Minute)
	policy := func(change func(*api.Policy)) api.Policy {
		p := api.Policy{ID: "p", Name: "web", OnMatch: api.ActionApprove, OnFailure: api.ActionDeny, ImageIDs: []string{"i"}, DeviceIDs: []string{"d"},
			Rules: []api.Rule{{Fact: api.FactTCPPorts, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpLacks, Value: "80"}}}}}
		if change != nil {
			change(&p)
		}
		return p
	}
	request := func(status api.KeyStatus, open string) *store.KeyRequest {
		return &store.KeyRequest{Status: status, Integrity: api.IntegrityGood, Evidence: ports(seen, open)}
	}
	checks := func(grace int64) func(*api.Policy) {
		return func(p *api.Policy) {
			p.CheckEnabled, p.OnCheckFailure, p.PostponeSeconds = true, api.CheckRevoke, grace
		}
	}
	accepted := func(r *store.KeyRequest) *store.KeyRequest {
		r.Accepted = []string{"listening_tcp_ports  does not contain 80"}
		return r
	}
	for name, c := range map[string]struct {
		policy  api.Policy
		request *store.KeyRequest
		beat    *api.Evidence
		ask     string
		want    api.Outcome
	}{
		"all rules hold":                        {policy(nil), request(api.KeyPending, "22"), nil, "", api.OutcomeApproved},
		"a rule fails":                          {policy(nil), request(api.KeyPending, "80"), nil, "", api.OutcomeDenied},
		"a rule fails, a person decides":        {policy(func(p *api.Policy) { p.OnFailure = api.ActionManual }), request(api.KeyPending, "80"), nil, "", api.OutcomeWaits},
		"approved after a time":                 {policy(func(p *api.Policy) { p.OnMatch, p.ApproveAfterSeconds = api.ActionManual, 60 }), request(api.KeyPending, "22"), nil, "", api.OutcomeWaits},
		"a person has the last word":            {policy(nil), request(api.KeyDenied, "22"), nil, "denied before", api.OutcomeWaits},
		"denied, whoever has the last word":     {policy(nil), request(api.KeyDenied, "80"), nil, "denied before", api.OutcomeDenied},
		"no rules":                              {policy(func(p *api.Policy) { p.Rules = nil }), request(api.KeyPending, "22"), nil, "", api.OutcomeWaits},
		"its image is in no policy":             {policy(func(p *api.Policy) { p.ImageIDs = nil }), request(api.KeyPending, "22"), nil, "", api.OutcomeWaits},
		"holds the key, complies":               {policy(nil), request(api.KeyDelivered, "22"), nil, "", api.OutcomeKeeps},
		"holds the key, does not comply":        {policy(checks(0)), request(api.KeyDelivered, "80"), nil, "", api.OutcomeRevoked},
		"the same with a grace":                 {policy(checks(600)), request(api.KeyDelivered, "80"), nil, "", api.OutcomeRevokedLater},
		"the same, and people are told":         {policy(func(p *api.Policy) { p.CheckEnabled = true }), request(api.KeyDelivered, "80"), nil, "", api.OutcomeKeeps},
		"the same without checks":               {policy(nil), request(api.KeyDelivered, "80"), nil, "", api.OutcomeKeeps},
		"it failed when it was approved":        {policy(checks(0)), accepted(request(api.KeyDelivered, "80")), nil, "", api.OutcomeKeeps},
		"holds the key, a person ignored that":  {policy(checks(0)), request(api.KeyRevokeIgnored, "80"), nil, "", api.OutcomeKeeps},
		"holds the key, image in no policy":     {policy(func(p *api.Policy) { checks(0)(p); p.ImageIDs = nil }), request(api.KeyDelivered, "22"), nil, "", api.OutcomeKeeps},
		"a heartbeat is newer than the request": {policy(checks(0)), request(api.KeyDelivered, "22"), evidence(seen.Add(time.Second), "80"), "", api.OutcomeRevoked},
		"a request is newer than the heartbeat": {policy(nil), request(api.KeyDelivered, "22"), evidence(seen.Add(-time.Second), "80"), "", api.OutcomeKeeps},
		"never asked, but reported":             {policy(nil), nil, evidence(seen, "22"), "", api.OutcomeApproved},
		"never reported":                        {policy(nil), nil, nil, "", api.OutcomeUnknown},
	} {
		sub := preview.Subject{Device: store.Device{Base: store.Base{ID: "d"}, ImageID: "i"}, Instance: store.Instance{Base: store.Base{ID: "m"}, ImageID: "i"},
			Request: c.request, AskPerson: c.ask}
		if c.beat != nil {
			sub.Instance.Evidence = *c.beat
		}
		got := preview.NewWorld([]api.Policy{c.policy}).Judge(sub, now)
		if got.Outcome != c.want || got.Reason == "" {
			t.Errorf("%s: %s (%s), want %s", name, got.Outcome, got.Reason, c.want)
		}
	}
}

func evidence(at time.Time, open string) *api.Evidence {
	e := ports(at, open)
	return &e
}

// Facts of the device come from its own request, also when a heartbeat that described another device is newer.
func TestJudge_factsOfTheDeviceAreItsOwn(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	p := api.Policy{ID: "p", Name: "web", OnMatch: api.ActionApprove, OnFailure: api.ActionDeny, ImageIDs: []string{"i"}, DeviceIDs: []string{"d"},
		Rules: []api.Rule{{Fact: api.FactMountPoint, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "/mnt/own"}}}}}
	mount := func(at time.Time, path string) api.Evidence {
		return api.Evidence{CollectedAt: at, Facts: []api.Fact{{Name: api.FactMountPoint, Values: []string{path}}}}
	}
	sub := preview.Subject{Device: store.Device{Base: store.Base{ID: "d"}}, Instance: store.Instance{ImageID: "i", Evidence: mount(now, "/mnt/other")},
		Request: &store.KeyRequest{Status: api.KeyPending, Evidence: mount(now.Add(-time.Hour), "/mnt/own")}}
	if got := preview.NewWorld([]api.Policy{p}).Judge(sub, now); got.Outcome != api.OutcomeApproved {
		t.Errorf("%+v", got)
	}
}

func TestWorld_membersMoveAsTheyAreSaved(t *testing.T) {
	t.Parallel()
	w := preview.NewWorld([]api.Policy{
		{ID: "home", Default: true, DeviceIDs: []string{"d3"}},
		{ID: "a", DeviceIDs: []string{"d1"}}, {ID: "b", DeviceIDs: []string{"d2"}},
	})
	for name, c := range map[string]struct {
		after preview.World
		want  []string
	}{
		"nothing left out, nothing added": {w.With(api.Policy{ID: "a"}), []string{"d1"}},
		"a device leaves":                 {w.With(api.Policy{ID: "a", DeviceIDs: []string{}}), []string{"d1"}},
		"a device is taken from another":  {w.With(api.Policy{ID: "a", DeviceIDs: []string{"d1", "d2"}}), []string{"d1", "d2"}},
		"a device comes from the default": {w.With(api.Policy{ID: "b", DeviceIDs: []string{"d3"}}), []string{"d2", "d3"}},
		"the default is saved":            {w.With(api.Policy{ID: "home", DeviceIDs: []string{"d1"}}), []string{"d3"}},
		"a policy goes":                   {w.Without("a"), []string{"d1"}},
	} {
		var got []string
		for _, d := range []string{"d1", "d2", "d3"} {
			if c.after.Affects(w, d) {
				got = append(got, d)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s touches %v, want %v", name, got, c.want)
		}
	}
}

// A request for a RAID set names its first member; the policies name the set.
func TestWorld_aRAIDSetStandsThereByItsFirstMember(t *testing.T) {
	t.Parallel()
	w := preview.NewWorld([]api.Policy{{ID: "home", Default: true}, {ID: "a", DeviceIDs: []string{"set"}}, {ID: "b"}}).Striped(map[string]string{"first": "set"})
	for name, c := range map[string]struct {
		after preview.World
		want  bool
	}{
		"its policy is saved":     {w.With(api.Policy{ID: "a"}), true},
		"it leaves its policy":    {w.With(api.Policy{ID: "a", DeviceIDs: []string{}}), true},
		"another takes it":        {w.With(api.Policy{ID: "b", DeviceIDs: []string{"set"}}), true},
		"its policy goes":         {w.Without("a"), true},
		"another policy is saved": {w.With(api.Policy{ID: "b"}), false},
		"the default is saved":    {w.With(api.Policy{ID: "home"}), false},
		"nothing is saved":        {w, false},
	} {
		if got := c.after.Affects(w, "first"); got != c.want {
			t.Errorf("%s: affected %v, want %v", name, got, c.want)
		}
	}
}

// A key that another machine holds read-write would be refused to this one; a resource pool looks for another device.
func TestJudge_aDeviceInUseElsewhere(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		access api.Access
		pool   bool
		want   api.Outcome
	}{
		"read-write":    {api.AccessReadWrite, false, api.OutcomeDenied},
		"resource pool": {api.AccessReadWrite, true, api.OutcomeWaits},
		"read-only":     {api.AccessReadOnly, false, api.OutcomeApproved},
	} {
		p := api.Policy{ID: "p", Name: "web", OnMatch: api.ActionApprove, OnFailure: api.ActionDeny, ImageIDs: []string{"i"}, DeviceIDs: []string{"d"}, ResourcePool: c.pool,
			Rules: []api.Rule{{Fact: api.FactTCPPorts, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpLacks, Value: "80"}}}}}
		sub := preview.Subject{Device: store.Device{Base: store.Base{ID: "d"}, Access: c.access}, Instance: store.Instance{ImageID: "i", Evidence: ports(now, "22")}, InUse: "db2"}
		if got := preview.NewWorld([]api.Policy{p}).Judge(sub, now); got.Outcome != c.want {
			t.Errorf("%s: %s (%s), want %s", name, got.Outcome, got.Reason, c.want)
		}
	}
}
