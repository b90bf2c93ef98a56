package unlock

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

// A key depends on packages, files, scripts and an expression over them, and goes no more when one of them changes.
func TestPolicy_judgesWhatTheMachineIsMadeOf(t *testing.T) {
	each(t, func(t *testing.T, s *site) {
		if _, err := os.Stat("/var/lib/dpkg/status"); err != nil {
			t.Skipf("needs dpkg: %v", err)
		}
		dir := tempDir(t)
		motd, script := filepath.Join(dir, "motd"), filepath.Join(dir, "baseline")
		write := func(path, text string, mode os.FileMode) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
		}
		write(motd, "hello\n", 0o644)
		write(script, "#!/bin/sh\necho 17\n", 0o755)
		disk := filepath.Join(dir, "disk0.img")
		if err := lab.MakeDisk(disk, diskSize); err != nil {
			t.Fatal(err)
		}
		m := newAccount(t, s).machineWith(dir, []string{disk}, fmt.Sprintf("facts:\n  packages: [base-files, no-such-package]\n  files: [%s]\n"+
			"  scripts: [{name: baseline, path: %s, result: number}]\n", motd, script))
		rule := func(fact api.FactName, subject string, op api.Operator, value string) api.Rule {
			return api.Rule{Fact: fact, Subject: subject, Match: api.MatchAll, Conditions: []api.Condition{{Operator: op, Value: value}}}
		}
		p := auto()
		p.Rules = []api.Rule{
			rule(api.FactPackageVersion, "base-files", api.OpGreaterEqual, "1"),
			rule(api.FactPackageState, "no-such-package", api.OpEqual, "not installed"),
			rule(api.FactFileSHA256, motd, api.OpEqual, fmt.Sprintf("%x", sha256.Sum256([]byte("hello\n")))),
			rule(api.FactScriptNumber, "baseline", api.OpLess, "18"),
			rule(api.FactExpression, "", api.OpHolds, `facts.guest_os == "linux" && facts.script_number["baseline"] > 16.0 && now - facts.key_request_date < duration("1h")`),
		}
		m.policy(m.device(0), p)
		d := m.encrypt(0, api.DeviceWrite{})
		m.mounted(0)
		r := m.request(d.ID, api.KeyDelivered)
		if r.Integrity != api.IntegrityGood || count(r.Verdict, api.RulePassed) != 5 {
			t.Fatalf("%s: %+v", r.Integrity, r.Verdict.Findings)
		}
		for _, f := range r.Verdict.Findings[:5] {
			if f.At == nil || f.Source == "" || f.Grade != api.GradeSelfReported {
				t.Errorf("without time, source or grade: %+v", f)
			}
		}

		write(motd, "changed\n", 0o644)
		write(script, "#!/bin/sh\necho broken >&2\nexit 1\n", 0o755)
		if _, err := m.Run(t.Context(), "lock", d.ID); err != nil {
			t.Fatal(err)
		}
		m.unmounted(0)
		if _, err := m.Run(t.Context(), "request", d.ID); err != nil {
			t.Fatal(err)
		}
		r = m.request(d.ID, api.KeyDenied)
		var failed []string
		for _, f := range r.Verdict.Findings {
			if f.Status == api.RuleFailed {
				failed = append(failed, string(f.Fact)+" "+f.Actual)
			}
		}
		if len(failed) != 3 || !slices.ContainsFunc(failed, func(s string) bool { return strings.Contains(s, "exit status 1 broken") }) {
			t.Errorf("failed are %q", failed)
		}
	})
}
