package httpapi_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/keyrequest"
)

// checking is a policy that wants port 80 closed and looks again.
func checking(name string, in api.Policy) api.Policy {
	p := noPort80(name)
	p.CheckEnabled, p.CheckEveryHeartbeat = true, in.CheckEveryHeartbeat
	p.OnCheckFailure, p.PostponeSeconds, p.MissingAfterSeconds = in.OnCheckFailure, in.PostponeSeconds, in.MissingAfterSeconds
	return p
}

// says sends a heartbeat of a machine that listens on ports.
func (b *box) says(nonce string, check bool, ports []string, held ...*asked) api.HeartbeatResponse {
	b.t.Helper()
	in := api.Heartbeat{Evidence: b.evidence(nonce, ports...), Held: []api.HeldKey{}, Time: b.now(), Check: check}
	for _, a := range held {
		in.Held = append(in.Held, api.HeldKey{RequestID: a.ID, DeviceID: a.DeviceID, Mounted: true})
		in.Devices = append(in.Devices, api.DeviceFacts{DeviceID: a.DeviceID, Facts: []api.Fact{{Name: api.FactMountPoint, Values: []string{"/mnt/data"}, Source: "test", Grade: api.GradeSelfReported, At: b.now()}}})
	}
	return must[api.HeartbeatResponse](b.t)(b.Heartbeat(b.t.Context(), in))
}

func (o *org) notices() []api.Notice {
	o.t.Helper()
	var out api.NoticeList
	if err := o.approver.Do(o.t.Context(), http.MethodGet, "/api/v1/notices", nil, &out); err != nil {
		o.t.Fatal(err)
	}
	return out.Notices
}

func (o *org) noticed(kind string) int {
	o.t.Helper()
	n := 0
	for _, note := range o.notices() {
		if note.Kind == kind {
			n++
		}
	}
	return n
}

func (o *org) schedule(in api.CheckSettings) api.CheckSchedule {
	o.t.Helper()
	var out api.CheckSchedule
	if err := o.admin.Do(o.t.Context(), http.MethodPut, "/api/v1/integrity-settings", in, &out); err != nil {
		o.t.Fatal(err)
	}
	return out
}

func (b *box) hasCommand(kind api.CommandKind) bool {
	b.t.Helper()
	list := must[api.CommandList](b.t)(b.Commands(b.t.Context(), 0))
	return slices.ContainsFunc(list.Commands, func(c api.Command) bool { return c.Kind == kind })
}

var open80, closed80 = []string{"22", "80"}, []string{"22"}

// held is a machine with a mounted volume under a policy.
func held(o *org, host string, p api.Policy) (*box, *asked) {
	o.t.Helper()
	b := o.machine(host)
	d, _ := b.encrypted("data-" + host)
	o.policy(p, d)
	return b, b.ask(d.ID, closed80...).mounted()
}

// J-08: port 80 is not allowed; it is opened after delivery; the next heartbeat's check takes the key.
func TestCheck_everyHeartbeatRevokesAtOnceAndGivesBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, a := held(o, "web", checking("web", api.Policy{CheckEveryHeartbeat: true, OnCheckFailure: api.CheckRevoke}))
		if got := b.says("", false, closed80, a); len(got.Leases) != 1 || len(got.Checked) != 1 || got.Checked[0].Integrity != api.IntegrityGood {
			t.Fatalf("a machine that complies: %+v", got)
		}
		first := a.is(api.KeyDelivered)
		got := b.says("", false, open80, a)
		if len(got.Leases) != 0 || len(got.Commands) != 1 || got.Commands[0].Kind != api.CommandRevoke {
			t.Fatalf("the answer to a failed check: %+v", got)
		}
		d := a.is(api.KeyRevoking)
		eq(t, "integrity", d.Integrity, api.IntegrityFailed)
		if !strings.Contains(d.Reason, "22, 80") || !strings.Contains(d.Reason, "does not contain 80") {
			t.Errorf("the reason does not name the offending condition: %s", d.Reason)
		}
		if d.Since.Before(first.Since) || d.CheckedAt == nil {
			t.Errorf("since %v, checked %v", d.Since, d.CheckedAt)
		}
		eq(t, "notices", o.noticed("integrity-failed"), 1)
		eq(t, "log", len(o.events("integrity.failed")), 1)
		a.report(api.EventSuspended)
		d = a.is(api.KeyRevoked)
		if d.RetryUntil == nil {
			t.Fatal("the key is not given again")
		}
		b.says("", false, open80)
		a.is(api.KeyRevoked)
		b.says("", false, closed80)
		a.is(api.KeyApproved)
		eq(t, "approved again", len(o.events("key-request.approved-again")), 1)
		a.collect()
		a.report(api.EventMounted).is(api.KeyDelivered)
		if n := o.events("key-request.delivered"); len(n) != 2 {
			t.Errorf("%d deliveries", len(n))
		}
	})
}

// Once in a session: without checks enabled a delivered key is not judged again, also not when somebody asks; people are told.
func TestCheck_withoutItEnabledNothingIsTaken(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, a := held(o, "web", noPort80("web"))
		if got := b.says("", false, open80, a); len(got.Checked) != 0 || len(got.Leases) != 1 {
			t.Fatalf("judged without being enabled: %+v", got)
		}
		eq(t, "integrity", a.is(api.KeyDelivered).Integrity, api.IntegrityGood)
		got := b.says("", true, open80, a)
		if len(got.Checked) != 1 || got.Checked[0].Integrity != api.IntegrityFailed || len(got.Leases) != 1 {
			t.Fatalf("asked for: %+v", got)
		}
		eq(t, "integrity", a.is(api.KeyDelivered).Integrity, api.IntegrityFailed)
		eq(t, "notices", o.noticed("integrity-failed"), 1)
		b.says("", true, open80, a)
		eq(t, "notices of the same failure", o.noticed("integrity-failed"), 1)
		b.says("", true, closed80, a)
		eq(t, "integrity", a.is(api.KeyDelivered).Integrity, api.IntegrityGood)
	})
}

// The grace: a warning with a time, in which the machine may comply or a person may ignore it; then the key goes.
func TestCheck_graceWarnsThenTakes(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		policy := checking("web", api.Policy{CheckEveryHeartbeat: true, OnCheckFailure: api.CheckRevoke, PostponeSeconds: 40})
		b, a := held(o, "web", policy)
		got := b.says("", false, open80, a)
		if len(got.Leases) != 1 || got.Leases[0].Status != api.KeyRevokePending || got.Leases[0].RevokeAt == nil || got.Leases[0].Reason == "" {
			t.Fatalf("the machine is not warned: %+v", got.Leases)
		}
		if d := a.is(api.KeyRevokePending); d.RevokeDueAt == nil || d.RevokeAt == nil {
			t.Errorf("no due time: %+v", d)
		}
		r.later(20 * time.Second)
		b.says("", false, closed80, a)
		a.is(api.KeyDelivered)
		r.later(30 * time.Second)
		a.is(api.KeyDelivered) // the time that was due no longer counts

		b.says("", false, open80, a)
		if _, err := o.approver.Ignore(t.Context(), a.ID, api.Decision{Reason: "the new web server is wanted"}); err != nil {
			t.Fatal(err)
		}
		r.later(50 * time.Second)
		b.says("", false, open80, a)
		a.is(api.KeyRevokeIgnored)
		b.says("", false, closed80, a)
		a.is(api.KeyDelivered)

		b.says("", false, open80, a)
		r.later(39 * time.Second)
		b.says("", false, open80, a)
		a.is(api.KeyRevokePending)
		r.later(2 * time.Second)
		a.is(api.KeyRevoking)
		eq(t, "mode", b.command(api.CommandRevoke).Mode, api.RevokeUnmount)
	})
}

// Notify only: people are told once, and told again when it is over and fails anew.
func TestCheck_notifyOnly(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, a := held(o, "web", checking("web", api.Policy{CheckEveryHeartbeat: true, OnCheckFailure: api.CheckNotify}))
		for _, step := range []struct {
			ports   []string
			want    api.Integrity
			notices int
		}{{open80, api.IntegrityFailed, 1}, {open80, api.IntegrityFailed, 1}, {closed80, api.IntegrityGood, 1}, {open80, api.IntegrityFailed, 2}} {
			if got := b.says("", false, step.ports, a); len(got.Leases) != 1 {
				t.Fatalf("the lease is not renewed: %+v", got)
			}
			eq(t, "integrity", a.is(api.KeyDelivered).Integrity, step.want)
			eq(t, "notices", o.noticed("integrity-failed"), step.notices)
		}
		note := o.notices()[0]
		if note.Instance != "web" || note.Device != "data-web" || note.RequestID != a.ID {
			t.Errorf("notice %+v", note)
		}
		if err := o.approver.Do(t.Context(), http.MethodPost, "/api/v1/notices/"+note.ID+"/dismiss", nil, nil); err != nil {
			t.Fatal(err)
		}
		eq(t, "notices left", len(o.notices()), 1)
		if err := o.approver.Do(t.Context(), http.MethodPost, "/api/v1/notices/all/dismiss", nil, nil); err != nil {
			t.Fatal(err)
		}
		eq(t, "notices left", len(o.notices()), 0)
	})
}

// A request that goes on waiting for a person says in the log when it was rated otherwise, and only then.
func TestCheck_aWaitingRequestThatIsRatedAnewIsInTheLog(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("web")
		d, _ := b.encrypted("data")
		p := checking("web", api.Policy{CheckEveryHeartbeat: true, OnCheckFailure: api.CheckRevoke})
		p.OnMatch = api.ActionManual
		o.policy(p, d)
		a := b.ask(d.ID, closed80...)
		eq(t, "integrity", a.is(api.KeyPending).Integrity, api.IntegrityGood)
		for i, ports := range [][]string{closed80, open80, open80, closed80} {
			b.says("", false, ports)
			eq(t, fmt.Sprint("records after heartbeat ", i+1), o.count("key-request.judged-again"), []int{0, 1, 1, 2}[i])
		}
		eq(t, "integrity", a.is(api.KeyPending).Integrity, api.IntegrityGood)
	})
}

// What a person approved although rules failed is not taken back for these rules.
func TestCheck_whatWasAcceptedDoesNotCount(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("web")
		d, _ := b.encrypted("data")
		p := checking("web", api.Policy{CheckEveryHeartbeat: true, OnCheckFailure: api.CheckRevoke})
		p.Rules = append(p.Rules, api.Rule{Fact: api.FactTCPPorts, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpLacks, Value: "23"}}})
		o.policy(p, d)
		a := b.ask(d.ID, open80...)
		eq(t, "integrity", a.is(api.KeyPending).Integrity, api.IntegrityBad)
		a.approve()
		b.says("", false, open80) // before it is collected
		a.is(api.KeyApproved)
		a.collect()
		a.report(api.EventMounted)
		b.says("", false, open80, a)
		eq(t, "integrity", a.is(api.KeyDelivered).Integrity, api.IntegrityBad)
		b.says("", false, []string{"22", "23", "80"}, a)
		if d := a.is(api.KeyRevoking); strings.Contains(d.Reason, "does not contain 80") {
			t.Errorf("the reason names what was accepted: %s", d.Reason)
		}
	})
}

// The schedule: every machine is asked once by one challenge, on whichever broker, and answers with its next word; a check
// without an answer is loud.
func TestSchedule_asksEveryMachineOnceAndIsLoudWithoutAnAnswer(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		p := checking("web", api.Policy{OnCheckFailure: api.CheckRevoke})
		p.LeaseSeconds, p.HeartbeatSeconds, p.MissingAfterSeconds = 7200, 600, 86400
		b, a := held(o, "web", p)
		at := r.now().UTC().Add(10 * time.Minute).Truncate(time.Minute)
		s := o.schedule(api.CheckSettings{Schedule: api.ScheduleDaily, Time: at.Format("15:04"), RetrySeconds: 3600})
		if s.NextAt == nil || !s.NextAt.Equal(at) || s.Policies != 1 {
			t.Fatalf("schedule %+v, want next at %s", s, at)
		}
		b.says("", false, open80, a) // nothing is due
		a.is(api.KeyDelivered)
		if b.hasCommand(api.CommandCheck) {
			t.Fatal("asked before the time")
		}
		r.offset.Add(int64(at.Sub(r.now())) + int64(time.Second))
		// Two brokers on one database see it due at the same time.
		other := keyrequest.New(keyrequest.Deps{Store: r.store, Feed: r.feed, Root: r.root})
		var both sync.WaitGroup
		for _, tick := range []*keyrequest.Service{r.requests, other} {
			both.Go(func() {
				if err := tick.Tick(t.Context()); err != nil {
					t.Errorf("tick: %v", err)
				}
			})
		}
		both.Wait()
		eq(t, "checks started", len(o.events("integrity.check-scheduled")), 1)
		c := b.command(api.CommandCheck)
		b.says("", false, open80, a)
		a.is(api.KeyDelivered) // an ordinary heartbeat answers no challenge
		eq(t, "still asked", b.command(api.CommandCheck).Nonce, c.Nonce)

		r.later(31 * time.Minute)
		row := o.running().Rows[0]
		if !row.CheckOverdue || row.CheckedAt == nil {
			t.Errorf("an overdue check is not shown: %+v", row)
		}
		eq(t, "notices", o.noticed("check-overdue"), 1)
		r.later(time.Minute)
		eq(t, "notices later", o.noticed("check-overdue"), 1)
		if s := o.schedule(api.CheckSettings{Schedule: api.ScheduleDaily, Time: at.Format("15:04"), RetrySeconds: 3600}); s.Waiting != 1 || s.Overdue != 1 {
			t.Errorf("schedule %+v", s)
		}

		got := b.says(c.Nonce, false, open80, a)
		if len(got.Checked) != 1 || got.Checked[0].Status != api.KeyRevoking {
			t.Fatalf("the answer to the check: %+v", got)
		}
		if b.hasCommand(api.CommandCheck) {
			t.Error("asked again after the answer")
		}
		a.report(api.EventRevoked).is(api.KeyRevoked)
		// Failed, it is judged with every word of the machine, until the period is over.
		r.later(59 * time.Minute)
		b.says("", false, open80)
		a.is(api.KeyRevoked)
		r.later(2 * time.Minute)
		a.is(api.KeyExpired)
		b.says("", false, closed80)
		a.is(api.KeyExpired)

		// The next day it is asked again, also when the broker was down at the time.
		r.later(26 * time.Hour)
		eq(t, "checks started", len(o.events("integrity.check-scheduled")), 2)
	})
}

// Check now: a person asks, the machine answers, and the page says when; another machine's answer is none.
func TestCheckNow_asksTheMachineForFreshEvidence(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b, a := held(o, "web", checking("web", api.Policy{OnCheckFailure: api.CheckRevoke}))
		var out api.CheckAsked
		if err := o.approver.Do(t.Context(), http.MethodPost, "/api/v1/devices/"+a.DeviceID+"/check", nil, &out); err != nil {
			t.Fatal(err)
		}
		if out.InstanceID != b.id || out.Requests != 1 {
			t.Errorf("asked %+v", out)
		}
		if d := a.is(api.KeyDelivered); d.CheckAskedAt == nil {
			t.Error("the page does not say that a check is under way")
		}
		c := b.command(api.CommandCheck)
		before := a.is(api.KeyDelivered).CheckedAt
		b.says("guess", false, open80, a)
		a.is(api.KeyDelivered)
		b.says(c.Nonce, false, closed80, a)
		if d := a.is(api.KeyDelivered); d.CheckAskedAt != nil || !d.CheckedAt.After(*before) || d.Integrity != api.IntegrityGood {
			t.Errorf("after the answer: asked %v, checked %v, %s", d.CheckAskedAt, d.CheckedAt, d.Integrity)
		}
		b.says(c.Nonce, false, open80, a) // a challenge counts once
		a.is(api.KeyDelivered)
		eq(t, "log", len(o.events("integrity.check-asked")), 1)
		r.later(3 * time.Minute)
	})
}

// J-09: a fact of one device is reported bad; only that device's key is taken.
func TestCheck_eachDeviceByItsOwnFacts(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("files")
		one, _ := b.encrypted("one")
		p := checking("files", api.Policy{CheckEveryHeartbeat: true, OnCheckFailure: api.CheckRevoke})
		p.Rules = []api.Rule{{Fact: api.FactMountPoint, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "/mnt/data"}}}}
		p.OnFailure = api.ActionApprove
		o.policy(p, one)
		in, private := b.prepare(one.ID)
		in.Evidence.Facts = append(in.Evidence.Facts, api.Fact{Name: api.FactMountPoint, Values: []string{"/mnt/data"}, Source: "test"})
		a := &asked{b, must[api.KeyRequestStatus](t)(b.Request(t.Context(), in)), private, in.Nonce}
		eq(t, "asked", a.Integrity, api.IntegrityGood)
		a.mounted()
		b.says("", false, nil, a)
		a.is(api.KeyDelivered)
		// The same machine says nothing of the device: a missing fact is a failed rule.
		b.beat(a)
		if d := a.is(api.KeyRevoking); !strings.Contains(d.Reason, "no data") {
			t.Errorf("reason: %s", d.Reason)
		}
	})
}

// A machine is missing after its policy's time, and what it holds tells people so.
func TestInstance_isMissingAfterThePolicysTime(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		p := checking("web", api.Policy{MissingAfterSeconds: 300})
		p.LeaseSeconds, p.HeartbeatSeconds = 3600, 10
		b, a := held(o, "web", p)
		b.says("", false, closed80, a)
		r.later(4 * time.Minute)
		eq(t, "rows", len(o.running().Rows), 1)
		r.later(2 * time.Minute)
		eq(t, "rows of a missing machine", len(o.running().Rows), 0)
		eq(t, "notices", o.noticed("instance-missing"), 1)
		a.is(api.KeyDelivered)
		b.says("", false, closed80, a)
		eq(t, "rows after its return", len(o.running().Rows), 1)
	})
}

// A machine was told to report every thirty seconds; that its policy wants it every second from now on it cannot know
// before it reports.
func TestInstance_isNotMissingBeforeItsNextHeartbeat(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		m := o.machine("db1")
		d, _ := m.encrypted("data")
		a := m.ask(d.ID, "22")
		eq(t, "pace", m.beat().NextSeconds, 30)
		p := noPort80("web")
		p.LeaseSeconds, p.HeartbeatSeconds = 600, 1
		o.policy(p, d)
		r.later(40 * time.Second)
		a.is(api.KeyPending)
		r.later(10 * time.Second)
		a.is(api.KeyExpired)
		eq(t, "pace", m.beat().NextSeconds, 1)
		again := m.ask(d.ID, "22")
		eq(t, "status of the next request", again.Status, api.KeyApproved)
		r.later(20 * time.Second)
		again.is(api.KeyExpired) // three heartbeats, and never less than fifteen seconds
	})
}

func TestSettings_ofChecksAreRefusedByField(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		for _, c := range []struct {
			in    api.CheckSettings
			field string
		}{
			{api.CheckSettings{Schedule: "daily", Time: "25:00"}, "time"},
			{api.CheckSettings{Schedule: "daily"}, "time"},
			{api.CheckSettings{Schedule: "weekly", Time: "03:00"}, "weekday"},
		} {
			err := o.admin.Do(t.Context(), http.MethodPut, "/api/v1/integrity-settings", c.in, nil)
			wantProblem(t, err, 422, "invalid")
			if !strings.Contains(err.Error(), c.field) {
				t.Errorf("%+v: %v does not name %s", c.in, err, c.field)
			}
		}
		off := o.schedule(api.CheckSettings{})
		if off.NextAt != nil || off.RetrySeconds != 0 {
			t.Errorf("switched off: %+v", off)
		}
		s := o.schedule(api.CheckSettings{Schedule: "weekly", Weekday: "sunday", Time: "04:30", RetrySeconds: 60})
		if s.NextAt == nil || s.NextAt.Weekday() != time.Sunday || s.NextAt.UTC().Format("15:04") != "04:30" {
			t.Errorf("weekly: %+v", s)
		}
		eq(t, "log", len(o.events("settings.checks-changed")), 2)
		// Another zone, another moment of the same wall clock.
		if err := o.admin.Do(t.Context(), http.MethodPut, "/api/v1/time-settings", api.TimeSettings{TimeZone: "Asia/Tokyo", DateFormat: "2006-01-02 15:04:05 MST"}, nil); err != nil {
			t.Fatal(err)
		}
		r.later(time.Second)
		var now api.CheckSchedule
		if err := o.admin.Do(t.Context(), http.MethodGet, "/api/v1/integrity-settings", nil, &now); err != nil {
			t.Fatal(err)
		}
		if got := now.NextAt.UTC().Format("15:04"); got != "19:30" {
			t.Errorf("04:30 in Tokyo is %s UTC", got)
		}
	})
}
