package httpapi_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/broker/internal/store"
)

// step is one action through an interface, and the records that it leaves.
type step struct {
	feature, action string
	do              func(t *testing.T, l *life) error
	// events are the records, in order, each "category event"; others may stand between them.
	events []string
}

// life is what the steps work on.
type life struct {
	*org
	box    *box
	other  *box // of whose device the policy auto decides
	auto   api.Policy
	device api.Device
	asked  *asked
	policy api.Policy
	user   api.User
	token  api.EnrolmentTokenInfo
}

// The table of S-02 to S-09: which action leaves which record. Actions build on those above them.
var recorded = []step{
	{"S-08", "an enrolment token is made", func(t *testing.T, l *life) (err error) {
		l.token, err = l.admin.CreateToken(t.Context(), api.EnrolmentTokenWrite{Description: "spare", Uses: 2, ExpireSeconds: 600})
		return err
	}, []string{"server enrolment-token.created"}},
	{"S-09", "a machine enrols, with an image that is new", func(t *testing.T, l *life) error { l.box = l.machine("db1"); return nil },
		[]string{"agent image.added", "agent instance.enrolled"}},
	{"S-08", "an enrolment is refused", func(t *testing.T, l *life) error {
		once := l.org.token(1)
		l.machineBy("db2", once)
		_, in := l.enrolment("db3")
		_, err := client.Enrol(t.Context(), client.EnrolOptions{URL: l.agentsAt, Token: once, Request: in})
		if client.StatusOf(err) != http.StatusForbidden {
			t.Errorf("a token that is used up: %v", err)
		}
		return nil
	}, []string{"agent instance.enrolled", "agent instance.enrolment-refused"}},
	{"S-08", "a device is published", func(t *testing.T, l *life) error {
		l.device = api.Device{ID: l.box.publish(disk("data"))["data"].ID}
		return nil
	}, []string{"agent device.added"}},
	{"S-08", "a device is configured", func(t *testing.T, l *life) error { l.device = l.configured(l.device.ID, "/mnt/data"); return nil },
		[]string{"user device.configured"}},
	{"S-02", "a device is encrypted: asked for, taken by its machine, done", func(t *testing.T, l *life) error {
		if _, err := l.admin.EncryptDevice(t.Context(), l.device.ID, api.EncryptWrite{Confirm: "data"}); err != nil {
			return err
		}
		c := l.box.command(api.CommandEncrypt)
		key := l.box.take(c)
		return l.box.JobProgress(t.Context(), c.JobID, api.JobProgress{Phase: "done", Percent: 100, Done: true, Volume: l.box.record(*c.Device, key)})
	}, []string{"user device.encrypt-asked", "key job.taken", "agent device.encrypted"}},
	{"S-02", "a key is asked for", func(t *testing.T, l *life) error { l.asked = l.box.ask(l.device.ID); return nil }, []string{"key key-request.pending"}},
	{"S-03", "a person denies", func(t *testing.T, l *life) error {
		_, err := l.approver.Deny(t.Context(), l.asked.ID, api.Decision{Reason: "not now"})
		return err
	}, []string{"key key-request.denied"}},
	{"S-03", "a person approves, the key is delivered, mounted", func(t *testing.T, l *life) error {
		l.asked = l.box.ask(l.device.ID)
		l.asked.approve().collect()
		l.asked.report(api.EventMounted)
		return nil
	}, []string{"key key-request.pending", "key key-request.approved", "key key-request.delivered", "key key.mounted"}},
	{"S-03", "a person revokes, the machine confirms", func(t *testing.T, l *life) error {
		if _, err := l.approver.Revoke(t.Context(), l.asked.ID, api.Decision{Reason: "enough"}); err != nil {
			return err
		}
		l.asked.report(api.EventRevoked)
		return nil
	}, []string{"key key-request.revoke-asked", "key key-request.revoked"}},
	{"S-04", "a policy is made and gets a device and an image", func(t *testing.T, l *life) error {
		d := must[api.Device](t)(l.admin.Device(t.Context(), l.device.ID))
		l.policy = l.org.policy(noPort80("strict"), d)
		return nil
	}, []string{"policy policy.image-added", "policy policy.device-moved", "policy policy.created"}},
	{"S-09", "a policy approves by itself, and the machine gives the key back", func(t *testing.T, l *life) error {
		l.other = l.machine("db4")
		d, _ := l.other.encrypted("auto")
		l.auto = l.org.policy(noPort80("auto"), d)
		a := l.other.ask(d.ID, "22")
		a.collect()
		a.report(api.EventMounted)
		a.report(api.EventUnmounted)
		return nil
	}, []string{"key key-request.approved-by-policy", "key key-request.delivered", "key key.mounted", "key key.returned"}},
	{"S-08", "a policy denies by itself", func(t *testing.T, l *life) (err error) {
		l.auto.OnMatch = api.ActionDeny
		if l.auto, err = l.admin.UpdatePolicy(t.Context(), l.auto); err == nil {
			l.other.ask(l.auto.DeviceIDs[0], "22")
		}
		return err
	}, []string{"policy policy.changed", "key key-request.denied-by-policy"}},
	{"S-04", "a policy is changed", func(t *testing.T, l *life) (err error) {
		l.policy.Description, l.policy.DeviceIDs, l.policy.ImageIDs = "changed", []string{}, []string{}
		l.policy, err = l.admin.UpdatePolicy(t.Context(), l.policy)
		return err
	}, []string{"policy policy.changed"}},
	{"S-04", "a policy is deleted", func(t *testing.T, l *life) error { return l.admin.DeletePolicy(t.Context(), l.policy.ID) },
		[]string{"policy policy.deleted"}},
	{"S-08", "an image is renamed", func(t *testing.T, l *life) error {
		var images struct {
			Images []api.Image `json:"images"`
		}
		if err := l.admin.Do(t.Context(), http.MethodGet, "/api/v1/images", nil, &images); err != nil {
			return err
		}
		return l.admin.Do(t.Context(), http.MethodPut, "/api/v1/images/"+images.Images[0].ID, api.ImageWrite{Name: "renamed"}, nil)
	}, []string{"user image.changed"}},
	{"S-05", "a user is made, logs on, fails to, logs off, is changed and deleted", func(t *testing.T, l *life) error {
		if err := l.admin.Do(t.Context(), http.MethodPost, "/api/v1/users", api.UserWrite{Name: "dana", Role: api.RoleDataAnalyst, Password: password}, &l.user); err != nil {
			return err
		}
		dana := must[*client.People](t)(client.NewPeople(l.peopleAt, l.ca.CACert()))
		defer dana.Close()
		if _, err := dana.LogOn(t.Context(), api.LogOn{Account: l.name, User: "dana", Password: password}); err != nil {
			return err
		}
		other := must[*client.People](t)(client.NewPeople(l.peopleAt, l.ca.CACert()))
		defer other.Close()
		if _, err := other.LogOn(t.Context(), api.LogOn{Account: l.name, User: "dana", Password: "Wrong-Horse-77"}); err == nil {
			t.Error("a wrong password is accepted")
		}
		if err := dana.LogOff(t.Context()); err != nil {
			return err
		}
		at := "/api/v1/users/" + l.user.ID
		if err := l.admin.Do(t.Context(), http.MethodPut, at, api.UserWrite{Name: "dana", DisplayName: "Dana", Role: api.RoleDataAnalyst}, nil); err != nil {
			return err
		}
		return l.admin.Do(t.Context(), http.MethodDelete, at, nil, nil)
	}, []string{"user user.created", "user user.logged-on", "user user.log-on-failed", "user user.logged-off", "user user.changed", "user user.deleted"}},
	{"S-08", "settings are changed", func(t *testing.T, l *life) error {
		return l.admin.Do(t.Context(), http.MethodPut, "/api/v1/time-settings", api.TimeSettings{TimeZone: "Europe/Berlin", DateFormat: "2006-01-02 15:04:05 MST"}, nil)
	}, []string{"server settings.time-changed"}},
	{"S-08", "integrity checks are set", func(t *testing.T, l *life) error {
		return l.admin.Do(t.Context(), http.MethodPut, "/api/v1/integrity-settings", api.CheckSettings{Schedule: "daily", Time: "03:00", RetrySeconds: 3600}, nil)
	}, []string{"server settings.checks-changed"}},
	{"S-08", "a device is cloned", func(t *testing.T, l *life) error {
		copied := l.box.publish(disk("data"), disk("copy"))["copy"]
		_, err := l.admin.CopyDeviceConfiguration(t.Context(), copied.ID, client.CopyConfiguration{SourceID: l.device.ID})
		return err
	}, []string{"agent device.added", "user device.cloned"}},
	{"S-09", "machine and agent start and stop", func(t *testing.T, l *life) error {
		var told api.OfflineRecords
		for i, e := range []api.OfflineEvent{api.MachineBooted, api.AgentStarted, api.MachineStopping, api.AgentStopped} {
			told.Records = append(told.Records, l.box.told(api.OfflineEntry{ID: uuid.NewString(), Sequence: int64(i + 1), At: l.now(), AccountID: l.org.id, Instance: l.box.id, Event: e}))
		}
		return l.box.SendOfflineRecords(t.Context(), told)
	}, []string{"agent machine.booted", "agent agent.started", "agent machine.stopping", "agent agent.stopped"}},
	{"S-06", "the log is exported", func(t *testing.T, l *life) error { return l.admin.AuditExport(t.Context(), io.Discard) },
		[]string{"user log.exported"}},
	{"S-03", "a key is exported", func(t *testing.T, l *life) error {
		var out bytes.Buffer
		return l.person(api.RoleSecurityAdmin).ExportKeys(t.Context(), api.ExportWrite{DeviceIDs: []string{l.device.ID}, Passphrase: "a long passphrase of nine words"}, &out)
	}, []string{"key device-key.exported"}},
	{"S-09", "a machine falls silent and comes back", func(t *testing.T, l *life) error {
		l.box.beat()
		l.later(10 * time.Minute)
		l.box.beat()
		return nil
	}, []string{"agent instance.missing", "agent instance.returned"}},
	{"S-08", "an enrolment token is deleted", func(t *testing.T, l *life) error {
		return l.admin.Do(t.Context(), http.MethodDelete, "/api/v1/enrolment-tokens/"+l.token.ID, nil, nil)
	}, []string{"server enrolment-token.deleted"}},
	{"S-08", "a device loses its configuration and is deleted", func(t *testing.T, l *life) error {
		if _, err := l.admin.UnconfigureDevice(t.Context(), l.device.ID, api.UnconfigureWrite{Confirm: "data"}); err != nil {
			return err
		}
		l.box.publish() // the machine lists it no more
		return l.admin.DeleteDevice(t.Context(), l.device.ID)
	}, []string{"user device.unconfigured", "agent device.undetected", "user device.deleted"}},
}

// What the checklist names in S-02 to S-09, in its words, and what the log calls it.
var named = []struct{ feature, words, event string }{
	{"S-02", "an image requests a key", "key key-request.pending"}, {"S-02", "the result", "key key-request.delivered"}, {"S-02", "record of the data encrypted", "agent device.encrypted"},
	{"S-03", "each request", "key key-request.pending"}, {"S-03", "its result", "key key-request.approved"}, {"S-03", "its result", "key key-request.denied"},
	{"S-04", "creation", "policy policy.created"}, {"S-04", "removal", "policy policy.deleted"},
	{"S-05", "log-in", "user user.logged-on"}, {"S-05", "activity in the console", "user user.changed"},
	{"S-06", "export", "user log.exported"}, {"S-07", "deletion of archives", "server log.deleted"},
	{"S-08", "start-up", "server server.started"}, {"S-08", "shutdown", "server server.stopped"}, {"S-08", "account creation", "server account.created"},
	{"S-08", "image creation", "agent image.added"}, {"S-08", "image modification", "user image.changed"},
	{"S-08", "successful log-in", "user user.logged-on"}, {"S-08", "failed log-in", "user user.log-on-failed"},
	{"S-08", "policy create", "policy policy.created"}, {"S-08", "policy edit", "policy policy.changed"}, {"S-08", "policy delete", "policy policy.deleted"},
	{"S-08", "manual approval", "key key-request.approved"}, {"S-08", "automatic approval", "key key-request.approved-by-policy"},
	{"S-08", "deny", "key key-request.denied"}, {"S-08", "automatic denial", "key key-request.denied-by-policy"}, {"S-08", "pending", "key key-request.pending"},
	{"S-08", "register instance", "agent instance.enrolled"}, {"S-08", "register device", "agent device.added"}, {"S-08", "delete device", "user device.deleted"},
	{"S-08", "clone device", "user device.cloned"}, {"S-08", "settings changed", "server settings.time-changed"}, {"S-08", "settings changed", "server settings.checks-changed"},
	{"S-09", "key request and result", "key key-request.approved-by-policy"}, {"S-09", "agent boot-up", "agent agent.started"}, {"S-09", "agent shutdown", "agent agent.stopped"},
	{"S-09", "VM boot-up", "agent machine.booted"}, {"S-09", "VM shutdown", "agent machine.stopping"},
}

// elsewhere are the events of the broker itself, with the file and the test that shows each.
var elsewhere = map[string][2]string{
	"server server.started":  {"../server/server_test.go", "TestServe_stopsWhileRequestsWaitAndSignsTheLogs"},
	"server server.stopped":  {"../server/server_test.go", "TestServe_stopsWhileRequestsWaitAndSignsTheLogs"},
	"server account.created": {"../../../e2e/unlock/records_test.go", "TestAudit_everyKindOfEventOfARealLife"},
	"server log.deleted":     {"../audit/archive_test.go", "TestArchives_deletedMonthsLeaveALogThatVerifies"},
}

// Nothing that the checklist names lacks a test that shows its record. Reports are not there yet, and neither images nor
// instances are ever removed.
func TestAudit_everyNamedEventHasItsTest(t *testing.T) {
	t.Parallel()
	shown := map[string]bool{}
	for _, s := range recorded {
		for _, e := range s.events {
			shown[e] = true
		}
	}
	for _, n := range named {
		if shown[n.event] {
			continue
		}
		where, ok := elsewhere[n.event]
		if !ok {
			t.Errorf("%s, %s: no step leaves %q", n.feature, n.words, n.event)
			continue
		}
		text, err := os.ReadFile(where[0])
		_, name, _ := strings.Cut(n.event, " ")
		if err != nil || !bytes.Contains(text, []byte("func "+where[1]+"(")) || !bytes.Contains(text, []byte(name)) {
			t.Errorf("%s, %s: %s of %s does not look for %q (%v)", n.feature, n.words, where[1], where[0], name, err)
		}
	}
}

func TestAudit_everyActionLeavesItsRecord(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		l := &life{org: r.org("acme")}
		for _, s := range recorded {
			before := len(allEvents(l.org))
			if err := s.do(t, l); err != nil {
				t.Errorf("%s, %s: %v", s.feature, s.action, err)
				continue
			}
			left := allEvents(l.org)[before:]
			next := 0
			for _, record := range left {
				if record.At.Location() != time.UTC || record.Actor == "" {
					t.Errorf("%s, %s: record %+v; want UTC and who did it", s.feature, s.action, record)
				}
				if next < len(s.events) && s.events[next] == record.Category+" "+record.Event {
					next++
				}
			}
			if next < len(s.events) {
				t.Errorf("%s, %s: no record %q after %q among %s", s.feature, s.action, s.events[next], s.events[:next], names(left))
			}
		}
	})
}

func names(records []store.AuditRecord) string {
	var out []string
	for _, r := range records {
		out = append(out, r.Category+" "+r.Event)
	}
	return strings.Join(out, ", ")
}
