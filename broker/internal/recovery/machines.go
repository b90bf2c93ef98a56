package recovery

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"keyward/broker/api"
	"keyward/broker/client/recovery"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Machines says of every machine of the account whether it has the envelope that it should have now, by host name.
func (s *Service) Machines(ctx context.Context, p tenant.Principal) ([]api.RecoveryMachine, error) {
	out := []api.RecoveryMachine{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		row, err := current(t)
		if errors.Is(err, store.ErrNotFound) {
			return problem.NotFound("recovery key")
		}
		if err != nil {
			return err
		}
		revisions, err := s.revisions(t, public(row))
		if err != nil {
			return err
		}
		has := map[string]store.RecoveryEnvelope{}
		given, err := store.In[store.RecoveryEnvelope](t).List()
		for _, e := range given {
			has[e.InstanceID] = e
		}
		if err != nil {
			return err
		}
		machines, err := store.In[store.Instance](t).List(store.IsNull("revoked_at"), store.Only("id", "host_name"))
		if err != nil {
			return err
		}
		out = make([]api.RecoveryMachine, len(machines))
		for i, m := range machines {
			out[i] = api.RecoveryMachine{InstanceID: m.ID, InstanceName: m.HostName, State: api.EnvelopeNone}
			e, given := has[m.ID]
			if !given {
				continue
			}
			out[i].IssuedAt, out[i].ConfirmedAt = &e.IssuedAt, e.ConfirmedAt
			if want := revisions(m.ID); e.Revision != want {
				out[i].State = api.EnvelopeFormer
			} else if e.ConfirmedAt == nil {
				out[i].State = api.EnvelopeIssued
			} else {
				out[i].State = api.EnvelopeCurrent
			}
		}
		return nil
	})
	slices.SortFunc(out, func(a, b api.RecoveryMachine) int {
		return strings.Compare(a.InstanceName+"\x00"+a.InstanceID, b.InstanceName+"\x00"+b.InstanceID)
	})
	return out, err
}

// revisions reads all devices and keys once and returns what computes the revision of a machine's envelope.
func (s *Service) revisions(t *store.Tenant, key recovery.PublicKey) (func(instanceID string) string, error) {
	devices, err := store.In[store.Device](t).List()
	if err != nil {
		return nil, err
	}
	keys, err := store.In[store.DeviceKey](t).List(store.Eq("pending", false), store.Asc("generation"), store.Only("device_id", "generation"))
	if err != nil {
		return nil, err
	}
	newest := make(map[string]store.DeviceKey, len(keys))
	for _, k := range keys {
		newest[k.DeviceID] = k
	}
	of := map[string]*contents{}
	empty := func(instanceID string) *contents {
		return &contents{key: key, header: recovery.Header{Scope: "instance", InstanceID: instanceID, Devices: []recovery.Device{}}}
	}
	for _, d := range devices {
		k, ok := newest[d.ID]
		if d.Volume == nil || !ok {
			continue
		}
		c := of[d.InstanceID]
		if c == nil {
			c = empty(d.InstanceID)
			of[d.InstanceID] = c
		}
		c.add(d, k)
	}
	return func(instanceID string) string {
		c := of[instanceID]
		if c == nil {
			c = empty(instanceID)
		}
		revision, err := c.revision()
		if err != nil {
			return ""
		}
		return revision
	}, nil
}

// given notes that a machine was given an envelope.
func given(t *store.Tenant, p tenant.Principal, c contents) error {
	table := store.In[store.RecoveryEnvelope](t)
	row, err := table.First(store.Eq("instance_id", p.Instance))
	if errors.Is(err, store.ErrNotFound) {
		return table.Insert(&store.RecoveryEnvelope{InstanceID: p.Instance, KeyID: c.key.ID, Revision: c.header.Revision, IssuedAt: t.Now()})
	}
	if err != nil {
		return err
	}
	row.KeyID, row.Revision, row.IssuedAt, row.ConfirmedAt = c.key.ID, c.header.Revision, t.Now(), nil
	return table.Update(&row)
}

// confirmed notes that a machine says that it has the envelope that it should have; the database is written once for each.
func (s *Service) confirmed(ctx context.Context, p tenant.Principal, c contents) error {
	known := func(t *store.Tenant) (store.RecoveryEnvelope, bool, error) {
		row, err := store.In[store.RecoveryEnvelope](t).First(store.Eq("instance_id", p.Instance), store.Eq("revision", c.header.Revision))
		if errors.Is(err, store.ErrNotFound) {
			return row, false, nil
		}
		return row, row.ConfirmedAt != nil, err
	}
	var done bool
	if err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		_, done, err = known(tx.Tenant(p.AccountID))
		return err
	}); err != nil || done {
		return err
	}
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		row, done, err := known(t)
		if err != nil || done {
			return err
		}
		if row.ID == "" { // from before this was noted
			if err := given(t, p, c); err != nil {
				return err
			}
			if row, _, err = known(t); err != nil {
				return err
			}
		}
		now := t.Now().Truncate(time.Microsecond)
		row.ConfirmedAt = &now
		return store.In[store.RecoveryEnvelope](t).Update(&row)
	})
}
