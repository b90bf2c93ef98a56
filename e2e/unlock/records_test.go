package unlock

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// audit reads the account's newest hundred records of a category, or of all.
func (a *account) audit(category string) []api.AuditRecord {
	a.t.Helper()
	var page api.AuditPage
	if err := a.Do(a.t.Context(), http.MethodGet, "/api/v1/audit?size=100&category="+category, nil, &page); err != nil {
		a.t.Fatal(err)
	}
	return page.Records
}

// logged counts an event's records.
func (a *account) logged(category, event string) (n int) {
	for _, r := range a.audit(category) {
		if r.Event == event {
			n++
		}
	}
	return n
}

// What machines, keys, policies, people and the broker itself do is in the log, in UTC, and the whole of it verifies
// without the broker.
func TestAudit_everyKindOfEventOfARealLife(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		a := newAccount(t, s)
		m := a.machine(1, "")
		p := m.policy(m.device(0), auto())
		d := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		r := m.request(d.ID, api.KeyDelivered)
		if _, err := m.Revoke(t.Context(), r.RequestID, api.Decision{Reason: "enough"}); err != nil {
			t.Fatal(err)
		}
		m.request(d.ID, api.KeyRevoked)
		p, err := m.Policy(t.Context(), p.ID)
		if err != nil {
			t.Fatal(err)
		}
		p.DeviceIDs = []string{} // back to the default policy
		if p, err = m.UpdatePolicy(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := m.DeletePolicy(t.Context(), p.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.broker.LogOnTo(t.Context(), a.setup.AccountID, lab.Login{Name: "ada", Password: "wrong"}); err == nil {
			t.Error("a wrong password is accepted")
		}
		for category, events := range map[string][]string{
			"agent":  {"instance.enrolled", "image.added", "device.added", "machine.booted", "agent.started"},
			"key":    {"key-request.approved-by-policy", "key-request.delivered", "key.mounted", "key-request.revoke-asked", "key-request.revoked"},
			"policy": {"policy.created", "policy.device-moved", "policy.changed", "policy.deleted"},
			"user":   {"user.created", "user.logged-on", "device.encrypt-asked"},
			"server": {"account.created"},
		} {
			records := a.audit(category)
			seen := map[string]bool{}
			for _, r := range records {
				seen[r.Event] = true
				if r.Category != category || r.At.Location() != time.UTC || r.Actor == "" {
					t.Errorf("record %+v", r)
				}
			}
			for _, event := range events {
				if !seen[event] {
					t.Errorf("the log has no %q among its %s events %v", event, category, seen)
				}
			}
		}
		var log bytes.Buffer
		if err := m.AuditExport(t.Context(), &log); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(tempDir(t), "log.jsonl")
		if err := os.WriteFile(file, log.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		verify := exec.CommandContext(t.Context(), program("keyward-broker"), "audit", "verify", file, "--key", filepath.Join(s.broker.Dir, "audit.pem"))
		if out, err := verify.CombinedOutput(); err != nil || !strings.Contains(string(out), "trusted key") {
			t.Errorf("verify: %v: %s", err, out)
		}
	})
}

// What is copied while a broker stands still is a whole broker: started elsewhere on a copy of data folder and root key,
// it knows its people and gives its machines their keys.
func TestBackup_restoredBrokerGivesTheKeys(t *testing.T) {
	needs(t)
	t.Parallel()
	kinds[0].ready(t)
	s, err := kinds[0].start(t.Context(), lab.BrokerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	a := newAccount(t, s)
	m := a.machine(1, "")
	d := m.encrypt(0, api.DeviceWrite{})
	m.approve(0, d.ID)
	keep(t, m.mountPoint(0)+"/file")

	if err := s.broker.Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	for from, to := range map[string]string{s.broker.Dir: "data", filepath.Join(filepath.Dir(s.broker.Dir), "root"): "root"} {
		tool(t, "cp", "-a", from, filepath.Join(dir, to))
		if err := os.RemoveAll(from); err != nil {
			t.Fatal(err)
		}
	}
	restored, err := lab.RestoreBroker(t.Context(), s.broker, lab.BrokerOptions{Bin: program("keyward-broker"),
		Dir: filepath.Join(dir, "data"), RootKey: filepath.Join(dir, "root", "root.key")})
	if err != nil {
		t.Fatal(err)
	}
	s.broker = restored
	t.Cleanup(func() { s.stop(t) })
	a.servedAnew(m, d)
}

// servedAnew shows that the machine's first volume outlived the move of its broker, and that the broker at its new place knows its people
// and gives the machine the key.
func (a *account) servedAnew(m *machine, d api.Device) {
	t := a.t
	t.Helper()
	if !lab.Mounted(m.mountPoint(0)) {
		t.Error("the volume did not outlive the move of its broker")
	}
	a.People = a.logOn(a.setup.Admin)
	if _, err := m.Run(t.Context(), "lock", d.ID); err != nil {
		t.Fatal(err)
	}
	m.unmounted(0)
	if _, err := m.Run(t.Context(), "request", d.ID); err != nil {
		t.Fatal(err)
	}
	m.approve(0, d.ID)
	kept(t, m.mountPoint(0)+"/file")
}

// A backup that is made by the command beside a serving broker, and restored by the command into the other kind of database,
// is that broker: people log on, and a machine that never heard of it gets its key.
func TestBackup_restoredByItsCommandsIntoTheOtherDatabase(t *testing.T) {
	eachOwn(t, func(t *testing.T, s *site) {
		other := kinds[0]
		if s.kind == other {
			other = kinds[1]
		}
		other.ready(t)
		a := newAccount(t, s)
		m := a.machine(1, "")
		d := m.encrypt(0, api.DeviceWrite{})
		m.approve(0, d.ID)
		keep(t, m.mountPoint(0)+"/file")

		dir := tempDir(t)
		file, phrase := filepath.Join(dir, "broker.backup"), filepath.Join(dir, "phrase")
		if err := os.WriteFile(phrase, []byte("four words in a safe\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"create", "--out", file}, {"verify", file}} {
			if _, err := s.broker.Command(t.Context(), append([]string{"backup", args[0], "--quiet", "--passphrase-from", phrase}, args[1:]...)...); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.broker.Stop(20 * time.Second); err != nil {
			t.Fatal(err)
		}
		o := lab.BrokerOptions{Bin: program("keyward-broker"), Dir: filepath.Join(dir, "data"), RootKey: filepath.Join(dir, "root", "root.key")}
		tool(t, "cp", "-a", filepath.Join(filepath.Dir(s.broker.Dir), "root"), filepath.Dir(o.RootKey))
		if err := os.RemoveAll(s.broker.Dir); err != nil {
			t.Fatal(err)
		}
		restore := []string{"backup", "restore", file, "--quiet", "--passphrase-from", phrase, "--data", o.Dir, "--root-key", o.RootKey}
		if other.server != nil {
			var err error
			if o.DSN, err = other.server.NewDatabase(t.Context()); err != nil {
				t.Fatal(err)
			}
			restore = append(restore, "--dsn", o.DSN)
		}
		tool(t, append([]string{o.Bin}, restore...)...)
		restored, err := lab.RestoreBroker(t.Context(), s.broker, o)
		if err != nil {
			t.Fatal(err)
		}
		s.broker = restored
		a.servedAnew(m, d)
	})
}
