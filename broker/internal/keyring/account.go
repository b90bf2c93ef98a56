package keyring

import (
	"context"
	"fmt"
	"strconv"

	"keyward/broker/internal/account"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/dsm"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// rewrapBatch is how many device keys one transaction rewraps.
const rewrapBatch = 200

// RotateAccount gives an account a new key and rewraps its devices' keys with it. Called while a rotation is unfinished it
// ends that one and begins none. It returns the generation of the account's key.
func (s *Service) RotateAccount(ctx context.Context, p tenant.Principal, progress Progress) (int64, error) {
	if err := s.store.Tx(ctx, func(tx *store.Tx) error { return s.beginAccount(tx, p) }); err != nil {
		return 0, fmt.Errorf("rotating the key of account %s: %w", p.AccountID, err)
	}
	if err := s.step("account key made"); err != nil {
		return 0, err
	}
	for done, left := 0, 1; left > 0; {
		var n int
		err := s.store.Tx(ctx, func(tx *store.Tx) (err error) {
			n, left, err = s.rewrapDevices(tx.Tenant(p.AccountID))
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("rotating the key of account %s: %w: repeat the command, it goes on from here", p.AccountID, err)
		}
		if done += n; progress != nil {
			progress(done, done+left)
		}
		if err := s.step("devices"); err != nil {
			return 0, err
		}
	}
	var generation int64
	err := s.store.Tx(ctx, func(tx *store.Tx) (err error) {
		generation, err = s.endAccount(tx, p)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("ending the rotation of the key of account %s: %w: repeat the command", p.AccountID, err)
	}
	return generation, nil
}

func (s *Service) beginAccount(tx *store.Tx, p tenant.Principal) error {
	table := store.Global[store.Account](tx)
	row, err := table.Get(p.AccountID)
	if err != nil || len(row.EarlierKeys) > 0 {
		return err
	}
	next, err := keystore.NextAccountKey(s.ring, inventory.KeyOfAccount(row))
	if err != nil {
		return err
	}
	keep(&row, next)
	if err := table.Update(&row); err != nil {
		return err
	}
	return audit.Append(tx.Tenant(row.ID), audit.Entry{Category: audit.Key, Event: "account-key.rotation-began", Actor: p.Actor(), Subject: row.ID,
		Detail: map[string]string{"generation": strconv.FormatInt(row.KeyGeneration, 10)}})
}

// rewrapDevices rewraps one batch and says how many keys it was and how many are left.
func (s *Service) rewrapDevices(t *store.Tenant) (n, left int, err error) {
	key, err := inventory.AccountKey(t)
	if err != nil {
		return 0, 0, err
	}
	table := store.In[store.DeviceKey](t)
	rows, err := table.List(store.Ne("account_generation", key.Generation), store.Limit(rewrapBatch))
	if err != nil {
		return 0, 0, err
	}
	for _, row := range rows {
		k, err := keystore.RewrapDeviceKey(s.ring, key, inventory.WrappedKey(row))
		if err != nil {
			return 0, 0, err
		}
		row.Wrapped, row.AccountGeneration = k.Wrapped, k.AccountGeneration
		if err := table.Update(&row); err != nil {
			return 0, 0, err
		}
	}
	behind, err := table.Count(store.Ne("account_generation", key.Generation))
	return len(rows), int(behind), err
}

// endAccount forgets the earlier keys. Nothing may be wrapped by them: it looks in the same transaction.
func (s *Service) endAccount(tx *store.Tx, p tenant.Principal) (int64, error) {
	table := store.Global[store.Account](tx)
	row, err := table.Get(p.AccountID)
	if err != nil || len(row.EarlierKeys) == 0 {
		return row.KeyGeneration, err
	}
	keys := store.In[store.DeviceKey](tx.Tenant(row.ID))
	behind, err := keys.Count(store.Ne("account_generation", row.KeyGeneration))
	if err != nil {
		return 0, err
	}
	if behind > 0 {
		return 0, fmt.Errorf("%d device keys were made meanwhile", behind)
	}
	total, err := keys.Count()
	if err != nil {
		return 0, err
	}
	if err := account.RewrapSecrets(tx.Tenant(row.ID), s.ring, inventory.KeyOfAccount(row)); err != nil {
		return 0, err
	}
	if err := dsm.RewrapSecrets(tx.Tenant(row.ID), s.ring, inventory.KeyOfAccount(row)); err != nil {
		return 0, err
	}
	row.EarlierKeys = nil
	if err := table.Update(&row); err != nil {
		return 0, err
	}
	return row.KeyGeneration, audit.Append(tx.Tenant(row.ID), audit.Entry{Category: audit.Key, Event: "account-key.rotated", Actor: p.Actor(), Subject: row.ID,
		Detail: map[string]string{"generation": strconv.FormatInt(row.KeyGeneration, 10), "device_keys": strconv.FormatInt(total, 10)}})
}
