package store_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/store"
	"keyward/broker/internal/store/storetest"
)

// A statement that was kept reads and writes what GORM does, for every kind of filter, and never another tenant's rows.
func TestStatement_keptDoesWhatGORMDoes(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		acme, other := newAccount(t, s, "acme"), newAccount(t, s, "other")
		now := s.Now()
		for _, account := range []string{acme, other} {
			in(t, s, account, func(tn *store.Tenant) error {
				for i := range 6 {
					d := device(fmt.Sprintf("disk-%d", i))
					d.Size, d.KeyBits = int64(i), 128*(i%2+1)
					if i > 2 {
						d.Volume = &api.VolumeRecord{UUID: fmt.Sprint(account, i), KeyBits: 256}
					}
					if err := store.In[store.Device](tn).Insert(&d); err != nil {
						return err
					}
				}
				return nil
			})
		}
		filters := map[string][]store.Filter{
			"all":         nil,
			"equal":       {store.Eq("name", "disk-2")},
			"typed":       {store.Eq("status", api.DeviceNotConfigured), store.Eq("key_bits", 128)},
			"differs":     {store.Ne("name", "disk-2"), store.Limit(3)},
			"one of":      {store.OneOf("name", []string{"disk-1", "disk-4", "none"})},
			"one of none": {store.OneOf("name", []string{})},
			"one of many": {store.OneOf("name", []string{"disk-1", "disk-4", "a", "b", "c", "d", "e", "f", "g", "h", "i"})},
			"null":        {store.IsNull("volume")},
			"not null":    {store.NotNull("volume"), store.Desc("size")},
			"times":       {store.Before("created_at", now.Add(time.Hour)), store.After("created_at", now.Add(-time.Hour))},
			"numbers":     {store.AtLeast("size", 1), store.AtMost("size", 4), store.Asc("key_bits")},
			"folded":      {store.EqFold("name", "DISK-3"), store.AscFold("name")},
			"part":        {store.Only("id", "size"), store.Desc("size"), store.Limit(2)},
			"locked":      {store.Eq("name", "disk-5"), store.ForUpdate()},
			"impossible":  {store.Eq("identity", "a\x00b")},
		}
		for name, f := range filters {
			in(t, s, acme, func(tn *store.Tenant) error {
				table := store.In[store.Device](tn)
				before := store.KeptForTest(s)
				first, err := table.List(f...)
				if err != nil {
					return err
				}
				if kept := store.KeptForTest(s); kept != before+1 {
					t.Errorf("%s: %d statements were kept, want one more than %d", name, kept, before)
				}
				again, err := table.List(f...)
				if err != nil {
					return err
				}
				want, err := store.FindForTest(table, f...)
				if err != nil {
					return err
				}
				if !reflect.DeepEqual(first, want) || !reflect.DeepEqual(again, want) {
					t.Errorf("%s: read\n%+v, then\n%+v, GORM\n%+v", name, first, again, want)
				}
				if name == "locked" { // is not counted
					return nil
				}
				if n, err := table.Count(f...); err != nil || name != "differs" && name != "part" && n != int64(len(want)) {
					t.Errorf("%s: counted %d (%v), want %d", name, n, err, len(want))
				}
				return nil
			})
		}
		in(t, s, acme, func(tn *store.Tenant) error {
			table := store.In[store.Device](tn)
			for i := range 3 { // the first is written by GORM, the others are kept
				d, err := table.First(store.Eq("name", fmt.Sprintf("disk-%d", i)))
				if err != nil {
					return err
				}
				d.Status, d.Volume = api.DeviceEncrypted, &api.VolumeRecord{UUID: "changed", KeyBits: 256}
				if err := table.Update(&d); err != nil {
					return err
				}
				got, err := store.FindForTest(table, store.Eq("id", d.ID))
				if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], d) {
					t.Errorf("changed\n%+v, read\n%+v (%v)", d, got, err)
				}
				if n, err := table.DeleteWhere(store.Eq("name", fmt.Sprintf("disk-%d", i+3))); err != nil || n != 1 {
					t.Errorf("deleted %d (%v), want 1", n, err)
				}
			}
			return nil
		})
		in(t, s, other, func(tn *store.Tenant) error {
			if n, err := store.In[store.Device](tn).Count(store.Eq("status", api.DeviceNotConfigured)); err != nil || n != 6 {
				t.Errorf("the other tenant has %d devices untouched (%v), want 6", n, err)
			}
			return nil
		})
	})
}
