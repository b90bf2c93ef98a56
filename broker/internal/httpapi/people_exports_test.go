package httpapi_test

import (
	"archive/zip"
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
)

// askExport asks for the key of a device as the Security Administrator.
func (o *org) askExport(deviceID string) api.KeyExport {
	o.t.Helper()
	return must[api.KeyExport](o.t)(o.person(api.RoleSecurityAdmin).AskExport(o.t.Context(), api.KeyExportWrite{DeviceIDs: []string{deviceID}, Reason: "the site moves"}))
}

// exportPeople sets how many have to agree.
func (o *org) exportPeople(n int64) error {
	return o.admin.Do(o.t.Context(), "PUT", "/api/v1/export-settings", api.ExportSettings{People: n}, nil)
}

var exportPassphrase = api.KeyExportFetch{Passphrase: "correct horse battery"}

// files are the files of an archive.
func files(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		t.Fatalf("the export is no archive: %v", err)
	}
	out := map[string][]byte{}
	for _, f := range z.File {
		r := must[io.ReadCloser](t)(f.Open())
		out[f.Name] = must[[]byte](t)(io.ReadAll(r))
		r.Close()
	}
	return out
}

func (o *org) exportIs(id string, want api.KeyExportStatus) api.KeyExport {
	o.t.Helper()
	e := must[api.KeyExport](o.t)(o.person(api.RoleSecurityAdmin).KeyExport(o.t.Context(), id))
	eq(o.t, "status of the export", e.Status, want)
	return e
}

func TestExports_takeAsManyPeopleAsTheAccountWants(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		wantProblem(t, o.exportPeople(3), 422, "invalid") // nobody else could agree
		sven, sara, saul := o.person(api.RoleSecurityAdmin), o.colleague("sara", api.RoleSecurityAdmin), o.colleague("saul", api.RoleSecurityAdmin)
		if err := o.exportPeople(3); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, sven.ExportKeys(ctx, api.ExportWrite{DeviceIDs: []string{d.ID}, Passphrase: exportPassphrase.Passphrase}, io.Discard), 403, "export-needs-people")

		e := o.askExport(d.ID)
		if e.Status != api.ExportWaiting || e.PeopleNeeded != 3 || e.Agreed != 1 || !e.Own || e.Devices[0].Name != "data" {
			t.Fatalf("asked for: %+v", e)
		}
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")
		told := func(who *client.People, want ...string) {
			t.Helper()
			var list api.NoticeList
			if err := who.Do(ctx, http.MethodGet, "/api/v1/notices", nil, &list); err != nil || len(list.Notices) != len(want) || list.Total != int64(len(want)) {
				t.Errorf("the notices are %+v, %v", list, err)
			}
			for i, n := range list.Notices {
				if n.Kind != "export-waits" || n.ExportID != e.ID || !strings.Contains(n.Text, want[i]) {
					t.Errorf("the notice is %+v", n)
				}
			}
		}
		told(sara, `asks for the key of device "data"`)
		told(sven, "1 of 3 people agree")
		told(o.approver) // who may not see exports
		wantProblem(t, o.approver.Do(ctx, http.MethodPost, "/api/v1/notices/"+e.ID+"/dismiss", nil, nil), 404, "not-found")
		_, err := sven.ApproveExport(ctx, e.ID, api.Decision{})
		wantProblem(t, err, 403, "own-request")
		half := must[api.KeyExport](t)(sara.ApproveExport(ctx, e.ID, api.Decision{Reason: "I know of it"}))
		if half.Status != api.ExportWaiting || half.Agreed != 2 || half.Own || half.Approvals[0].Reason != "I know of it" {
			t.Fatalf("after one: %+v", half)
		}
		told(saul, "2 of 3 people agree")
		_, err = sara.ApproveExport(ctx, e.ID, api.Decision{})
		wantProblem(t, err, 409, "already-approved")
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")
		eq(t, "status after two others", must[api.KeyExport](t)(saul.ApproveExport(ctx, e.ID, api.Decision{})).Status, api.ExportApproved)
		told(sara)
		wantProblem(t, saul.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 403, "forbidden")
		wantProblem(t, sven.FetchExport(ctx, e.ID, api.KeyExportFetch{Passphrase: "short"}, io.Discard), 422, "invalid")

		var out bytes.Buffer
		if err := sven.FetchExport(ctx, e.ID, exportPassphrase, &out); err != nil {
			t.Fatal(err)
		}
		got := must[client.Exported](t)(client.OpenExported(bytes.NewReader(files(t, out.Bytes())[d.ID+".xml"]), exportPassphrase.Passphrase))
		eq(t, "device of the exported key", got.DeviceID, d.ID)
		o.exportIs(e.ID, api.ExportFetched)
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")
		for event, n := range map[string]int{"key-export.asked": 1, "key-export.seconded": 1, "key-export.approved": 1, "key-export.fetched": 1, "device-key.exported": 1, "settings.export-changed": 1} {
			if got := len(o.events(event)); got != n {
				t.Errorf("%d records %s, want %d", got, event, n)
			}
		}
	})
}

func TestExports_oneIsEnoughUnlessTheAccountWantsMore(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		d, _ := o.machine("db1").encrypted("data")
		e := o.askExport(d.ID)
		eq(t, "status", e.Status, api.ExportApproved)
		var out bytes.Buffer
		if err := o.person(api.RoleSecurityAdmin).FetchExport(t.Context(), e.ID, exportPassphrase, &out); err != nil || len(files(t, out.Bytes())) != 1 {
			t.Fatalf("%v", err)
		}
	})
}

func TestExports_areDeniedCancelledAndExpire(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		d, _ := o.machine("db1").encrypted("data")
		sven, sara := o.person(api.RoleSecurityAdmin), o.colleague("sara", api.RoleSecurityAdmin)
		if err := o.exportPeople(2); err != nil {
			t.Fatal(err)
		}
		e := o.askExport(d.ID)
		_, err := sven.DenyExport(ctx, e.ID, api.Decision{})
		wantProblem(t, err, 409, "conflict")
		_, err = sara.CancelExport(ctx, e.ID, api.Decision{})
		wantProblem(t, err, 409, "conflict")
		denied := must[api.KeyExport](t)(sara.DenyExport(ctx, e.ID, api.Decision{Reason: "not tonight"}))
		if denied.Status != api.ExportDenied || denied.EndedBy != "sara" || denied.EndReason != "not tonight" {
			t.Errorf("denied: %+v", denied)
		}
		_, err = sara.ApproveExport(ctx, e.ID, api.Decision{})
		wantProblem(t, err, 409, "conflict")

		e = o.askExport(d.ID)
		must[api.KeyExport](t)(sara.ApproveExport(ctx, e.ID, api.Decision{}))
		must[api.KeyExport](t)(sven.CancelExport(ctx, e.ID, api.Decision{}))
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")

		// An approval counts for a day, and can be given anew.
		e = o.askExport(d.ID)
		must[api.KeyExport](t)(sara.ApproveExport(ctx, e.ID, api.Decision{}))
		r.later(25 * time.Hour)
		sara.UseToken(o.logOn("sara").Token())
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")
		eq(t, "why it does not count", o.exportIs(e.ID, api.ExportApproved).Approvals[0].Void, "expired")
		must[api.KeyExport](t)(sara.ApproveExport(ctx, e.ID, api.Decision{}))
		r.later(48 * time.Hour)
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")
		o.exportIs(e.ID, api.ExportExpired)
		if len(o.events("key-export.expired")) != 1 || len(o.events("device-key.exported")) != 0 {
			t.Error("the log does not have what happened")
		}
	})
}

// What people agreed to is what leaves: not another key, not with fewer people, not because a setting was loosened.
func TestExports_nothingElseThanWasAgreedOn(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		b := o.machine("db1")
		d, _ := b.encrypted("data")
		sven, sara := o.person(api.RoleSecurityAdmin), o.colleague("sara", api.RoleSecurityAdmin)
		o.colleague("saul", api.RoleSecurityAdmin)
		if err := o.exportPeople(2); err != nil {
			t.Fatal(err)
		}
		// Loosened while it waits: it still needs two.
		e := o.askExport(d.ID)
		if err := o.exportPeople(1); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")
		must[api.KeyExport](t)(sara.ApproveExport(ctx, e.ID, api.Decision{}))
		// Tightened after it was approved: it needs three now.
		if err := o.exportPeople(3); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")
		if err := o.exportPeople(2); err != nil {
			t.Fatal(err)
		}
		// Who agreed may not agree any more.
		var users []api.User
		if err := o.admin.Do(ctx, "GET", "/api/v1/users", nil, &users); err != nil {
			t.Fatal(err)
		}
		as := func(role api.Role) {
			for _, u := range users {
				if u.Name == "sara" {
					if err := o.admin.Do(ctx, "PUT", "/api/v1/users/"+u.ID, api.UserWrite{Name: "sara", Role: role}, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		as(api.RoleAuditor)
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")
		as(api.RoleSecurityAdmin)
		// Another key than was agreed on.
		if _, err := o.admin.UnconfigureDevice(ctx, d.ID, api.UnconfigureWrite{Confirm: "data"}); err != nil {
			t.Fatal(err)
		}
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict")
		if len(o.events("device-key.exported")) != 0 {
			t.Error("a key was exported")
		}
	})
}

// Fetching at the same time gives the keys once.
func TestExports_areFetchedOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		o := r.org("acme")
		d, _ := o.machine("db1").encrypted("data")
		e := o.askExport(d.ID)
		security := o.person(api.RoleSecurityAdmin)
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := 0
		for range 4 {
			wg.Go(func() {
				var out bytes.Buffer
				if err := security.FetchExport(t.Context(), e.ID, exportPassphrase, &out); err == nil {
					mu.Lock()
					got++
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if n := len(o.events("device-key.exported")); got != 1 || n != 1 {
			t.Errorf("fetched %d times, %d records", got, n)
		}
	})
}

func TestExports_needAFreshSecondFactorWhereTheAccountWantsOne(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		d, _ := o.machine("db1").encrypted("data")
		sven, sara := o.person(api.RoleSecurityAdmin), o.colleague("sara", api.RoleSecurityAdmin)
		if err := o.exportPeople(2); err != nil {
			t.Fatal(err)
		}
		if err := o.admin.Do(ctx, "PUT", "/api/v1/second-factor-settings", api.FactorSettings{SecondFactor: "optional", StepUp: true}, nil); err != nil {
			t.Fatal(err)
		}
		e := o.askExport(d.ID)
		_, err := sara.ApproveExport(ctx, e.ID, api.Decision{})
		wantProblem(t, err, 403, "second-factor-stale")
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 403, "second-factor-stale")
		wantProblem(t, o.exportPeople(1), 403, "second-factor-stale")
		if strings.Contains(must[api.KeyExport](t)(sara.KeyExport(ctx, e.ID)).Reason, exportPassphrase.Passphrase) {
			t.Error("a passphrase is kept")
		}
	})
}

// Who sets a recovery key lets its holders read every device, so it takes as many people as an export.
func TestExports_aNewRecoveryKeyTakesAsMany(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		o := r.org("acme")
		sven, sara := o.person(api.RoleSecurityAdmin), o.colleague("sara", api.RoleSecurityAdmin)
		if err := o.exportPeople(2); err != nil {
			t.Fatal(err)
		}
		h := newHolders(t)
		file := string(h.key.PEM())
		_, err := sven.SetRecoveryKey(ctx, api.RecoveryKeyWrite{PublicKey: file})
		wantProblem(t, err, 403, "export-needs-people")
		_, err = sven.AskRecoveryKey(ctx, api.RecoveryKeyAsk{PublicKey: "not a key", Reason: "x"})
		wantProblem(t, err, 422, "invalid")
		e := must[api.KeyExport](t)(sven.AskRecoveryKey(ctx, api.RecoveryKeyAsk{PublicKey: file, Reason: "the first one"}))
		if e.Status != api.ExportWaiting || e.RecoveryKey == nil || e.RecoveryKey.KeyID != h.key.ID || len(e.RecoveryKey.Holders) != 2 {
			t.Fatalf("asked for: %+v", e)
		}
		_, err = sven.SetAgreedRecoveryKey(ctx, e.ID)
		wantProblem(t, err, 409, "conflict")
		wantProblem(t, sven.FetchExport(ctx, e.ID, exportPassphrase, io.Discard), 409, "conflict") // nothing to fetch in it
		must[api.KeyExport](t)(sara.ApproveExport(ctx, e.ID, api.Decision{}))
		_, err = sara.SetAgreedRecoveryKey(ctx, e.ID)
		wantProblem(t, err, 403, "forbidden")
		eq(t, "recovery key", must[api.RecoveryKey](t)(sven.SetAgreedRecoveryKey(ctx, e.ID)).KeyID, h.key.ID)
		eq(t, "the account's", must[api.RecoveryKey](t)(sara.RecoveryKey(ctx)).KeyID, h.key.ID)
		o.exportIs(e.ID, api.ExportFetched)
		_, err = sven.AskRecoveryKey(ctx, api.RecoveryKeyAsk{PublicKey: file, Reason: "again"})
		wantProblem(t, err, 409, "conflict")
	})
}
