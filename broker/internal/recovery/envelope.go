package recovery

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"keyward/broker/api"
	"keyward/broker/client/recovery"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// contents is what goes into an envelope, as the database has it at one moment.
type contents struct {
	key     recovery.PublicKey
	header  recovery.Header
	wrapped []store.DeviceKey
	account keystore.AccountKey
}

// Envelope is the envelope of every device of the account, for a safe place away from the broker.
func (s *Service) Envelope(ctx context.Context, p tenant.Principal) ([]byte, error) {
	c, err := s.gather(ctx, p, "")
	if errors.Is(err, store.ErrNotFound) {
		return nil, problem.NotFound("recovery key")
	}
	if err != nil {
		return nil, err
	}
	return s.seal(ctx, p, c, "recovery-envelope.downloaded")
}

// InstanceEnvelope is the envelope of the devices of the machine that asks. A machine that has the revision already gets no
// other.
func (s *Service) InstanceEnvelope(ctx context.Context, p tenant.Principal, revision string) (api.RecoveryEnvelope, error) {
	c, err := s.gather(ctx, p, p.Instance)
	if errors.Is(err, store.ErrNotFound) {
		return api.RecoveryEnvelope{}, nil
	}
	if err != nil {
		return api.RecoveryEnvelope{}, err
	}
	if c.header.Revision == revision {
		return api.RecoveryEnvelope{Revision: revision}, s.confirmed(ctx, p, c)
	}
	data, err := s.seal(ctx, p, c, "recovery-envelope.issued")
	return api.RecoveryEnvelope{Revision: c.header.Revision, Envelope: data}, err
}

// EnvelopeName is the file name of an envelope made at a time.
func EnvelopeName(at time.Time) string {
	return "KeywardRecoveryEnvelope-" + at.UTC().Format("20060102T150405Z") + ".json"
}

// gather reads the recovery key and the devices with keys: of one machine, or of the account. The error wraps
// store.ErrNotFound where there is no recovery key.
func (s *Service) gather(ctx context.Context, p tenant.Principal, instance string) (c contents, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		row, err := current(t)
		if err != nil {
			return err
		}
		c.key = public(row)
		account, err := store.Global[store.Account](tx).Get(p.AccountID)
		if err != nil {
			return err
		}
		c.header = recovery.Header{Broker: s.AgentURL, AccountID: account.ID, AccountName: account.Name, Scope: "account", InstanceID: instance,
			MadeAt: t.Now(), Devices: []recovery.Device{}}
		var filters []store.Filter
		if instance != "" {
			c.header.Scope = "instance"
			filters = append(filters, store.Eq("instance_id", instance))
		}
		if c.account, err = inventory.AccountKey(t); err != nil {
			return err
		}
		return c.devices(t, filters)
	})
	if err == nil {
		c.header.Revision, err = c.revision()
	}
	return c, err
}

func (c *contents) devices(t *store.Tenant, filters []store.Filter) error {
	devices, err := store.In[store.Device](t).List(filters...)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if d.Volume == nil {
			continue
		}
		key, err := inventory.CurrentKey(t, d.ID)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		c.add(d, key)
	}
	return nil
}

// add puts a device that has a volume into the envelope.
func (c *contents) add(d store.Device, key store.DeviceKey) {
	c.header.Devices = append(c.header.Devices, recovery.Device{ID: d.ID, Name: d.Name, FileSystem: d.FileSystem, MountPoint: d.MountPoint, Volume: *d.Volume})
	c.wrapped = append(c.wrapped, key)
}

// revision names the recovery key, the devices and the generations of their keys, and nothing that changes without them.
func (c *contents) revision() (string, error) {
	var generations []int64
	for _, k := range c.wrapped {
		generations = append(generations, k.Generation)
	}
	data, err := json.Marshal([]any{c.key.ID, c.header.Scope, c.header.InstanceID, c.header.Devices, generations})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16]), nil
}

// seal makes the envelope; its record is durable before it leaves.
func (s *Service) seal(ctx context.Context, p tenant.Principal, c contents, event string) ([]byte, error) {
	var keys [][]byte
	for _, row := range c.wrapped {
		key, err := keystore.OpenDeviceKey(s.Root, c.account, inventory.WrappedKey(row))
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
		keys = append(keys, key.Bytes())
	}
	data, err := recovery.Seal(c.key, c.header, keys)
	if err != nil {
		return nil, err
	}
	return data, s.Store.Tx(ctx, func(tx *store.Tx) error {
		if p.Instance != "" {
			if err := given(tx.Tenant(p.AccountID), p, c); err != nil {
				return err
			}
		}
		return audit.Append(tx.Tenant(p.AccountID), audit.Entry{Category: audit.Key, Event: event, Actor: p.Actor(), Subject: c.key.ID,
			Detail: map[string]string{"revision": c.header.Revision, "devices": fmt.Sprint(len(keys)), "address": p.Address}})
	})
}
