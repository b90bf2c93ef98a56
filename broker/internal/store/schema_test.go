package store_test

import (
	"database/sql"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"gorm.io/gorm/schema"

	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// column is what a column must be for a field of a model to be stored without loss.
type column struct {
	kind     string // "text", "integer", "bytes", "time", "bool"
	nullable bool
}

// The migrations are written by hand, so they are compared with the models on both databases.
func TestSchema_matchesTheModels(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		db := store.RawForTest(s)
		sqlDB, err := db.DB()
		if err != nil {
			t.Fatal(err)
		}
		tables := map[string]bool{"schema_version": true}
		for _, m := range store.ModelsForTest() {
			sch, err := schema.Parse(m, &sync.Map{}, db.NamingStrategy)
			if err != nil {
				t.Fatal(err)
			}
			tables[sch.Table] = true
			want := map[string]column{}
			for _, f := range sch.Fields {
				want[f.DBName] = wanted(t, f)
			}
			got := stored(t, sqlDB, db.Name(), sch.Table)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("table %s:\nmigrated %v\nmodel    %v", sch.Table, got, want)
			}
		}
		for _, name := range allTables(t, sqlDB, db.Name()) {
			if !tables[name] {
				t.Errorf("table %s has no model", name)
			}
		}
	})
}

func wanted(t *testing.T, f *schema.Field) column {
	if f.Serializer != nil {
		return column{"text", true}
	}
	switch f.IndirectFieldType.Kind() {
	case reflect.String:
		return column{"text", false}
	case reflect.Int, reflect.Int64:
		return column{"integer", false}
	case reflect.Bool:
		return column{"bool", false}
	case reflect.Slice:
		return column{"bytes", false}
	case reflect.Struct:
		return column{"time", f.FieldType.Kind() == reflect.Pointer}
	}
	t.Fatalf("field %s has a type that no column is known for", f.Name)
	return column{}
}

// mayBeNull are byte columns that are empty for a while.
var mayBeNull = map[string]bool{"instances.cert_fingerprint": true, "key_requests.public_key": true, "idempotency_records.body": true,
	"users.factor_secret": true, "audit_checkpoints.root": true, "audit_tombstones.tail": true, "deep_security_settings.wrapped_api_key": true}

func stored(t *testing.T, db *sql.DB, dialect, table string) map[string]column {
	query := `SELECT name, lower(type), "notnull" = 0 FROM pragma_table_info('` + table + `')`
	if dialect == "postgres" {
		query = `SELECT column_name, data_type, is_nullable = 'YES' FROM information_schema.columns WHERE table_schema = 'public' AND table_name = '` + table + `'`
	}
	kinds := map[string]string{
		"text": "text", "bigint": "integer", "blob": "bytes", "bytea": "bytes", "datetime": "time",
		"timestamp with time zone": "time", "boolean": "bool",
	}
	out := map[string]column{}
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name, kind string
		var nullable bool
		if err := rows.Scan(&name, &kind, &nullable); err != nil {
			t.Fatal(err)
		}
		if mayBeNull[table+"."+name] {
			nullable = !nullable
		}
		out[name] = column{kinds[kind], nullable}
	}
	return out
}

func allTables(t *testing.T, db *sql.DB, dialect string) []string {
	query := `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`
	if dialect == "postgres" {
		query = `SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'`
	}
	rows, err := db.Query(query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		out = append(out, name)
	}
	return out
}

func TestSchema_auditRecordsAreAppendOnly(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		add := func(sequence int64) error {
			return s.Tx(ctx, func(tx *store.Tx) error {
				tn := tx.Tenant(account)
				r := store.AuditRecord{Sequence: sequence, At: tx.Now(), Category: "user", Event: "log-on", Actor: "u",
					Detail: map[string]string{"a": "b"}, Previous: make([]byte, 32), Hash: make([]byte, 32)}
				if err := store.In[store.AuditRecord](tn).Insert(&r); err != nil {
					return err
				}
				return store.In[store.AuditCheckpoint](tn).Insert(&store.AuditCheckpoint{Sequence: sequence, At: tx.Now(), Hash: r.Hash, KeyID: "k", Signature: []byte("s")})
			})
		}
		if err := add(1); err != nil {
			t.Fatal(err)
		}
		if err := add(2); err != nil {
			t.Fatal(err)
		}
		if err := add(4); err == nil || !strings.Contains(err.Error(), "without gaps") {
			t.Errorf("a gap in the sequence: %v, want a refusal", err)
		}
		statements := []string{
			"UPDATE audit_records SET actor = 'x'", "DELETE FROM audit_records", "DELETE FROM audit_records WHERE sequence = 2",
			"UPDATE audit_checkpoints SET key_id = 'x'", "DELETE FROM audit_checkpoints", "DELETE FROM accounts",
		}
		if store.RawForTest(s).Name() == "postgres" {
			statements = append(statements, "TRUNCATE audit_records CASCADE", "TRUNCATE audit_checkpoints")
		}
		for _, q := range statements {
			if err := store.ExecForTest(s, q); err == nil {
				t.Errorf("%s was accepted", q)
			}
		}
		in(t, s, account, func(tn *store.Tenant) error {
			if n, _ := store.In[store.AuditRecord](tn).Count(); n != 2 {
				t.Errorf("%d audit records, want 2", n)
			}
			r, err := store.In[store.AuditRecord](tn).First(store.Desc("sequence"))
			if r.Sequence != 2 || r.Actor != "u" || r.Detail["a"] != "b" {
				t.Errorf("last record is %+v", r)
			}
			if err := store.In[store.AuditRecord](tn).Update(&r); err == nil {
				t.Error("Update of an audit record was accepted")
			}
			return err
		})
	})
}

func TestGuard_panicsUnderTheGateway(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		db := store.RawForTest(s)
		newAccount(t, s, "acme")
		var device store.Device
		var devices []store.Device
		var n int64
		for name, f := range map[string]func(){
			"find":   func() { db.Find(&devices) },
			"first":  func() { db.First(&device, "id = ?", "x") },
			"count":  func() { db.Model(&device).Count(&n) },
			"create": func() { db.Create(&store.Device{}) },
			"update": func() { db.Model(&device).Where("id = ?", "x").Update("name", "y") },
			"delete": func() { db.Where("id = ?", "x").Delete(&device) },
			"raw":    func() { db.Raw("SELECT * FROM devices").Scan(&map[string]any{}) },
		} {
			func() {
				defer func() {
					if p := recover(); p == nil {
						t.Errorf("%s without a tenant did not panic", name)
					} else if !strings.Contains(fmt.Sprint(p), "store: ") {
						t.Errorf("%s panicked with %v, want the guard's word", name, p)
					}
				}()
				f()
			}()
		}
	})
}

// The unique and CHECK rules stand in the schema, so that a bug in a service cannot break them.
func TestSchema_refusesWhatMustNotBe(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		account := newAccount(t, s, "acme")
		for name, f := range map[string]func(*store.Tenant) error{
			"a second default policy": func(tn *store.Tenant) error {
				for _, n := range []string{"one", "two"} {
					p := store.Policy{Name: n, IsDefault: true, OnMatch: "manual", OnFailure: "manual", LeaseSeconds: 1, HeartbeatSeconds: 1, RevokeMode: "unmount"}
					if err := store.In[store.Policy](tn).Insert(&p); err != nil {
						return err
					}
				}
				return nil
			},
			"two encryptions of a device": func(tn *store.Tenant) error {
				for range 2 {
					j := store.Job{Kind: "encrypt", DeviceID: "d", Status: "queued", ExpiresAt: tn.Now()}
					if err := store.In[store.Job](tn).Insert(&j); err != nil {
						return err
					}
				}
				return nil
			},
			"an unknown role": func(tn *store.Tenant) error {
				return store.In[store.User](tn).Insert(&store.User{Name: "u", Role: "god"})
			},
			"an unknown device status": func(tn *store.Tenant) error {
				d := device("d")
				d.Status = "Broken"
				return store.In[store.Device](tn).Insert(&d)
			},
			"a key of 64 bits": func(tn *store.Tenant) error {
				d := device("d")
				if err := store.In[store.Device](tn).Insert(&d); err != nil {
					return err
				}
				return store.In[store.DeviceKey](tn).Insert(&store.DeviceKey{DeviceID: d.ID, Bits: 64, Generation: 1, Wrapped: []byte("k")})
			},
			"a session of nobody": func(tn *store.Tenant) error {
				return store.In[store.Session](tn).Insert(&store.Session{UserID: "nobody", TokenHash: make([]byte, 32)})
			},
			"deleting a device that has a key": func(tn *store.Tenant) error {
				d := device("d")
				if err := store.In[store.Device](tn).Insert(&d); err != nil {
					return err
				}
				if err := store.In[store.DeviceKey](tn).Insert(&store.DeviceKey{DeviceID: d.ID, Bits: 256, Generation: 1, Wrapped: []byte("k")}); err != nil {
					return err
				}
				return store.In[store.Device](tn).Delete(d.ID)
			},
		} {
			if err := s.Tx(ctx, func(tx *store.Tx) error { return f(tx.Tenant(account)) }); err == nil {
				t.Errorf("%s was accepted", name)
			}
		}
	})
}
