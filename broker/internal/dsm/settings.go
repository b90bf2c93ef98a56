package dsm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// secretPurpose binds the wrapped API key to its use.
const secretPurpose = "Deep Security API key"

const (
	mostSecret    = 4096
	mostAuthority = 64 << 10
	defaultPort   = 4119
)

// Settings tells how the account is connected to its manager. The API key is never told.
func (s *Service) Settings(ctx context.Context, p tenant.Principal) (api.DeepSecuritySettings, error) {
	out := api.DeepSecuritySettings{Port: defaultPort}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		row, err := settingsOf(tx.Tenant(p.AccountID))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err == nil {
			out = view(row)
		}
		return err
	})
	if err != nil {
		return out, fmt.Errorf("read the Deep Security settings: %w", err)
	}
	s.describe(p.AccountID, &out)
	return out, nil
}

func settingsOf(t *store.Tenant) (store.DeepSecuritySettings, error) {
	return store.In[store.DeepSecuritySettings](t).First(store.Asc("id"))
}

func view(row store.DeepSecuritySettings) api.DeepSecuritySettings {
	return api.DeepSecuritySettings{Enabled: row.Enabled, Server: row.Server, Port: row.Port, Authority: row.Authority, HasAPIKey: len(row.WrappedAPIKey) > 0}
}

// SetSettings stores the connection. An empty API key keeps the stored one, unless the server is another: the key is for
// the server that it was given for, and goes to no other because somebody who cannot read it says so.
func (s *Service) SetSettings(ctx context.Context, p tenant.Principal, in api.DeepSecuritySettingsWrite) error {
	if err := check(in); err != nil {
		return err
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		row, err := settingsOf(t)
		fresh := errors.Is(err, store.ErrNotFound)
		if err != nil && !fresh {
			return err
		}
		before := row
		row.Enabled, row.Server, row.Port, row.Authority = in.Enabled, in.Server, in.Port, in.Authority
		if fresh {
			// The ID is bound to the wrapped key.
			if err := store.In[store.DeepSecuritySettings](t).Insert(&row); err != nil {
				return err
			}
		}
		if err := s.keep(t, &row, before, in.APIKey); err != nil {
			return err
		}
		if err := store.In[store.DeepSecuritySettings](t).Update(&row); err != nil {
			return err
		}
		return audit.Append(t, audit.Entry{Category: audit.Server, Event: "settings.deep-security-changed", Actor: p.Actor(), Subject: p.AccountID,
			Detail: map[string]string{"before": summary(before), "after": summary(row), "api_key": changed(in.APIKey != "")}})
	})
}

// keep wraps a new API key into the row.
func (s *Service) keep(t *store.Tenant, row *store.DeepSecuritySettings, before store.DeepSecuritySettings, secret string) error {
	if secret == "" {
		if len(row.WrappedAPIKey) == 0 && row.Enabled {
			return problem.Invalid("api_key", "is needed to enable the connection")
		}
		if len(row.WrappedAPIKey) > 0 && (!strings.EqualFold(before.Server, row.Server) || before.Port != row.Port || before.Authority != row.Authority) {
			return problem.Invalid("api_key", "must be given again for another server or authority")
		}
		return nil
	}
	account, err := inventory.AccountKey(t)
	if err != nil {
		return err
	}
	key := keystore.KeyOf([]byte(secret))
	defer key.Wipe()
	row.WrappedAPIKey, err = keystore.WrapAccountSecret(s.Root, account, secretPurpose, row.ID, key)
	return err
}

func summary(row store.DeepSecuritySettings) string {
	if row.Server == "" {
		return "none"
	}
	state := "disabled"
	if row.Enabled {
		state = "enabled"
	}
	return fmt.Sprintf("%s, %s", joinHostPort(strings.Trim(row.Server, "[]"), row.Port), state)
}

func changed(yes bool) string {
	if yes {
		return "replaced"
	}
	return "kept"
}

// Test asks the manager that in describes, with the stored API key if in has none and the server is the stored one. It
// changes nothing. An error is for people.
func (s *Service) Test(ctx context.Context, p tenant.Principal, in api.DeepSecuritySettingsWrite) error {
	if err := check(in); err != nil {
		return err
	}
	secret := in.APIKey
	if secret == "" {
		err := s.Store.View(ctx, func(tx *store.Tx) error {
			t := tx.Tenant(p.AccountID)
			row, err := settingsOf(t)
			if err != nil || len(row.WrappedAPIKey) == 0 || !strings.EqualFold(row.Server, in.Server) || row.Port != in.Port || row.Authority != in.Authority {
				return problem.Invalid("api_key", "must be given to test this server")
			}
			secret, err = s.secret(t, row)
			return err
		})
		if err != nil {
			return err
		}
	}
	c, err := s.client(in.Server, in.Port, secret, in.Authority)
	if err != nil {
		return problem.Invalid("server", err.Error())
	}
	defer c.Close()
	if err := c.Test(ctx); err != nil {
		return problem.New(422, "deep-security-test-failed", "The Deep Security Manager could not be asked", sentence(err.Error()),
			"Nothing was saved. Correct what the message names and test again.")
	}
	return nil
}

// secret unwraps the API key.
func (s *Service) secret(t *store.Tenant, row store.DeepSecuritySettings) (string, error) {
	account, err := inventory.AccountKey(t)
	if err != nil {
		return "", err
	}
	key, err := keystore.OpenAccountSecret(s.Root, account, secretPurpose, row.ID, row.WrappedAPIKey)
	if err != nil {
		return "", err
	}
	defer key.Wipe()
	return string(key.Bytes()), nil
}

// check refuses what can be seen to be wrong.
func check(in api.DeepSecuritySettingsWrite) error {
	fields := map[string]string{}
	if in.Server == "" && in.Enabled {
		fields["server"] = "is needed to enable the connection"
	}
	if in.Port < 1 || in.Port > 65535 {
		fields["port"] = "is between 1 and 65535; a manager listens on 4119 unless it was told otherwise"
	} else if in.Server != "" {
		if _, err := address(in.Server, in.Port); err != nil {
			fields["server"] = "is a host name or address alone, without https:// and without a port"
		}
	}
	if len(in.APIKey) > mostSecret || strings.ContainsAny(in.APIKey, "\r\n\x00") {
		fields["api_key"] = fmt.Sprintf("is one line of up to %d bytes", mostSecret)
	}
	if len(in.Authority) > mostAuthority {
		fields["authority"] = fmt.Sprintf("is longer than %d bytes", mostAuthority)
	} else if in.Authority != "" && !isPEM(in.Authority) {
		fields["authority"] = "holds no PEM certificate"
	}
	if len(fields) > 0 {
		return problem.InvalidFields(fields)
	}
	return nil
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

// RewrapSecrets wraps the account's API key with the present key of the account: the last step of that key's rotation.
func RewrapSecrets(t *store.Tenant, root keystore.Root, key keystore.AccountKey) error {
	row, err := settingsOf(t)
	if errors.Is(err, store.ErrNotFound) || err == nil && len(row.WrappedAPIKey) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if row.WrappedAPIKey, err = keystore.RewrapAccountSecret(root, key, secretPurpose, row.ID, row.WrappedAPIKey); err != nil {
		return fmt.Errorf("API key of the Deep Security Manager: %w", err)
	}
	return store.In[store.DeepSecuritySettings](t).Update(&row)
}
