package dsm

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/dsm/dsmtest"
)

const (
	uuid        = "4c4c4544-0032-4410-8035-b2c04f4b5931"
	turnedUUID  = "44454c4c-3200-1044-8035-B2C04F4B5931"
	anotherUUID = "00112233-4455-6677-8899-aabbccddeeff"
)

func TestFind_neverGuesses(t *testing.T) {
	t.Parallel()
	ec2 := Computer{ID: 9, HostName: "cloud"}
	ec2.EC2.InstanceID = "i-0abc"
	all := []Computer{
		{ID: 1, HostName: "db-01", BIOSUUID: uuid, LastIPUsed: "192.0.2.1"},
		{ID: 2, HostName: "twin", LastIPUsed: "192.0.2.2"}, {ID: 3, HostName: "TWIN", LastIPUsed: "192.0.2.2"},
		{ID: 4, HostName: "clone", BIOSUUID: anotherUUID}, {ID: 5, HostName: "clone-2", BIOSUUID: anotherUUID},
		{ID: 6, HostName: "blank", BIOSUUID: "00000000-0000-0000-0000-000000000000", LastIPUsed: "::ffff:192.0.2.6"}, ec2,
	}
	for _, tc := range []struct {
		name string
		m    Machine
		id   int
		says string
	}{
		{"by UUID", Machine{UUID: uuid, HostName: "renamed"}, 1, "SMBIOS UUID"},
		{"by a UUID that firmware turned", Machine{UUID: turnedUUID}, 1, "SMBIOS UUID"},
		{"by cloud instance before anything else", Machine{InstanceID: "i-0abc", UUID: uuid}, 9, "cloud instance ID"},
		{"by name and address", Machine{HostName: "DB-01", Address: "192.0.2.1"}, 1, "host name and address"},
		{"an address in two forms", Machine{HostName: "blank", Address: "192.0.2.6"}, 6, "host name and address"},
		{"a name alone", Machine{HostName: "db-01"}, 0, "no computer"},
		{"a name and another address", Machine{HostName: "db-01", Address: "192.0.2.99"}, 0, "no computer"},
		{"two with that name and address", Machine{HostName: "twin", Address: "192.0.2.2"}, 0, "2 computers of the manager (2, 3)"},
		{"two with that UUID, whatever the name", Machine{UUID: anotherUUID, HostName: "db-01", Address: "192.0.2.1"}, 0, "2 computers of the manager (4, 5)"},
		{"a UUID that says nothing", Machine{UUID: "00000000-0000-0000-0000-000000000000"}, 0, "no computer"},
		{"all ones", Machine{UUID: "ffffffff-ffff-ffff-ffff-ffffffffffff"}, 0, "no computer"},
		{"nothing", Machine{}, 0, "no computer"},
	} {
		c, by, err := find(tc.m, all)
		if c.ID != tc.id || (err == nil) != (tc.id != 0) || err == nil && by != tc.says || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: computer %d by %q, %v", tc.name, c.ID, by, err)
		}
	}
}

func TestModule_value(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ state, status, want string }{
		{"on", "active", "on"}, {"inherited", "active", "on"}, {"real-time", "active", "on"}, {"prevent", "active", "on"}, {"detect", "active", "on"},
		{"off", "inactive", "off"}, {"inherited", "inactive", "off"}, {"off", "active", "off"}, {"off", "", "off"},
		{"on", "warning", "warning"}, {"on", "error", "error"}, {"on", "not-supported", "not-capable"},
		{"on", "", ""}, {"inherited", "", ""}, {"", "", ""}, {"on", "something new", ""},
	} {
		m := Module{State: tc.state, Status: Status{AgentStatus: tc.status}}
		if got, known := m.value(); got != tc.want || known != (tc.want != "") {
			t.Errorf("state %q, agent %q: %q, %v", tc.state, tc.status, got, known)
		}
	}
}

func TestWatch_factsOfAProtectedMachine(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	s, c := manager(t, dsmtest.Protected(7, "db-01", uuid, "192.0.2.1"))
	w := NewWatch(c, func() time.Time { return now })
	m := Machine{UUID: uuid}
	for _, f := range w.Facts("instance-1", m) {
		if f.Missing != "the Deep Security Manager has not answered yet" {
			t.Errorf("before the first answer: %+v", f)
		}
	}
	if err := w.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"green", "on", "on", "on", "on", "on", "off"}
	for i, f := range w.Facts("instance-1", m) {
		if f.Name != Names()[i] || len(f.Values) != 1 || f.Values[0] != want[i] || f.Grade != api.GradeAPIConfirmed || !f.At.Equal(now) ||
			f.Source != "Deep Security Manager, computer 7, found by SMBIOS UUID" {
			t.Errorf("%+v, want %s", f, want[i])
		}
	}
	for _, f := range w.Facts("instance-2", m) {
		if !strings.Contains(f.Missing, "claimed by another machine") {
			t.Errorf("a second machine that claims to be the same: %+v", f)
		}
	}

	// The first machine is gone for good: after a while the second one is believed.
	now = now.Add(believed)
	if err := w.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f := w.Facts("instance-2", m)[0]; f.Missing != "" {
		t.Errorf("a machine that was set up anew: %+v", f)
	}
	if f := w.Facts("instance-1", m)[0]; !strings.Contains(f.Missing, "claimed by another machine") {
		t.Errorf("the one before it: %+v", f)
	}

	// Malware is found: the next picture says so.
	bad := dsmtest.Protected(7, "db-01", uuid, "192.0.2.1")
	bad["computerStatus"] = map[string]any{"agentStatus": "error"}
	bad["antiMalware"] = dsmtest.Module("on", "error")
	s.Set(bad)
	now = now.Add(refreshEvery)
	if err := w.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	facts := w.Facts("instance-2", m)
	if facts[0].Values[0] != "red" || facts[1].Values[0] != "error" || facts[2].Values[0] != "on" {
		t.Errorf("%+v", facts)
	}
}

func TestWatch_asksAsOftenAsItMay(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	s, c := manager(t, dsmtest.Protected(7, "db-01", uuid, "192.0.2.1"))
	w := NewWatch(c, func() time.Time { return now })
	step := func(d time.Duration, calls int, failing bool) {
		t.Helper()
		now = now.Add(d)
		err := w.Refresh(t.Context())
		if s.Calls() != calls || (err != nil) != failing {
			t.Errorf("after %s: %d calls, want %d; %v", d, s.Calls(), calls, err)
		}
	}
	step(0, 1, false)
	step(time.Second, 1, false) // not yet
	step(refreshEvery, 2, false)
	s.Answer(func(w http.ResponseWriter) bool { w.WriteHeader(503); return true })
	step(refreshEvery, 3, true)
	step(retryFirst-time.Second, 3, false)
	step(time.Second, 4, false) // said already
	step(retryFirst, 4, false)  // twice as long now
	step(retryFirst, 5, false)
	s.Answer(func(w http.ResponseWriter) bool {
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(429)
		return true
	})
	step(retryMost, 6, true)
	step(119*time.Second, 6, false)
	if f := w.Facts("i", Machine{UUID: uuid})[0]; f.Missing != "" {
		t.Errorf("what is not too old is not believed: %+v", f)
	}
	now = now.Add(believed)
	if f := w.Facts("i", Machine{UUID: uuid})[0]; !strings.Contains(f.Missing, "has not answered for") {
		t.Errorf("what is too old is believed: %+v", f)
	}
	s.Answer(nil)
	step(0, 7, false)
	if f := w.Facts("i", Machine{UUID: uuid})[0]; f.Missing != "" || w.State().Err != nil || w.State().Computers != 1 {
		t.Errorf("after it came back: %+v, %+v", f, w.State())
	}
}
