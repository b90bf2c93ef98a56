package unlock

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// chip is a TPM in software for one test.
func chip(t *testing.T) *lab.TPM {
	t.Helper()
	c, err := lab.StartTPM(t.Context(), tempDir(t))
	if errors.Is(err, lab.ErrNoTPM) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

// A real agent with a TPM: its key never is on the disk, its quote opens by policy without a person, the rule fails when
// something else was started, and a copy of its disk in a machine with another TPM gets nowhere.
func TestTPM_wholeLifeOfASealedMachine(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		a := newAccount(t, s)
		tpm := chip(t)
		m := a.machine(1, fmt.Sprintf("tpm: require\ntpm_device: %s\nlog_level: debug\n", tpm.Socket))
		state := filepath.Join(m.dir, "a", "state")
		if _, err := os.Stat(filepath.Join(state, "machine.key")); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("the machine's key is on its disk: %v", err)
		}
		d := m.encrypt(0, api.DeviceWrite{KeyBits: 256, Access: api.AccessReadWrite})
		first := a.request(d.ID, api.KeyPending) // of no policy yet
		pcr := ""
		for _, f := range first.Verdict.Findings {
			if f.Fact == api.FactTPMPCR && f.Subject == "8" {
				pcr = f.Actual
			}
			if f.Fact == api.FactIdentityKey && (f.Actual != api.KeyInTPM || f.Grade != api.GradeHardwareSigned) {
				t.Errorf("the key is shown as %+v", f)
			}
		}
		if pcr != hex.EncodeToString(make([]byte, 32)) {
			t.Fatalf("PCR 8 is shown as %q", pcr)
		}
		p := auto()
		p.Name, p.OnFailure = "measured", api.ActionManual
		p.Rules = []api.Rule{{Fact: api.FactTPMPCR, Subject: "8", Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: pcr}}},
			{Fact: api.FactIdentityKey, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: api.KeyInTPM}}}}
		p = a.policy(d, p)
		if _, err := a.AssignPolicy(t.Context(), first.RequestID, api.PolicyAssignment{PolicyID: p.ID}); err != nil { // and judged by it at once
			t.Fatal(err)
		}
		m.mounted(0)
		keep(t, filepath.Join(m.mountPoint(0), "kept"))

		// Something else is started: the same disk waits for a person.
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		if err := tpm.Extend(8, sha256.Sum256([]byte("another kernel"))); err != nil {
			t.Fatal(err)
		}
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		bad := a.request(d.ID, api.KeyPending)
		if bad.Integrity != api.IntegrityBad {
			t.Errorf("after another boot the request is %s: %s", bad.Integrity, bad.Reason)
		}

		// The disk in another machine: its TPM cannot load the key.
		if err := m.Stop(40 * time.Second); err != nil {
			t.Fatal(err)
		}
		other := chip(t)
		file := filepath.Join(m.dir, "a", "agent.yaml")
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), tpm.Socket, other.Socket)), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := m.Run(t.Context(), "renew"); err == nil || !strings.Contains(out, "another TPM") {
			t.Errorf("the copy reaches the broker: %v: %s", err, out)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := m.Run(t.Context(), "renew"); err != nil {
			t.Errorf("back in its own machine: %v: %s", err, out)
		}
		for _, event := range []string{"instance.tpm-registered", "instance.certificate-renewed"} {
			if n := a.logged("agent", event); n != 1 {
				t.Errorf("%s is in the log %d times", event, n)
			}
		}
	})
}

// A real agent shows EC2's signed identity; rules on the cloud hold, and the machine is bound to that instance.
func TestCloud_signedIdentityOfARealAgent(t *testing.T) {
	cloud, err := lab.NewCloud("eu-central-1")
	if err != nil {
		t.Fatal(err)
	}
	pins := tempDir(t)
	if err := cloud.WriteCertificate(pins); err != nil {
		t.Fatal(err)
	}
	eachWith(t, lab.BrokerOptions{Settings: []string{"--ec2-certificates", pins}}, func(t *testing.T, s *site) {
		service := cloud.Metadata("i-0123456789abcdef0")
		t.Cleanup(service.Close)
		a := newAccount(t, s)
		m := a.machine(1, fmt.Sprintf("tpm: \"off\"\nec2: \"on\"\nec2_endpoint: %s\n", service.URL))
		d := m.encrypt(0, api.DeviceWrite{KeyBits: 256, Access: api.AccessReadWrite})
		r := a.request(d.ID, api.KeyPending)
		p := auto()
		p.Name = "in Frankfurt"
		p.Rules = []api.Rule{{Fact: api.FactLocation, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "eu-central-1b"}}},
			{Fact: api.FactCloudInstance, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "i-0123456789abcdef0"}}}}
		p = a.policy(d, p)
		if _, err := a.AssignPolicy(t.Context(), r.RequestID, api.PolicyAssignment{PolicyID: p.ID}); err != nil { // and judged by it at once
			t.Fatal(err)
		}
		m.mounted(0)
		if i := a.instances()[0]; i.CloudIdentity != "aws/123456789012/eu-central-1/i-0123456789abcdef0" {
			t.Errorf("the machine is bound to %q", i.CloudIdentity)
		}
	})
}
