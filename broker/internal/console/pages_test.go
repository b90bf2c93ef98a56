package console_test

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/problem"
)

// D-08, D-09, D-11, D-12.
func TestRunningInstances_countersColumnsAndPages(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("key-approver")
	page := p.get("/instances?size=10")
	page.wants(t, "page", http.StatusOK, "<strong>3</strong> <span>Instances", "<strong>4</strong> <span>Key(s) Pending", "<strong>3</strong> <span>Key(s) Approved",
		"1–10 of 13", "page 1 of 2", `href="/key-requests/request-1"`, `href="/inventory/devices/device-1"`, `href="/inventory/images/image-1"`, `href="/instances/instance-1"`,
		`href="/policies/policy-2"`, "12 minutes ago", "17 Nov 2026 10:30:00 CET", `data-live="key-requests"`)
	for _, column := range []string{"Key Status", "Integrity", "Device", "Images", "Instance", "Provider", "Policy", "Requested"} {
		page.wants(t, "column", http.StatusOK, `<th scope="col">`+column+"<")
	}
	p.get("/instances?size=10&page=2").wants(t, "the second page", http.StatusOK, "11–13 of 13")
	p.get("/instances?status=pending").wants(t, "pending", http.StatusOK, "1–4 of 4", `name="status" value="pending"`)
	p.get("/instances?q=nothing").wants(t, "no match", http.StatusOK, "Nothing matches")
}

// E-04..E-15.
func TestKeyRequest_showsWhatWasJudged(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	p.get("/key-requests/request-1").wants(t, "E-07..E-11", http.StatusOK, "Key Request (pending)", "<strong>1</strong> <span>Rule(s) Failed", "<strong>2</strong> <span>Rule(s) Passed",
		"<strong>4</strong> <span>Rule(s) Informational", "(only these 22, 5432)", "22, 80, 5432", "Self-reported", `procfs net/tcp, <time datetime="`, "13 minutes ago</time>", "Seen by broker", "Cloud-signed",
		"/mnt/a-mount-point-of-seventy-characters/that-must-wrap-and-is-never-cut/x", "1 rule failed. Approving gives the key")
	p.get("/key-requests/request-3").wants(t, "E-05", http.StatusOK, "Key Request (Unknown)", "Assign to Policy", ">Submit<")
	p.get("/key-requests/request-7").wants(t, "E-15", http.StatusOK, "Key Request (denied)", "read-only", "ticket 4711")
}

func TestKeyRequest_approveDenyRevoke(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("key-approver")
	p.post("/key-requests/request-1/approve", url.Values{"version": {"1"}, "reason": {"Known maintenance window"}}).leadsTo(t, "approve", "/instances")
	p.get("/instances").wants(t, "the list", http.StatusOK, "The key request was approved.")
	if strings.Contains(p.get("/instances").body, "was approved") {
		t.Error("the message is shown twice")
	}
	p.get("/key-requests/request-1").wants(t, "the request", http.StatusOK, "Key Request (approved)", "Known maintenance window", "user:kim")

	p.post("/key-requests/request-2/deny", url.Values{"version": {"1"}}).leadsTo(t, "deny", "/instances")
	p.post("/key-requests/request-2/approve", url.Values{"version": {"1"}, "reason": {"my words"}}).
		wants(t, "somebody was quicker", http.StatusConflict, "Changed by someone else", "Key Request (denied)")
	p.post("/key-requests/request-13/approve", nil).wants(t, "a form without version", http.StatusConflict, "carries no version")

	p.get("/key-requests/request-4/revoke").wants(t, "the question", http.StatusOK, "may lose what they have not written yet", `id="dialog-content"`)
	p.post("/key-requests/request-4/revoke", url.Values{"reason": {"laptop stolen"}}).leadsTo(t, "revoke", "/key-requests/request-4")
	p.get("/key-requests/request-4").wants(t, "revoking", http.StatusOK, "Key Request (revoking)", "laptop stolen", "Revocation has started")
}

// A pending request says what it waits for and names who may approve it.
func TestKeyRequest_saysWhoMayApprove(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("auditor")
	p.get("/key-requests/request-1").wants(t, "pending", http.StatusOK, "Waits for", "approves or denies it", "May approve",
		"Ada Lund (ada), Account Administrator\nKim Sato (kim), Key Approver\nNoor Haddad (noor), Key Approver, locked now")
	if strings.Contains(p.get("/key-requests/request-4").body, "May approve") {
		t.Error("a delivered request names approvers")
	}
}

// Z-27: a preview shows what a policy would do, saves nothing, and refuses what could not be saved.
func TestPolicy_previewByForms(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	form := url.Values{"version": {"4"}, "name": {"Database servers"}, "on_match": {"approve"}, "on_failure": {"deny"}, "lease_seconds": {"5m"}, "heartbeat_seconds": {"30s"},
		"revoke_mode": {"unmount"}, "device": {"device-1", "device-2"}, "rules[0].fact": {"listening_tcp_ports"}, "rules[0].conditions[0].operator": {"only these"},
		"rules[0].conditions[0].value": {"22"}, "edit": {"preview"}}
	p.post("/policies/policy-2", form).wants(t, "preview", http.StatusOK, "If this policy were saved now", "devices on machines would be judged otherwise",
		"Revoked when checked", "Network Services (TCP)", "(only these 22, 5432)", "22, 80, 5432", `href="/key-requests/request-1"`, "facts of 4 minutes ago",
		`formaction="/instances/instance-2/check"`, "Check now")
	form.Set("edit", "replay")
	p.post("/policies/policy-2", form).wants(t, "replay", http.StatusOK, "The last 30 days by this policy", "approved by kim", "1 of 2 key requests since")
	form.Set("rules[0].conditions[0].value", "many")
	p.post("/policies/policy-2", form).wants(t, "a rule that cannot be", http.StatusUnprocessableEntity, "rules[0].conditions[0].value:", `id="f-rules[0].conditions[0].value-error"`)
	form.Set("edit", "preview")
	form.Set("lease_seconds", "soon")
	p.post("/policies/new", form).wants(t, "a lease that is no time", http.StatusUnprocessableEntity, "lease_seconds: enter a time")
	p.get("/policies/policy-2").wants(t, "nothing is saved", http.StatusOK, `name="version" value="4"`, "Preview")
	if page := newSite(t).as("auditor").get("/policies/policy-2"); page.status != http.StatusOK || strings.Contains(page.body, `value="preview"`) {
		t.Error("who may not save is offered a preview")
	}
}

func TestKeyRequest_assignPolicy(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	p.post("/key-requests/request-3/assign", url.Values{"policy_id": {"policy-2"}}).leadsTo(t, "E-05", "/key-requests/request-3")
	p.get("/key-requests/request-3").wants(t, "judged again", http.StatusOK, "Key Request (pending)", ">Approve<")
}

// M-09, Q-02: destroying asks for the name, and the server checks it.
func TestDevices_destructionIsConfirmed(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	p.get("/inventory/devices/encrypt?id=device-3&id=device-1").wants(t, "the question", http.StatusOK, "Encryption destroys everything", "ext4 file system", "Not possible for", "It is In-use")
	p.get("/inventory/devices/encrypt").wants(t, "nothing chosen", http.StatusUnprocessableEntity, "nothing is chosen")
	form := url.Values{"id": {"device-3"}, "confirm.device-3": {"archiv"}, "destroy.device-3": {"yes"}}
	p.post("/inventory/devices/encrypt", form).wants(t, "another name", http.StatusUnprocessableEntity, "Nothing was encrypted", "not the device&#39;s name")
	form = url.Values{"id": {"device-3"}, "confirm.device-3": {"archive"}}
	p.post("/inventory/devices/encrypt", form).wants(t, "contents not given up", http.StatusUnprocessableEntity, "Tick this")
	form.Set("destroy.device-3", "yes")
	for _, wait := range []string{"soon", "31d"} {
		form.Set("wait", wait)
		p.post("/inventory/devices/encrypt", form).wants(t, "to wait "+wait, http.StatusUnprocessableEntity, "Nothing was encrypted", "at most 30d", `value="`+wait+`"`)
	}
	form.Set("wait", "90m")
	p.post("/inventory/devices/encrypt", form).leadsTo(t, "confirmed", "/inventory/devices")
	p.get("/inventory/devices/device-3").wants(t, "pending", http.StatusOK, "Encryption pending", "at most 90m", ">Cancel Encryption<")
	p.post("/inventory/devices/device-3/cancel", nil).leadsTo(t, "cancel", "/inventory/devices")
	p.post("/inventory/devices/device-3/unconfigure", url.Values{"confirm": {"x"}}).wants(t, "unconfigure by another name", http.StatusUnprocessableEntity, "type it exactly")
	p.post("/inventory/devices/device-3/unconfigure", url.Values{"confirm": {"archive"}}).leadsTo(t, "unconfigure", "/inventory/devices")
}

// D-17, D-18: a form sends only what may change; the rest stays as it is.
func TestDevice_saveKeepsWhatTheFormDoesNotCarry(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	p.post("/inventory/devices/device-1", url.Values{"version": {"3"}, "name": {"pgdata-main"}, "then": {"stay"}}).leadsTo(t, "apply", "/inventory/devices/device-1")
	p.get("/inventory/devices/device-1").wants(t, "device", http.StatusOK, `value="pgdata-main"`, `value="/srv/postgresql/16/main"`, "XTS", "SHA-256")
	p.post("/inventory/devices/device-1", url.Values{"version": {"3"}, "name": {"mine"}}).wants(t, "an old version", http.StatusConflict, "Changed by someone else", `value="mine"`)
	p.post("/inventory/devices/device-4", url.Values{"version": {"3"}, "name": {"scratch"}, "platform": {"linux:xfs"}, "mount_point": {"/srv/s"}, "access": {"read-write"},
		"key_bits": {"128 bits"}, "image_id": {"image-1"}}).leadsTo(t, "configure", "/inventory/devices")
	p.get("/inventory/devices/device-4").wants(t, "configured", http.StatusOK, "Configured", "Linux: XFS", `<option value="128 bits" selected>`)
}

// the passphrase is asked for twice and never comes back in a page.
func TestExport_passphrase(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("security-administrator")
	p.get("/inventory/devices/export?id=device-1&id=device-4").wants(t, "the question", http.StatusOK, "Not possible for", "scratch")
	for _, form := range []url.Values{{"passphrase": {"short"}, "repeat": {"short"}}, {"passphrase": {"long enough one"}, "repeat": {"long enough two"}}} {
		form["id"] = []string{"device-1"}
		a := p.post("/inventory/devices/export", form)
		a.wants(t, "refused", http.StatusUnprocessableEntity, "Nothing was exported")
		if strings.Contains(a.body, form.Get("passphrase")+`"`) {
			t.Error("the passphrase is in the page")
		}
	}
	a := p.post("/inventory/devices/export", url.Values{"id": {"device-1"}, "passphrase": {"long enough one"}, "repeat": {"long enough one"}})
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/zip" || !strings.Contains(a.header.Get("Content-Disposition"), `"KeywardDeviceKeys-20261122T093000Z.zip"`) {
		t.Errorf("export: %d %v", a.status, a.header)
	}
}

// H-01, H-27: rules are edited by plain forms, and what is wrong is said beside its control.
func TestPolicy_rulesByForms(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	form := url.Values{"version": {"0"}, "name": {"Web"}, "on_match": {"approve"}, "on_failure": {"deny"}, "lease_seconds": {"5m"}, "heartbeat_seconds": {"30s"}, "revoke_mode": {"unmount"},
		"edit": {"add-rule"}, "new-fact": {"source_ipv4"}}
	p.post("/policies/new", form).wants(t, "add a rule", http.StatusOK, `name="rules[0].conditions[0].operator"`, `value="Web"`)
	form.Set("rules[0].fact", "source_ipv4")
	form.Set("rules[0].conditions[0].operator", "in")
	form.Set("rules[0].conditions[0].value", "192.0.2.0/24")
	form.Set("edit", "add-condition:0")
	p.post("/policies/new", form).wants(t, "add a condition", http.StatusOK, `name="rules[0].conditions[1].operator"`, `name="rules[0].match"`, `value="192.0.2.0/24"`)
	form.Set("rules[0].conditions[1].operator", "=")
	form.Set("rules[0].conditions[1].value", "300.1.1.1")
	form.Set("edit", "remove-condition:0:0")
	a := p.post("/policies/new", form)
	a.wants(t, "remove a condition", http.StatusOK, `value="300.1.1.1"`)
	if strings.Contains(a.body, "192.0.2.0/24\"") {
		t.Error("the condition is still there")
	}
	form.Del("edit")
	form.Set("rules[0].match", "any")
	a = p.post("/policies/new", form)
	a.wants(t, "H-27", http.StatusUnprocessableEntity, `id="f-rules[0].conditions[1].value-error"`)
	form.Set("rules[0].conditions[1].value", "198.51.100.7")
	form.Set("lease_seconds", "soon")
	p.post("/policies/new", form).wants(t, "a lease that is no time", http.StatusUnprocessableEntity, `id="f-lease_seconds-error"`, "30s, 15m")
	form.Set("lease_seconds", "1h")
	p.post("/policies/new", form).leadsTo(t, "saved", "/policies")
	p.get("/policies").wants(t, "the list", http.StatusOK, "Web", "Approve")
	form.Set("edit", "remove-rule:99")
	p.post("/policies/new", form).wants(t, "a rule that is not there", http.StatusOK, `name="rules[0].fact"`)
}

// Rules on a package, a product and by an expression: the form asks of which, and says where an expression is wrong.
func TestPolicy_rulesWithSubjectsAndExpressions(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	form := url.Values{"version": {"0"}, "name": {"Web"}, "on_match": {"approve"}, "on_failure": {"deny"}, "lease_seconds": {"5m"}, "heartbeat_seconds": {"30s"}, "revoke_mode": {"unmount"},
		"rules[0].fact": {"package_version"}, "rules[0].conditions[0].operator": {">="}, "rules[0].conditions[0].value": {"3.0.11"},
		"rules[1].fact": {"av_pattern_date"}, "rules[1].subject": {"openssl"}, "rules[1].conditions[0].operator": {">="}, "rules[1].conditions[0].value": {"now-3d"},
		"rules[2].fact": {"expression"}, "rules[2].conditions[0].operator": {"holds"}, "rules[2].conditions[0].value": {"facts.guest_os == \"linux\" &&\r\n facts.shoe_size > 42"},
		"rules[3].fact": {"guest_os"}, "rules[3].subject": {"left over"}, "rules[3].conditions[0].operator": {"="}, "rules[3].conditions[0].value": {"linux"},
		"edit": {"refresh"}}
	a := p.post("/policies/new", form)
	a.wants(t, "the fields", http.StatusOK, `id="f-rules[0].subject"`, ">Package<", `<select id="f-rules[1].subject"`, `<option value="ClamAV" selected>`,
		`<textarea id="f-rules[2].conditions[0].value"`, "facts.listening_tcp_ports</code>", "facts.package_version[&#34;openssl&#34;]</code>")
	if strings.Contains(a.body, `name="rules[2].subject"`) || strings.Contains(a.body, `name="rules[3].subject"`) {
		t.Error("a rule on the whole machine asks for a subject")
	}
	form.Del("edit")
	form.Set("rules[1].subject", "ClamAV")
	form.Del("rules[3].subject")
	p.post("/policies/new", form).wants(t, "H-27", http.StatusUnprocessableEntity, `id="f-rules[0].subject-error"`, "of which package",
		`id="f-rules[2].conditions[0].value-error"`, "ine 2, column 7: undefined field &#39;shoe_size&#39;")
	form.Set("rules[0].subject", "openssl")
	form.Set("rules[2].conditions[0].value", "facts.guest_os == \"linux\"")
	p.post("/policies/new", form).leadsTo(t, "saved", "/policies")
}

// G-05, G-06, G-11.
func TestPolicy_defaultKeepsItsNameAndCannotBeDeleted(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	p.get("/policies/policy-1").wants(t, "form", http.StatusOK, "The default policy keeps its name.")
	p.post("/policies/policy-1", url.Values{"version": {"1"}, "name": {"Mine"}, "on_match": {"manual"}, "on_failure": {"manual"}, "lease_seconds": {"300"}, "heartbeat_seconds": {"30"},
		"revoke_mode": {"unmount"}, "then": {"stay"}}).leadsTo(t, "save", "/policies/policy-1")
	p.get("/policies/policy-1").wants(t, "name kept", http.StatusOK, `value="Default Policy"`)
	p.get("/policies/delete?id=policy-1&id=policy-2&id=policy-3").wants(t, "delete", http.StatusOK, "cannot be deleted", "Assign them to another policy first", `name="id" value="policy-3"`)
}

// S-01, S-06, S-10.
// where several people must agree, one asks, others approve, and the one who asked fetches.
func TestExports_askApproveFetch(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.as("security-administrator")
	p.get("/inventory/exports").wants(t, "the list", http.StatusOK, "2 of 3", "1 of 2", "pgdata", "Recovery key", `href="/inventory/exports/export-1"`, `data-live="exports"`)
	notice := `href="/inventory/exports/export-1">Key export</a>`
	p.get("/instances").wants(t, "the notice", http.StatusOK, "Export waits for people", notice, "An audit of the backup site, ticket 4711. 2 of 3 people agree.")
	for _, unaware := range []string{"account-administrator", "key-approver"} {
		if strings.Contains(s.as(unaware).get("/instances").body, notice) {
			t.Errorf("%s is told of exports", unaware)
		}
	}
	p.get("/inventory/exports/export-1").wants(t, "one that another asked for", http.StatusOK, "2 of 3 people agree, sara who asked among them.", "An audit of the backup site", "noor", "Counts until", ">Approve<")
	p.post("/inventory/exports/export-1/approve", url.Values{"version": {"1"}, "reason": {"known"}}).leadsTo(t, "approve", "/inventory/exports/export-1")
	p.get("/inventory/exports/export-1").wants(t, "approved", http.StatusOK, "Your approval was recorded.", "Approved", "3 of 3 people agree", "known")
	if strings.Contains(p.get("/instances").body, notice) {
		t.Error("an approved export still waits")
	}
	p.post("/inventory/exports/export-4/deny", url.Values{"version": {"1"}, "reason": {"no"}}).leadsTo(t, "deny", "/inventory/exports/export-4")
	p.get("/inventory/exports/export-4").wants(t, "denied", http.StatusOK, "Denied", "nothing is left to decide")

	p.post("/inventory/exports/export-2/fetch", url.Values{"passphrase": {"nine words of it"}, "repeat": {"nine words"}}).wants(t, "another repetition", http.StatusUnprocessableEntity, "differs from the passphrase")
	a := p.post("/inventory/exports/export-2/fetch", url.Values{"passphrase": {"nine words of it"}, "repeat": {"nine words of it"}})
	if a.status != http.StatusOK || a.header.Get("Content-Type") != "application/zip" || !strings.Contains(a.header.Get("Content-Disposition"), "KeywardDeviceKeys-20261122T093000Z.zip") {
		t.Errorf("fetched: %d %v", a.status, a.header)
	}
	p.post("/inventory/exports/export-2/fetch", url.Values{"passphrase": {"nine words of it"}, "repeat": {"nine words of it"}}).wants(t, "a second time", http.StatusConflict, "nothing is left to decide")

	p.get("/inventory/devices/export?id=device-1").wants(t, "one is enough", http.StatusOK, `name="passphrase"`)
	s.as("account-administrator").post("/admin/export-settings", url.Values{"people": {"2"}}).leadsTo(t, "settings", "/admin/export-settings")
	s.as("account-administrator").post("/admin/export-settings", url.Values{"people": {"many"}}).wants(t, "no number", http.StatusUnprocessableEntity, "whole number")
	p.get("/inventory/devices/export?id=device-1").wants(t, "two are needed", http.StatusOK, `name="reason"`, ">Ask<", "Others have to agree")
	p.post("/inventory/devices/export", url.Values{"id": {"device-1"}}).wants(t, "no reason", http.StatusUnprocessableEntity, "Is needed: the others decide by it.")
	p.post("/inventory/devices/export", url.Values{"id": {"device-1"}, "reason": {"the site moves"}}).leadsTo(t, "asked", "/inventory/exports/export-5")
	p.get("/inventory/exports/export-5").wants(t, "waits", http.StatusOK, "The export was asked for.", "the site moves", "Others have to agree", ">Cancel the Export<")
	p.post("/inventory/exports/export-5/cancel", url.Values{"version": {"1"}}).leadsTo(t, "cancel", "/inventory/exports/export-5")
}

// the recovery key is set, replaced and removed by forms, with who holds it and which machines are ready.
func TestRecoveryKey_page(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.as("security-administrator")
	p.get("/admin/recovery-key").wants(t, "page", http.StatusOK, "2 of 3 shares", "Otto Brandt", "user:sven", "<strong>1</strong> <span>of 3 machines are ready", "Current", "Out of date", `href="/instances/instance-1"`)
	p.post("/admin/recovery-key/set", url.Values{"public_key": {"nonsense"}}).wants(t, "no key", http.StatusUnprocessableEntity, "Is no recovery public key.")
	file := "-----BEGIN KEYWARD RECOVERY PUBLIC KEY-----\r\nxyz"
	p.post("/admin/recovery-key/set", url.Values{"public_key": {file}}).leadsTo(t, "replace", "/admin/recovery-key")
	p.get("/admin/recovery-key").wants(t, "replaced", http.StatusOK, "Saved.", "c0ffee", "Noor Haddad")
	p.get("/admin/recovery-key/remove").wants(t, "the question", http.StatusOK, "takes nothing back from the holders")
	p.post("/admin/recovery-key/remove", nil).leadsTo(t, "remove", "/admin/recovery-key")
	p.get("/admin/recovery-key").wants(t, "none", http.StatusOK, "No recovery key", ">Set Recovery Key<")
	s.as("account-administrator").post("/admin/export-settings", url.Values{"people": {"2"}})
	p.get("/admin/recovery-key/set").wants(t, "others have to agree", http.StatusOK, `name="reason"`, ">Ask<")
	p.post("/admin/recovery-key/set", url.Values{"public_key": {file}, "reason": {"Otto left"}}).leadsTo(t, "asked", "/inventory/exports/export-5")
}

// a new key waits beside the old one; its job is shown with why it waits, and can be taken back.
func TestRotation_askedShownCancelled(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	p.get("/inventory/jobs").wants(t, "jobs", http.StatusOK, "Rotate key", "cannot give a volume", "Waiting", "file system, 40 %", "mkfs.ext4 failed", `href="/inventory/devices/device-2"`, `data-live="devices"`)
	p.get("/inventory/devices").wants(t, "the list", http.StatusOK, "Rotation of its key waits")
	p.get("/inventory/devices/device-1/rotate-key").wants(t, "the question", http.StatusOK, "kept beside the one that the volume has", ">Rotate Key<")
	p.get("/inventory/devices/device-4/rotate-key").wants(t, "a device without a key", http.StatusOK, "Not possible for")
	p.post("/inventory/devices/device-2/rotate-key", nil).wants(t, "a second one", http.StatusConflict, "a rotation waits")
	p.post("/inventory/devices/device-1/rotate-key", url.Values{"reason": {"quarterly"}}).leadsTo(t, "rotate", "/inventory/devices/device-1")
	p.get("/inventory/devices/device-1").wants(t, "the device", http.StatusOK, "A new key was made", "quarterly", "has not answered yet", ">Cancel Rotation<")
	p.get("/inventory/devices/device-1/cancel-rotation").wants(t, "the question", http.StatusOK, "The new key is destroyed.")
	p.post("/inventory/devices/device-1/cancel-rotation", nil).leadsTo(t, "cancel", "/inventory/devices/device-1")
	p.get("/inventory/devices/device-1/cancel-rotation").wants(t, "nothing left", http.StatusOK, "No rotation of its key waits.")
}

func TestLogs_queryAndExport(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("auditor")
	p.get("/logs?type=key").wants(t, "by type", http.StatusOK, "key-request.pending", "1–8 of 8", "2026-11-22 ", `href="/logs/export.csv?type=key"`)
	p.get("/logs?from=yesterday").wants(t, "no date", http.StatusUnprocessableEntity, "Enter a date and time")
	p.get("/logs?from=2026-11-22T10:00&to=2026-11-21T10:00").wants(t, "backwards", http.StatusUnprocessableEntity, "before the start")
	csv := p.get("/logs/export.csv?type=key")
	if csv.status != http.StatusOK || strings.Count(csv.body, "\n") != 8 || !strings.HasPrefix(csv.header.Get("Content-Type"), "text/csv") ||
		!strings.HasPrefix(csv.header.Get("Content-Disposition"), "attachment") {
		t.Errorf("CSV: %d %v\n%s", csv.status, csv.header, csv.body)
	}
	if jsonl := p.get("/logs/export.jsonl"); strings.Count(jsonl.body, "\n") != 40 || !strings.Contains(jsonl.header.Get("Content-Disposition"), ".jsonl") {
		t.Errorf("JSON Lines: %d lines, %v", strings.Count(jsonl.body, "\n"), jsonl.header)
	}
}

// B-07, B-08, B-13, D-26, C-07.
func TestAdministration_usersTokensPassword(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("account-administrator")
	user := url.Values{"name": {"rita"}, "display_name": {"Rita"}, "email": {"rita@example.org"}, "role": {"auditor"}, "password": {"Secret-word-9"}}
	p.post("/admin/users/new", user).leadsTo(t, "add", "/admin/users")
	p.get("/admin/users").wants(t, "users", http.StatusOK, "rita@example.org", "Locked until")
	p.get("/admin/roles").wants(t, "roles", http.StatusOK, "Security Administrator", "<strong>2</strong> <span>users</span>", "Export device keys")
	p.get("/admin/account").wants(t, "account", http.StatusOK, "bf2ce005-f482-4d95-aa2a-6a3e94d4780c", "https://keys.example.org:8444")

	created := p.post("/admin/tokens/new", url.Values{"description": {"rack 9"}, "uses": {"3"}, "expire_seconds": {"12h"}})
	created.wants(t, "token", http.StatusOK, "kw1.", "shown this once")
	if strings.Contains(p.get("/admin/tokens").body, "kw1.") {
		t.Error("the token is shown twice")
	}
	p.post("/admin/tokens/new", url.Values{"uses": {"many"}, "expire_seconds": {"12h"}}).wants(t, "no number", http.StatusUnprocessableEntity, `id="f-uses-error"`)

	for _, form := range []url.Values{{"current": {"Correct-horse-7"}, "new": {"Another-word-1"}, "confirm": {"Another-word-2"}}, {"current": {"wrong"}, "new": {"Another-word-1"}, "confirm": {"Another-word-1"}}} {
		a := p.post("/admin/password", form)
		a.wants(t, "refused", http.StatusUnprocessableEntity)
		if strings.Contains(a.body, "Another-word") {
			t.Error("the page gives a password back")
		}
	}
	p.post("/admin/password", url.Values{"current": {"Correct-horse-7"}, "new": {"Another-word-1"}, "confirm": {"Another-word-1"}}).leadsTo(t, "changed", "/admin/password")
}

func TestPages_refusalsKeepWhatWasTyped(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.as("account-administrator")
	s.broker.Refuse = problem.InvalidFields(map[string]string{"name": "is taken", "elsewhere": "is odd"})
	p.post("/admin/users/new", url.Values{"name": {"rita"}, "role": {"auditor"}}).wants(t, "user", http.StatusUnprocessableEntity, `value="rita"`, "Is taken.", "elsewhere: is odd")
	p.post("/inventory/images/image-1", url.Values{"name": {"new name"}}).wants(t, "image", http.StatusUnprocessableEntity, `value="new name"`, `id="f-name-error"`)
	s.broker.Refuse = problem.Conflict("The device is in use.", "Stop the agent first.")
	p.post("/inventory/devices/device-8", url.Values{"version": {"3"}, "name": {"typed"}}).wants(t, "device", http.StatusConflict, "The device is in use.", "Stop the agent first.", `value="typed"`)

	// What is the broker's own fault goes to its log; the page shows the request's ID and nothing of the error.
	s.broker.Refuse = errors.New("dial tcp 10.0.0.3:5432: secret detail")
	a := p.post("/admin/users/new", url.Values{"name": {"rita"}, "role": {"auditor"}})
	a.wants(t, "fault", http.StatusInternalServerError, "in the broker's log")
	if strings.Contains(a.body, "secret detail") {
		t.Error("the page shows an internal error")
	}
}

// The proof of a record and of a beginning are shown as they were checked, and downloaded as they are.
func TestProofs_shownAndDownloaded(t *testing.T) {
	t.Parallel()
	p := newSite(t).as("auditor")
	p.get("/logs/proofs").wants(t, "the page", http.StatusOK, "1–3 of 3", `href="/logs/proofs?from=24"`, `href="/logs/proofs/checkpoint.json"`, `href="/logs/proofs/audit.pem"`)
	p.get("/logs/proofs?record=7").wants(t, "a record", http.StatusOK, "Record 7 is in the log", "Signed up to record", "/logs/proofs/proof.json?record=7", "audit verify keyward-record-7.json")
	p.get("/logs/proofs?from=24").wants(t, "a beginning", http.StatusOK, "The log of record 24 is the beginning of that of record 40")
	p.get("/logs/proofs?record=4000").wants(t, "no such record", http.StatusNotFound, "no such record", `value="4000"`)
	p.get("/logs/proofs?record=first").wants(t, "no number", http.StatusUnprocessableEntity, "Enter the number of a record")
	raw := p.get("/logs/proofs/proof.json?record=7")
	if r, err := chain.VerifyProof([]byte(raw.body), chain.Options{}); err != nil || r.Record.Sequence != 7 || raw.header.Get("Content-Disposition") != `attachment; filename="keyward-record-7.json"` {
		t.Errorf("the file: %+v, %v, %v", r, err, raw.header)
	}
	p.get("/logs/proofs/audit.pem").wants(t, "the key", http.StatusOK, "BEGIN PUBLIC KEY")
	p.get("/logs/proofs/checkpoint.json").wants(t, "the signature", http.StatusOK, `"sequence": 40`)
}

// S-07, S-11, C-04: archives are downloaded by whoever exports logs and deleted by an Auditor alone, with the month typed.
func TestArchives_downloadAndDelete(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.as("auditor")
	p.get("/logs/archived").wants(t, "the list", http.StatusOK, "2025-09", "2024-09", "61240 to 88012", "26773", "/logs/archived/delete?month=2024-09", "/logs/export.csv?from=2024-09-01T00%3A00",
		"ticket 5120", "user:otto")
	if page := p.get("/logs/archived").body; strings.Contains(page, "delete?month=2025-09") {
		t.Error("an archive that is kept can be deleted")
	}
	if page := s.as("data-analyst").get("/logs/archived").body; strings.Contains(page, "delete?month") || !strings.Contains(page, "/logs/export.csv?from=") {
		t.Error("a Data Analyst may delete archives, or not read them")
	}
	p.get("/logs/archived/delete?month=2024-09").wants(t, "the question", http.StatusOK, `data-match="2024-09"`, "signed tombstone")
	p.post("/logs/archived/delete", url.Values{"month": {"2024-09"}, "confirm": {"2024-9"}, "reason": {"old"}}).wants(t, "not typed", http.StatusUnprocessableEntity, "type it exactly")
	p.post("/logs/archived/delete", url.Values{"month": {"2024-09"}, "confirm": {"2024-09"}, "reason": {"old"}}).leadsTo(t, "deleted", "/logs/archived")
	p.get("/logs/archived").wants(t, "the word", http.StatusOK, "The archives were deleted.")
}
