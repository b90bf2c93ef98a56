package store_test

import (
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// A database of the release before knows no homes: what is encrypted is at home where it was seen last, and machines have
// held their certificates since they were first seen.
func TestMigrate_devicesGetTheirHomes(t *testing.T) {
	t.Parallel()
	empty := map[string]func(testing.TB) string{
		"sqlite":   func(t testing.TB) string { return "sqlite:" + t.TempDir() + "/old.db" },
		"postgres": storetest.EmptyPostgres,
	}
	for name, dsn := range empty {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := dsn(t)
			const stamp = "'2026-01-02 03:04:05+00:00', '2026-01-02 03:04:05+00:00', 1"
			device := func(id, volume string) string {
				return "INSERT INTO devices (id, account_id, provider, identity, name, description, information, contents, size, status, former_status, status_detail, " +
					"platform, file_system, mount_point, access, key_bits, image_id, policy_id, instance_id, raid_set_id, volume, created_at, updated_at, version) VALUES ('" +
					id + "', 'a', 'native', '" + id + "', 'd', '', '', 'empty', 1, 'Encrypted', '', '', '', '', '', '', 0, '', '', 'm', '', " + volume + ", " + stamp + ")"
			}
			if err := store.MigrateForTest(ctx, at, 1,
				"INSERT INTO accounts VALUES ('a', 'acme', 'UTC', '', '', 'r', 1, "+stamp+")",
				"INSERT INTO instances (id, account_id, provider, identity, host_name, location, image_id, agent_version, cert_expires_at, first_seen_at, "+
					"source_ip, missing, created_at, updated_at, version) VALUES ('m', 'a', 'native', 'm', 'h', '', '', '', '2027-01-01 00:00:00+00:00', '2026-01-02 03:04:05+00:00', '', false, "+stamp+")",
				device("encrypted", `'{"uuid":"u"}'`), device("plain", "NULL")); err != nil {
				t.Fatal(err)
			}
			s := storetest.Open(t, at, nil)
			in(t, s, "a", func(tn *store.Tenant) error {
				devices := store.In[store.Device](tn)
				for id, want := range map[string]string{"encrypted": "m", "plain": ""} {
					d, err := devices.Get(id)
					if err != nil {
						return err
					}
					if d.HomeInstanceID != want {
						t.Errorf("the %s device is at home on %q, want %q", id, d.HomeInstanceID, want)
					}
				}
				m, err := store.In[store.Instance](tn).Get("m")
				if want := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC); !m.EnrolledAt.Equal(want) {
					t.Errorf("the machine enrolled at %v, want %v", m.EnrolledAt, want)
				}
				if err != nil {
					return err
				}
				// What Go stores as no volume is what the queries take for none.
				d := withoutVolume("new")
				if err := devices.Insert(&d); err != nil {
					return err
				}
				withVolume, err := devices.List(store.NotNull("volume"))
				if len(withVolume) != 1 || withVolume[0].Volume == nil || withVolume[0].ID != "encrypted" {
					t.Errorf("devices with a volume: %+v", withVolume)
				}
				return err
			})
		})
	}
}

func withoutVolume(identity string) store.Device {
	d := device(identity)
	d.Status, d.Volume = api.DeviceNotConfigured, nil
	return d
}
