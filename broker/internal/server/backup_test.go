package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/account"
	"keyward/broker/internal/backup"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// Two pairs of age keys made for these tests; a passphrase would cost a second each time.
var pairs = [2][2]string{
	{"age16exrqj8a7ezrzw270wtshxsh42f3xkezv3h2yx26sm0ja8fe4gjqumxjac", "AGE-SECRET-KEY-19ETKD8462EJZ7SD9ZDCXSNX40AUDDFJ7EK9752239TXD9P5PGNNSXGLSK8"},
	{"age170x7u09d93fu7uzqxr5affn0yuyn45qz927f3h66zwrw729tyv0q26puy9", "AGE-SECRET-KEY-1WSU2E0J6R08EEQ50GD68HDV400X9H558G8XMD9YQHCSDHKANCR0QSSHKRM"},
}

func identity(t *testing.T, n int) (backup.Recipients, backup.Identities) {
	t.Helper()
	to, err := backup.Lock(pairs[n][:1], "")
	if err != nil {
		t.Fatal(err)
	}
	by, err := backup.Unlock([]byte(pairs[n][1]), "")
	if err != nil {
		t.Fatal(err)
	}
	return to, by
}

func operator(t *testing.T, c Config) *Operator {
	t.Helper()
	o, err := OpenOperator(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Errorf("closing the operator: %v", err)
		}
	})
	return o
}

func backUp(t *testing.T, o *Operator, to backup.Recipients, withRoot bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "backup.age")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(o.Backup(context.Background(), f, to, withRoot, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// elsewhere is another machine: its own folders and a database of the kind that the backup does not come from.
func elsewhere(t *testing.T, c Config) Config {
	t.Helper()
	dir := t.TempDir()
	c.Data = filepath.Join(dir, "data")
	if strings.HasPrefix(c.DSN, "postgres") {
		c.DSN = ""
	} else {
		c.DSN = storetest.EmptyPostgres(t)
	}
	return c
}

// everyState adds a row for each state of each machine.
func everyState(t *testing.T, o *Operator) {
	t.Helper()
	p, err := o.Account(context.Background(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 22, 1, 2, 3, 456789000, time.UTC)
	err = o.store.Tx(context.Background(), func(tx *store.Tx) error {
		tn := tx.Tenant(p.AccountID)
		var errs []error
		for i, status := range []api.DeviceStatus{api.DeviceNotConfigured, api.DeviceConfigured, api.DeviceEncryptionPending, api.DeviceEncrypting,
			api.DeviceEncryptionError, api.DeviceEncrypted, api.DeviceInUse, api.DeviceUndetected} {
			d := store.Device{Provider: "native", Identity: fmt.Sprint(i), Name: "Gerät 'é\" " + string(status), Size: 1 << 40, Status: status, KeyBits: 256,
				Volume: &api.VolumeRecord{UUID: "u", Cipher: "aes-xts-plain64", Digest: []byte{0, 1, 255}}}
			if status == api.DeviceNotConfigured {
				d.Volume = nil
			}
			errs = append(errs, store.In[store.Device](tn).Insert(&d))
			_, err := inventory.NewKey(tn, o.roots, d)
			errs = append(errs, err)
			if status == api.DeviceInUse { // a key that waits for its data to be written anew
				pending, err := inventory.NewKey(tn, o.roots, d)
				pending.Pending = true
				errs = append(errs, err, store.In[store.DeviceKey](tn).Update(&pending), store.In[store.Job](tn).Insert(&store.Job{Kind: "rotate-key", DeviceID: d.ID, InstanceID: "i",
					Status: "queued", ExpiresAt: now, Generation: 2, AskedBy: "ann", Reason: "why", Waits: "not yet", WaitsAgent: "1"}))
			}
		}
		for _, status := range []api.KeyExportStatus{api.ExportWaiting, api.ExportApproved, api.ExportFetched, api.ExportDenied, api.ExportCancelled, api.ExportExpired} {
			e := store.KeyExport{Kind: api.ExportDevices, Status: status, AskedBy: "ann", AskedByID: "u", Reason: "why", PeopleNeeded: 2, ExpiresAt: now, EndedAt: &now,
				Devices: []api.KeyExportDevice{{ID: "d", Name: "n", Generation: 1, PendingGeneration: 2}}}
			errs = append(errs, store.In[store.KeyExport](tn).Insert(&e), store.In[store.KeyExportApproval](tn).Insert(&store.KeyExportApproval{RequestID: e.ID, UserID: "v", UserName: "ben", ExpiresAt: now}))
		}
		img := store.Image{Provider: "native", Identity: "i", Name: "i"}
		errs = append(errs, store.In[store.Image](tn).Insert(&img))
		inst := store.Instance{Provider: "native", Identity: "i", HostName: "h", ImageID: img.ID, CertFingerprint: bytes.Repeat([]byte{1}, 32)}
		errs = append(errs, store.In[store.Instance](tn).Insert(&inst),
			store.In[store.RecoveryEnvelope](tn).Insert(&store.RecoveryEnvelope{InstanceID: inst.ID, KeyID: "k", Revision: "r", IssuedAt: now, ConfirmedAt: &now}))
		for _, status := range []api.DeviceStatus{api.DeviceNotConfigured, api.DeviceConfigured, api.DeviceEncryptionPending, api.DeviceEncrypting,
			api.DeviceEncryptionError, api.DeviceEncrypted, api.DeviceInUse, api.DeviceMissing} {
			errs = append(errs, store.In[store.RAIDSet](tn).Insert(&store.RAIDSet{Name: string(status), Status: status}))
		}
		for i, status := range []api.KeyStatus{api.KeyPending, api.KeyApproved, api.KeyDelivered, api.KeyDenied, api.KeyRevokePending, api.KeyRevokeIgnored,
			api.KeyRevoking, api.KeyRevoked, api.KeyExpired, api.KeyFailure} {
			r := store.KeyRequest{Number: int64(i + 1), DeviceID: "d", InstanceID: "i", Status: status, Integrity: api.IntegrityGood, PublicKey: []byte{1, 2}, DecidedAt: &now}
			errs = append(errs, store.In[store.KeyRequest](tn).Insert(&r),
				store.In[store.KeyRequestEvent](tn).Insert(&store.KeyRequestEvent{RequestID: r.ID, FromStatus: "", ToStatus: status, Event: "made"}))
		}
		for _, status := range []string{"queued", "running", "done", "failed", "cancelled"} {
			errs = append(errs, store.In[store.Job](tn).Insert(&store.Job{Kind: "encrypt", DeviceID: status, InstanceID: "i", Status: status, ExpiresAt: now}))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// rowsOf are all rows of the tables that a backup holds; audit logs only grow, so theirs are compared by their verification.
func rowsOf(t *testing.T, o *Operator) map[string][][]any {
	t.Helper()
	out := map[string][][]any{}
	var table string
	skip := map[string]bool{"sessions": true, "nonces": true, "idempotency_records": true, "root_key_holders": true, "audit_records": true, "audit_checkpoints": true, "audit_nodes": true}
	if _, err := o.store.Dump(context.Background(), func(name string) bool { return !skip[name] },
		func(d store.DumpTable) error { table = d.Name; out[table] = [][]any{}; return nil },
		func(v []any) error { out[table] = append(out[table], v); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// A backup restores into the other kind of database, on another machine, with every row of every state, and back again.
func TestBackup_restoresEveryStateIntoEitherDatabase(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		c, setup := newConfig(t, dsn)
		to, by := identity(t, 0)
		o := operator(t, c)
		everyState(t, o)
		first := backUp(t, o, to, false)
		want := rowsOf(t, o)

		there := elsewhere(t, c)
		found, err := Restore(context.Background(), there, first, by, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if found.Keys != 1 || found.Logs != 1 || found.Rows["key_requests"] != 10 || found.Rows["devices"] != 8 || found.Header.RootIncluded {
			t.Errorf("found %+v", found)
		}
		moved := operator(t, there)
		if got := rowsOf(t, moved); !reflect.DeepEqual(got, want) {
			for name := range want {
				if !reflect.DeepEqual(got[name], want[name]) {
					t.Errorf("table %s:\nrestored %v\nwas      %v", name, got[name], want[name])
				}
			}
		}
		for _, name := range []string{fileCA, fileCAKey, fileAudit, fileAuditKey} {
			a, errA := os.ReadFile(filepath.Join(c.Data, name))
			b, errB := os.ReadFile(filepath.Join(there.Data, name))
			if errA != nil || errB != nil || !bytes.Equal(a, b) {
				t.Errorf("%s is another file: %v %v", name, errA, errB)
			}
		}
		if info, err := os.Stat(filepath.Join(there.Data, fileCAKey)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		// The restored broker serves its people.
		r := start(t, there)
		var users []api.User
		if p := r.logOn("acme", setup.Admin).call("GET", "/api/v1/users", nil, &users); p.Status != 200 || len(users) != 2 {
			t.Errorf("%+v, %d users", p, len(users))
		}
		// And back.
		back := elsewhere(t, there)
		if _, err := Restore(context.Background(), back, backUp(t, moved, to, false), by, false, nil); err != nil {
			t.Fatal(err)
		}
		got, was := rowsOf(t, operator(t, back)), rowsOf(t, moved)
		delete(got, "users") // of the log-on meanwhile
		delete(was, "users")
		if !reflect.DeepEqual(got, was) {
			t.Error("the way back changed rows")
		}
	})
}

// While people write, a backup is one state of the database: the audit logs in it are whole, and it fits the rows.
func TestBackup_whileOthersWrite(t *testing.T) {
	t.Parallel()
	storetest.EachDSN(t, func(t *testing.T, dsn string) {
		c, _ := newConfig(t, dsn)
		to, by := identity(t, 0)
		o := operator(t, c)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for w := range 3 {
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := o.NewToken(context.Background(), "acme", api.EnrolmentTokenWrite{Description: fmt.Sprint(w, i), Uses: 1, ExpireSeconds: 600}); err != nil {
						t.Errorf("writing meanwhile: %v", err)
						return
					}
				}
			})
		}
		var paths []string
		for range 3 {
			paths = append(paths, backUp(t, o, to, false))
		}
		close(stop)
		wg.Wait()
		for _, path := range paths {
			there := elsewhere(t, c)
			if _, err := Restore(context.Background(), there, path, by, false, nil); err != nil {
				t.Fatal(err)
			}
			restored := operator(t, there)
			p, err := restored.Account(context.Background(), "acme")
			if err != nil {
				t.Fatal(err)
			}
			var tokens, records int64
			if err := restored.store.View(context.Background(), func(tx *store.Tx) (err error) {
				if tokens, err = store.In[store.EnrolToken](tx.Tenant(p.AccountID)).Count(); err != nil {
					return err
				}
				records, err = store.In[store.AuditRecord](tx.Tenant(p.AccountID)).Count(store.Eq("event", "enrolment-token.created"))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if tokens != records {
				t.Errorf("%d tokens and %d records of them", tokens, records)
			}
		}
	})
}

// What is not whole, not openable or not wanted there is refused, and leaves nothing behind.
func TestBackup_refusals(t *testing.T) {
	t.Parallel()
	c, _ := newConfig(t, "")
	to, by := identity(t, 0)
	_, stranger := identity(t, 1)
	o := operator(t, c)
	path := backUp(t, o, to, false)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bad := func(data []byte) string {
		p := filepath.Join(dir, fmt.Sprint(len(data), "-", data[len(data)/2], ".age"))
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	empty := func() Config {
		there := c
		there.Data, there.DSN = filepath.Join(t.TempDir(), "data"), ""
		return there
	}
	refused := func(name string, there Config, path string, by backup.Identities, root bool, says string) {
		t.Helper()
		_, err := Restore(context.Background(), there, path, by, root, nil)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want something of %q", name, err, says)
		}
		if _, err := os.Stat(filepath.Join(there.Data, fileCA)); err == nil && there.Data != c.Data {
			t.Errorf("%s left files", name)
		}
	}
	for i := 0; i < len(good); i += max(1, len(good)/40) {
		changed := bytes.Clone(good)
		changed[i] ^= 1
		refused(fmt.Sprintf("byte %d changed", i), empty(), bad(changed), by, false, "")
		if i > 0 {
			refused(fmt.Sprintf("cut to %d bytes", i), empty(), bad(good[:i]), by, false, "near byte")
		}
	}
	refused("one byte short", empty(), bad(good[:len(good)-1]), by, false, "damaged or cut off")
	refused("a byte more", empty(), bad(append(bytes.Clone(good), 0)), by, false, "near byte")
	refused("another identity", empty(), path, stranger, false, "not one that it was made for")
	refused("a broker is there", c, path, by, false, "never restored over one")
	full := empty()
	full.DSN = storetest.SQLite(t)
	st := storetest.Open(t, full.DSN, nil)
	if err := st.Tx(context.Background(), func(tx *store.Tx) error {
		return store.Global[store.Account](tx).Insert(&store.Account{Name: "other", WrappedKey: []byte("w")})
	}); err != nil {
		t.Fatal(err)
	}
	refused("a database that is used", full, path, by, false, "holds rows already")
	foreign, _ := newConfig(t, "")
	there := empty()
	there.RootKey = foreign.RootKey
	refused("another root key", there, path, by, false, "the backup needs root key "+o.roots.ID())
	there.RootKey = filepath.Join(t.TempDir(), "none.key")
	refused("no root key", there, path, by, false, "is needed to restore it")
	refused("a root key that is not in it", there, path, by, true, "does not hold its root key")
	if _, err := backup.Lock(nil, "short"); err == nil {
		t.Error("a short passphrase was taken")
	}
	if _, err := backup.Lock([]string{"age1x"}, ""); err == nil {
		t.Error("a bad recipient was taken")
	}
}

// A backup that holds the root key is all that is needed.
func TestBackup_withTheRootKeyNeedsNothingElse(t *testing.T) {
	t.Parallel()
	c, _ := newConfig(t, "")
	to, by := identity(t, 0)
	o := operator(t, c)
	everyState(t, o)
	without, with := backUp(t, o, to, false), backUp(t, o, to, true)
	there := c
	there.Data, there.RootKey = filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "keys", "root.key")
	there.DSN = ""
	if _, err := Restore(context.Background(), there, with, by, true, nil); err != nil {
		t.Fatal(err)
	}
	if restored := operator(t, there); restored.roots.ID() != o.roots.ID() {
		t.Errorf("root key %s was %s", restored.roots.ID(), o.roots.ID())
	}
	if _, err := o.Accounts.Create(context.Background(), "Later", account.First{Name: "x", Role: api.RoleAccountAdmin, Password: account.NewPassword()}); err != nil {
		t.Fatal(err)
	}
	// Without a root key at hand a backup is still read to its last byte and filled into a database.
	blind := c
	blind.RootKey = ""
	found, err := VerifyBackup(context.Background(), blind, without, by, nil)
	if err != nil || found.Keys != 0 || found.Rows["devices"] != 8 {
		t.Errorf("%+v, %v", found, err)
	}
	found, err = VerifyBackup(context.Background(), c, without, by, nil)
	if err != nil || found.Keys != 1 || found.Logs != 1 {
		t.Errorf("%+v, %v", found, err)
	}
}
