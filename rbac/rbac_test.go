package rbac

import (
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// specification is features.md section C, written out again by hand and cell by cell: one letter a role in the order
// Account Administrator, Security Administrator, Data Analyst, Auditor, Key Approver; y allows, n refuses.
var specification = map[Operation]string{
	"running-instances.read":       "yynyy",
	"instances.write":              "ynnnn",
	"key-requests.decide":          "ynnny",
	"key-requests.assign-policy":   "ynnnn",
	"key-requests.revoke":          "ynnny",
	"policies.read":                "ynnyy",
	"policies.write":               "ynnnn",
	"integrity-settings.read":      "ynnyy",
	"integrity-settings.write":     "ynnnn",
	"integrity-checks.run":         "ynnny",
	"images.read":                  "ynnyy",
	"images.write":                 "ynnnn",
	"devices.read":                 "yynyy",
	"devices.write":                "ynnnn",
	"devices.encrypt":              "ynnnn",
	"devices.unconfigure":          "ynnnn",
	"devices.delete":               "ynnnn",
	"devices.rotate-key":           "ynnnn",
	"raid-sets.read":               "yynyy",
	"raid-sets.write":              "ynnnn",
	"devices.export":               "nynnn",
	"key-exports.read":             "nynyn",
	"key-exports.decide":           "nynnn",
	"export-settings.read":         "yynyn",
	"export-settings.write":        "ynnnn",
	"recovery-key.read":            "yynyn",
	"recovery-key.write":           "nynnn",
	"recovery-envelope.download":   "nynnn",
	"reports.read":                 "yyyyn",
	"reports.write":                "yyyyn",
	"reports.device-keys":          "nynnn",
	"logs.read":                    "yyyyn",
	"logs.export":                  "yyyyn",
	"logs.delete":                  "nnnyn",
	"users.read":                   "ynnyn",
	"users.write":                  "ynnnn",
	"roles.read":                   "ynnyn",
	"account.read":                 "ynnyn",
	"enrolment-tokens.read":        "ynnyn",
	"enrolment-tokens.write":       "ynnnn",
	"second-factor-settings.read":  "ynnyn",
	"second-factor-settings.write": "ynnnn",
	"notifications.read":           "ynnyn",
	"notifications.write":          "ynnnn",
	"deep-security.read":           "ynnyn",
	"deep-security.write":          "ynnnn",
	"time-settings.read":           "ynnyn",
	"time-settings.write":          "ynnnn",
	"licence.read":                 "ynnyn",
	"licence.write":                "ynnnn",
	"password.own":                 "yyyyy",
	"sessions.own":                 "yyyyy",
	"second-factor.own":            "yyyyy",
}

var columns = []string{"account-administrator", "security-administrator", "data-analyst", "auditor", "key-approver"}

func newEnforcer(t *testing.T) *Enforcer {
	t.Helper()
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAllowed_everyCellOfTheMatrix(t *testing.T) {
	t.Parallel()
	e := newEnforcer(t)
	if got, want := len(Operations()), len(specification); got != want {
		t.Errorf("the matrix has %d operations, the specification %d", got, want)
	}
	for op, cells := range specification {
		for i, role := range columns {
			if got, want := e.Allowed(role, op), cells[i] == 'y'; got != want {
				t.Errorf("%s %s: allowed %v, want %v", role, op, got, want)
			}
		}
	}
}

func TestAllowed_unknownIsRefused(t *testing.T) {
	t.Parallel()
	e := newEnforcer(t)
	cases := []struct {
		role string
		op   Operation
	}{
		{"", DevicesRead}, {"root", DevicesRead}, {"*", DevicesRead}, {"Account-Administrator", DevicesRead},
		{"account-administrator ", DevicesRead}, {"account-administrator", ""}, {"account-administrator", "*"},
		{"account-administrator", "devices"}, {"account-administrator", "devices.read "},
		{"account-administrator", "devices.*"}, {"p", "p"},
	}
	for _, c := range cases {
		if e.Allowed(c.role, c.op) {
			t.Errorf("role %q operation %q is allowed", c.role, c.op)
		}
	}
}

func TestAllowed_concurrently(t *testing.T) {
	t.Parallel()
	e := newEnforcer(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if !e.Allowed("key-approver", KeyRequestsDecide) || e.Allowed("auditor", KeyRequestsDecide) {
					t.Error("a concurrent decision differs")
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestEnforcer_cannotBeChangedAtRunTime(t *testing.T) {
	t.Parallel()
	e := newEnforcer(t)
	if _, err := e.casbin.AddPolicy("auditor", string(DevicesExport)); err == nil {
		t.Error("a permission was added at run time")
	}
	if err := e.casbin.SavePolicy(); err == nil {
		t.Error("the matrix was saved")
	}
}

func TestMatrix_isACopy(t *testing.T) {
	t.Parallel()
	rows := Matrix()
	rows[0].Roles[0] = "intruder"
	if Matrix()[0].Roles[0] != "account-administrator" {
		t.Error("changing the result of Matrix changed the matrix")
	}
}

func TestRoles_capabilities(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		"data-analyst": {"Reports without device-key information", "Logs", "Own password and sessions"},
		"security-administrator": {"Running Instances", "Devices and RAID sets (view only)", "Export device keys", "Exports that several people agree on", "How many people an export takes (view only)", "Recovery key", "Recovery envelope of all devices",
			"Reports without device-key information", "Reports with device-key information", "Logs",
			"Own password and sessions"},
		"key-approver": {"Running Instances", "Approve or deny a pending key", "Revoke a delivered key",
			"Policies (view only)", "Scheduled integrity check settings (view only)",
			"Check the integrity of a machine now", "Images (view only)",
			"Devices and RAID sets (view only)", "Own password and sessions"},
	}
	infos := Roles()
	if len(infos) != 5 {
		t.Fatalf("%d roles, want 5", len(infos))
	}
	for i, info := range infos {
		if info.Name != columns[i] || info.Title == "" || info.Description == "" {
			t.Errorf("role %d: %+v", i, info)
		}
		if capabilities, ok := want[info.Name]; ok {
			if diff := cmp.Diff(capabilities, info.Capabilities); diff != "" {
				t.Errorf("%s (-want +got):\n%s", info.Name, diff)
			}
		}
	}
}

func TestParse_refusesABrokenTable(t *testing.T) {
	t.Parallel()
	head := "function,operation," + strings.Join(columns, ",") + "\n"
	cases := map[string]string{
		"no rows":            head,
		"unknown cell":       head + "F,op,allow,yes,-,-,-\n",
		"empty operation":    head + "F,,allow,-,-,-,-\n",
		"repeated operation": head + "F,op,allow,-,-,-,-\nF,op,-,-,-,-,allow\n",
		"missing cell":       head + "F,op,allow,-,-,-\n",
		"roles out of order": "function,operation,auditor,security-administrator,data-analyst,account-administrator,key-approver\nF,op,allow,-,-,-,-\n",
	}
	for name, text := range cases {
		if _, err := parse(text); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func BenchmarkAllowed(b *testing.B) {
	e, err := New()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		e.Allowed("key-approver", SessionsOwn)
	}
}
