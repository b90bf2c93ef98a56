package account

import (
	"fmt"

	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// RewrapSecrets wraps what people of an account keep under its key, their second factors, with its present one: the last
// step of that key's rotation.
func RewrapSecrets(t *store.Tenant, root keystore.Root, key keystore.AccountKey) error {
	users := store.In[store.User](t)
	rows, err := users.List()
	if err != nil {
		return err
	}
	for _, u := range rows {
		if len(u.FactorSecret) == 0 {
			continue
		}
		if u.FactorSecret, err = keystore.RewrapAccountSecret(root, key, factorPurpose, u.ID, u.FactorSecret); err != nil {
			return fmt.Errorf("user %q: %w", u.Name, err)
		}
		if err := users.Update(&u); err != nil {
			return err
		}
	}
	return nil
}
