package httpapi_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"keyward/broker/api"
	"keyward/broker/internal/httpapi"
	"keyward/broker/internal/store"
	"keyward/rbac"
)

// bodies are well-formed bodies of the routes that take one, so that a refusal is about who asks and not about the form.
// What a body names belongs to the account that is given.
func bodies(ids map[string]string) map[string]any {
	device := api.DeviceWrite{Name: "x", Version: 1}
	raid := api.RAIDSetWrite{Name: "x", Platform: "linux", FileSystem: "ext4", MountPoint: "/mnt/x", KeyBits: 256, MemberIDs: []string{ids["devices"], ids["spare"]}}
	pol := api.Policy{Name: "x", Rules: []api.Rule{}, OnMatch: api.ActionManual, OnFailure: api.ActionManual, LeaseSeconds: 60, HeartbeatSeconds: 10,
		RevokeMode: api.RevokeUnmount, ImageIDs: []string{}, DeviceIDs: []string{}, Version: 1}
	user := api.UserWrite{Name: "somebody", Role: api.RoleAuditor, Password: password}
	return map[string]any{
		"POST /api/v1/sessions":                          api.LogOn{Account: "x", User: "x", Password: "x"},
		"PUT /api/v1/password":                           api.PasswordChange{Current: "x", New: "x"},
		"POST /api/v1/users":                             user,
		"PUT /api/v1/users/{id}":                         user,
		"POST /api/v1/enrolment-tokens":                  api.EnrolmentTokenWrite{Uses: 1, ExpireSeconds: 60},
		"PUT /api/v1/time-settings":                      api.TimeSettings{TimeZone: "UTC", DateFormat: "x"},
		"PUT /api/v1/deep-security-settings":             api.DeepSecuritySettingsWrite{Port: 4119},
		"POST /api/v1/deep-security-settings/test":       api.DeepSecuritySettingsWrite{Port: 4119},
		"POST /api/v1/key-requests/{id}/approve":         api.Decision{},
		"POST /api/v1/key-requests/{id}/deny":            api.Decision{},
		"POST /api/v1/key-requests/{id}/revoke":          api.Decision{},
		"POST /api/v1/key-requests/{id}/ignore":          api.Decision{},
		"POST /api/v1/key-requests/{id}/assign-policy":   api.PolicyAssignment{PolicyID: ids["policies"]},
		"POST /api/v1/policies":                          pol,
		"PUT /api/v1/policies/{id}":                      pol,
		"POST /api/v1/policies/preview":                  pol,
		"POST /api/v1/policies/replay":                   pol,
		"POST /api/v1/policies/delete":                   map[string][]string{"ids": {ids["policies"]}},
		"PUT /api/v1/images/{id}":                        api.ImageWrite{Name: "x"},
		"POST /api/v1/images/{id}/revoke-certificate":    api.Decision{},
		"POST /api/v1/instances/{id}/revoke-certificate": api.Decision{},
		"POST /api/v1/instances/{id}/accept-key":         api.Decision{},
		"POST /api/v1/instances/{id}/refuse-key":         api.Decision{},
		"PUT /api/v1/devices/{id}":                       device,
		"POST /api/v1/devices/{id}/encrypt":              api.EncryptWrite{Confirm: "x"},
		"POST /api/v1/devices/{id}/unconfigure":          api.UnconfigureWrite{Confirm: "x"},
		"POST /api/v1/devices/{id}/copy-configuration":   map[string]string{"source_id": ids["devices"]},
		"POST /api/v1/devices/export":                    api.ExportWrite{DeviceIDs: []string{ids["devices"]}, Passphrase: "correct horse battery"},
		"POST /api/v1/key-exports":                       api.KeyExportWrite{DeviceIDs: []string{ids["devices"]}, Reason: "x"},
		"POST /api/v1/key-exports/{id}/approve":          api.Decision{},
		"POST /api/v1/key-exports/{id}/deny":             api.Decision{},
		"POST /api/v1/key-exports/{id}/cancel":           api.Decision{},
		"POST /api/v1/key-exports/{id}/fetch":            api.KeyExportFetch{Passphrase: "correct horse battery"},
		"PUT /api/v1/export-settings":                    api.ExportSettings{People: 1},
		"POST /api/v1/recovery-key/ask":                  api.RecoveryKeyAsk{PublicKey: "x", Reason: "x"},
		"POST /api/v1/raid-sets":                         raid,
		"PUT /api/v1/raid-sets/{id}":                     raid,
		"POST /api/v1/raid-sets/{id}/unconfigure":        api.UnconfigureWrite{Confirm: "x"},
		"POST /agent/v1/key-requests/{id}/delivery":      api.DeliveryRequest{PublicKey: make([]byte, 1216)},
		"POST /agent/v1/key-requests/{id}/events":        api.RequestEvent{Event: api.EventFailed},
		"POST /agent/v1/jobs/{id}/key":                   api.JobKeyRequest{PublicKey: make([]byte, 1216), Nonce: "x"},
		"POST /agent/v1/jobs/{id}/progress":              api.JobProgress{Phase: "header"},
		"POST /api/v1/devices/{id}/cancel-encryption":    nil,
		"POST /api/v1/devices/{id}/rotate-key":           api.KeyRotationWrite{},
		"POST /api/v1/devices/{id}/cancel-key-rotation":  nil,
		"POST /api/v1/second-factor":                     api.FactorStart{Password: "x"},
		"POST /api/v1/second-factor/confirm":             api.FactorCode{Code: "000000"},
		"POST /api/v1/second-factor/show":                api.FactorCode{Code: "000000"},
		"POST /api/v1/second-factor/recovery-codes":      api.FactorCode{Code: "000000"},
		"POST /api/v1/second-factor/remove":              api.FactorCode{Code: "000000"},
		"PUT /api/v1/second-factor-settings":             api.FactorSettings{SecondFactor: "none"},
		"POST /api/v1/instances/{id}/clear-suspicion":    api.Clearance{Reason: "x"},
		"PUT /api/v1/recovery-key":                       api.RecoveryKeyWrite{PublicKey: "x"},
		"POST /agent/v1/offline-records":                 api.OfflineRecords{Records: []api.OfflineRecord{{Payload: []byte{1}, Signature: []byte{1}}}},
		"POST /agent/v1/nonce":                           nil,
		"POST /agent/v1/devices/{id}/import-offer":       api.ImportOfferRequest{Nonce: "x"},
		"POST /agent/v1/devices/{id}/import": api.ImportKey{Nonce: "x", EncapsulatedKey: []byte{1}, SealedKey: []byte{1},
			Volume: api.VolumeRecord{Cipher: api.CipherXTS, KeyBits: 256, DigestSalt: []byte{1}, Digest: []byte{1}, HeaderHash: []byte{1}}},
		"POST /api/v1/audit/archives/delete": api.AuditDelete{Month: "2000-01", Confirm: "2000-01", Reason: "x"},
		"PUT /api/v1/integrity-settings":     api.CheckSettings{Schedule: "daily", Time: "03:00", RetrySeconds: 3600},
	}
}

// do sends one request of a route and returns status and body.
func (r *rig) do(c *http.Client, base, token string, rt httpapi.Route, path string, body any) (int, string) {
	r.t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			r.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), rt.Method, base+path, in)
	if err != nil {
		r.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := c.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", rt.Method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64))
	if err != nil && res.Header.Get("Content-Type") != "text/event-stream" {
		r.t.Fatalf("%s %s: %v", rt.Method, path, err)
	}
	return res.StatusCode, string(text)
}

func (r *rig) browser(cert ...tls.Certificate) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.ca.CACert())
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: cert}}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// furnish gives an account one of everything and returns the IDs by the first word of their routes.
func furnish(o *org) (map[string]string, *box, *asked) {
	o.t.Helper()
	ctx := o.t.Context()
	b := o.machine("db1")
	d, _ := b.encrypted("data")
	raid := b.publish(disk("data"), disk("spare"), disk("r1"), disk("r2"), disk("job"))
	p := o.policy(noPort80("web"), d)
	a := b.ask(d.ID, "80")
	var set api.Device
	if err := o.admin.Do(ctx, "POST", "/api/v1/raid-sets", api.RAIDSetWrite{Name: "set", Platform: "linux", FileSystem: "ext4", MountPoint: "/mnt/set",
		KeyBits: 256, MemberIDs: []string{raid["r1"].ID, raid["r2"].ID}}, &set); err != nil {
		o.t.Fatal(err)
	}
	o.configured(raid["job"].ID, "/mnt/job")
	if _, err := o.admin.EncryptDevice(ctx, raid["job"].ID, api.EncryptWrite{Confirm: "job"}); err != nil {
		o.t.Fatal(err)
	}
	var users []api.User
	if err := o.admin.Do(ctx, "GET", "/api/v1/users", nil, &users); err != nil {
		o.t.Fatal(err)
	}
	var sessions []api.Session
	if err := o.admin.Do(ctx, "GET", "/api/v1/sessions", nil, &sessions); err != nil {
		o.t.Fatal(err)
	}
	token := must[api.EnrolmentTokenInfo](o.t)(o.admin.CreateToken(ctx, api.EnrolmentTokenWrite{Uses: 1, ExpireSeconds: 3600}))
	return map[string]string{"devices": d.ID, "spare": raid["spare"].ID, "policies": p.ID, "images": d.ImageID, "instances": b.id, "key-requests": a.ID,
		"raid-sets": set.ID, "users": users[0].ID, "sessions": sessions[0].ID, "enrolment-tokens": token.ID, "notices": notice(o, a), "jobs": b.command(api.CommandEncrypt).JobID, "key-exports": o.askExport(d.ID).ID}, b, a
}

// notice keeps a message about a request, as a failed check would.
func notice(o *org, a *asked) string {
	o.t.Helper()
	n := store.Notice{Kind: "integrity-failed", RequestID: a.ID, InstanceID: a.box.id, DeviceID: a.DeviceID, Text: "The integrity check failed."}
	err := o.store.Tx(o.t.Context(), func(tx *store.Tx) error { return store.In[store.Notice](tx.Tenant(o.id)).Insert(&n) })
	if err != nil {
		o.t.Fatal(err)
	}
	return n.ID
}

func fillIn(t *testing.T, path string, ids map[string]string) string {
	t.Helper()
	if !strings.Contains(path, "{id}") {
		return path
	}
	word := strings.Split(path, "/")[3]
	if ids[word] == "" {
		t.Fatalf("no ID for %s: the test's account needs one", path)
	}
	return strings.Replace(path, "{id}", ids[word], 1)
}

// Every role on every registered route of the people's interface: exactly what the matrix says, and it is said before
// anything else is looked at.
func TestRoutes_everyRoleOnEveryRoute(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		matrix, err := rbac.New()
		if err != nil {
			t.Fatal(err)
		}
		c := r.browser()
		none := map[string]string{}
		for _, word := range []string{"devices", "policies", "images", "instances", "key-requests", "raid-sets", "users", "sessions", "enrolment-tokens", "notices", "key-exports"} {
			none[word] = "0197f1f0-0000-7000-8000-000000000000"
		}
		form := bodies(none)
		routes := 0
		for _, rt := range r.people.Routes() {
			if rt.Open {
				continue
			}
			routes++
			path := fillIn(t, rt.Path, none)
			body := form[rt.Method+" "+rt.Path]
			if status, _ := r.do(c, r.peopleAt, "", rt, path, body); status != http.StatusUnauthorized {
				t.Errorf("%s %s without a session: %d", rt.Method, rt.Path, status)
			}
			for _, role := range allRoles {
				allowed := matrix.Allowed(string(role), rt.Operation)
				if allowed && rt.Path == "/api/v1/events" {
					continue // it would stream for half an hour
				}
				status, text := r.do(c, r.peopleAt, o.person(role).Token(), rt, path, body)
				if forbidden := status == http.StatusForbidden && strings.Contains(text, "forbidden"); forbidden == allowed || status >= 500 {
					t.Errorf("%s on %s %s (%s): %d %s; allowed is %v", role, rt.Method, rt.Path, rt.Operation, status, text, allowed)
				}
			}
		}
		if routes < 45 {
			t.Errorf("only %d routes were walked", routes)
		}
	})
}

// Tenants never see each other, on any route of either interface: another account's IDs are like IDs that do not exist.
func TestRoutes_anotherAccountsThingsAreNotThere(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		victim, intruder := r.org("acme"), r.org("globex")
		ids, box, ask := furnish(victim)
		own, ownBox, _ := furnish(intruder)
		before := len(allEvents(victim))
		form := bodies(ids)
		matrix := must[*rbac.Enforcer](t)(rbac.New())
		c := r.browser()
		for _, rt := range r.people.Routes() {
			body, hasBody := form[rt.Method+" "+rt.Path]
			switch {
			case rt.Open:
			case strings.Contains(rt.Path, "{id}"):
				role := api.RoleAccountAdmin
				if !matrix.Allowed(string(role), rt.Operation) {
					role = api.RoleSecurityAdmin
				}
				status, text := r.do(c, r.peopleAt, intruder.person(role).Token(), rt, fillIn(t, rt.Path, ids), body)
				if status != http.StatusNotFound {
					t.Errorf("%s %s of another account: %d %s", rt.Method, rt.Path, status, text)
				}
				// The intruder's own object together with another account's in the body.
				if hasBody && body != nil && !strings.HasSuffix(rt.Path, "/revoke-certificate") { // its machine calls below
					if status, text = r.do(c, r.peopleAt, intruder.person(role).Token(), rt, fillIn(t, rt.Path, own), body); status == http.StatusOK && mentions(body, ids) {
						t.Errorf("%s %s took another account's ID in its body: %s", rt.Method, rt.Path, text)
					}
				}
			case rt.Path == "/api/v1/devices/export":
				status, text := r.do(c, r.peopleAt, intruder.person(api.RoleSecurityAdmin).Token(), rt, rt.Path, body)
				if status != http.StatusNotFound {
					t.Errorf("exporting another account's key: %d %s", status, text)
				}
			case rt.Method == http.MethodGet && rt.Path != "/api/v1/events":
				res := fetch(t, r, c, intruder.admin.Token(), rt.Path)
				for word, id := range ids {
					if strings.Contains(res, id) {
						t.Errorf("GET %s shows another account's %s", rt.Path, word)
					}
				}
			}
		}
		machine := r.browser(ownBox.cert)
		for _, rt := range r.agents.Routes() {
			if !strings.Contains(rt.Path, "{id}") {
				continue
			}
			status, text := r.do(machine, r.agentsAt, "", rt, fillIn(t, rt.Path, ids), form[rt.Method+" "+rt.Path])
			if status != http.StatusNotFound && !(status == 422 && strings.Contains(rt.Path, "/jobs/{id}/key")) {
				t.Errorf("%s %s of another account: %d %s", rt.Method, rt.Path, status, text)
			}
		}
		in, _ := ownBox.prepare(ids["devices"])
		_, err := ownBox.Request(t.Context(), in)
		wantProblem(t, err, 403, "not-your-device")
		ask.is(api.KeyPending)
		victim.deviceIs(ids["devices"], api.DeviceEncrypted)
		box.beat()
		if after := len(allEvents(victim)); after != before {
			t.Errorf("the victim's log grew by %d records", after-before)
		}
	})
}

func mentions(body any, ids map[string]string) bool {
	text, _ := json.Marshal(body)
	for _, id := range ids {
		if bytes.Contains(text, []byte(id)) {
			return true
		}
	}
	return false
}

func fetch(t *testing.T, r *rig, c *http.Client, token, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", r.peopleAt+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Every agents' route but enrolment needs the certificate of an enrolled machine.
func TestRoutes_agentsNeedACertificate(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		form := bodies(map[string]string{})
		none := map[string]string{}
		for _, word := range []string{"key-requests", "jobs", "devices"} {
			none[word] = "0197f1f0-0000-7000-8000-000000000000"
		}
		c := r.browser()
		for _, rt := range r.agents.Routes() {
			if rt.Open {
				continue
			}
			status, text := r.do(c, r.agentsAt, "", rt, fillIn(t, rt.Path, none), form[rt.Method+" "+rt.Path])
			if status != http.StatusUnauthorized || !strings.Contains(text, "certificate-missing") {
				t.Errorf("%s %s: %d %s", rt.Method, rt.Path, status, text)
			}
		}
	})
}

func TestRoutes_hugeAndMalformedBodiesAreRefused(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		b := o.machine("db1")
		c := r.browser(b.cert)
		huge := strings.Repeat(" ", 10<<20) + "{}"
		for path, want := range map[string]int{api.PathEnrol: 413, api.PathHeartbeat: 413, api.PathInventory: 413} {
			method := http.MethodPost
			if path == api.PathInventory {
				method = http.MethodPut
			}
			req, _ := http.NewRequestWithContext(t.Context(), method, r.agentsAt+path, strings.NewReader(huge))
			req.Header.Set("Content-Type", "application/json")
			res, err := c.Do(req)
			if err != nil {
				// The broker may close the connection before all of it was sent.
				if !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "broken pipe") && !strings.Contains(err.Error(), "closed") {
					t.Errorf("%s: %v", path, err)
				}
				continue
			}
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("%s with 10 MiB: %d", path, res.StatusCode)
			}
		}
		rt := httpapi.Route{Method: "POST"}
		for _, body := range []any{"a string", []int{1}, map[string]any{"evidence": 7}, map[string]any{"no_such_member": true}} {
			if status, text := r.do(c, r.agentsAt, "", rt, api.PathHeartbeat, body); status != 422 {
				t.Errorf("%v: %d %s", body, status, text)
			}
		}
		if _, err := b.Devices(t.Context()); err != nil {
			t.Fatalf("after all that the broker does not answer: %v", err)
		}
	})
}
