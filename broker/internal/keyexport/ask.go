package keyexport

import (
	"context"

	"keyward/broker/api"
	client "keyward/broker/client/recovery"
	"keyward/broker/internal/approval"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
	"keyward/rbac"
)

// Ask asks for an export of device keys. Where one person is enough it is approved at once.
func (s *Service) Ask(ctx context.Context, p tenant.Principal, in api.KeyExportWrite) (api.KeyExport, error) {
	if err := inventory.CheckChoice(in.DeviceIDs); err != nil {
		return api.KeyExport{}, err
	}
	return s.ask(ctx, p, in.Reason, func(t *store.Tenant, e *store.KeyExport) error {
		chosen, err := inventory.Choose(t, in.DeviceIDs)
		e.Kind, e.Devices = api.ExportDevices, named(chosen)
		return err
	})
}

// AskRecoveryKey asks for the account's recovery key to become another one: who holds it can read every key.
func (s *Service) AskRecoveryKey(ctx context.Context, p tenant.Principal, in api.RecoveryKeyAsk) (api.KeyExport, error) {
	key, err := client.ParsePublicKey([]byte(in.PublicKey))
	if err != nil {
		return api.KeyExport{}, problem.Invalid("public_key", err.Error())
	}
	return s.ask(ctx, p, in.Reason, func(t *store.Tenant, e *store.KeyExport) error {
		e.Kind, e.PublicKey = api.ExportRecoveryKey, in.PublicKey
		return s.Recovery.MayBecome(t, key)
	})
}

func (s *Service) ask(ctx context.Context, p tenant.Principal, why string, fill func(*store.Tenant, *store.KeyExport) error) (out api.KeyExport, err error) {
	reason, err := approval.Reason(why)
	if err != nil {
		return out, err
	}
	if reason == "" {
		return out, problem.Invalid("reason", "is needed: the others decide by it")
	}
	if p.UserID == "" {
		return out, problem.Forbidden(string(rbac.DevicesExport))
	}
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		e := store.KeyExport{AskedBy: p.UserName, AskedByID: p.UserID, Reason: reason, ExpiresAt: t.Now().Add(Life)}
		if err := fill(t, &e); err != nil {
			return err
		}
		if e.PeopleNeeded, err = inventory.ExportPeople(t); err != nil {
			return err
		}
		if err := s.move(t, p, &e, EventAsked, Ctx{Enough: e.PeopleNeeded == 1}, reason, nil); err != nil {
			return err
		}
		out, err = view(t, p, e)
		return err
	})
	return out, err
}

// named are the devices of an export as people agree to them.
func named(chosen []inventory.Chosen) []api.KeyExportDevice {
	out := make([]api.KeyExportDevice, len(chosen))
	for i, c := range chosen {
		out[i] = api.KeyExportDevice{ID: c.Device.ID, Name: c.Device.Name, Generation: c.Key.Generation}
		if c.Pending != nil {
			out[i].PendingGeneration = c.Pending.Generation
		}
	}
	return out
}

// List lists the account's exports, newest first: those that are open, and the last of those that are over.
func (s *Service) List(ctx context.Context, p tenant.Principal) ([]api.KeyExport, error) {
	out := []api.KeyExport{}
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		rows, err := store.In[store.KeyExport](t).List(store.Desc("created_at"), store.Limit(maxListed))
		if err != nil {
			return err
		}
		out = make([]api.KeyExport, len(rows))
		for i, e := range rows {
			if out[i], err = view(t, p, e); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// maxListed is how many exports a list has; older ones are in the audit log.
const maxListed = 200

// Get is one export.
func (s *Service) Get(ctx context.Context, p tenant.Principal, id string) (out api.KeyExport, err error) {
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		e, err := export(t, id)
		if err != nil {
			return err
		}
		out, err = view(t, p, e)
		return err
	})
	return out, err
}

func view(t *store.Tenant, p tenant.Principal, e store.KeyExport) (api.KeyExport, error) {
	st, err := standingOf(t, e)
	if err != nil {
		return api.KeyExport{}, err
	}
	if !Open(e.Status) {
		st.needed = e.PeopleNeeded
	}
	out := api.KeyExport{ID: e.ID, Kind: e.Kind, Status: e.Status, AskedBy: e.AskedBy, Reason: e.Reason, Devices: e.Devices, PeopleNeeded: st.needed,
		Agreed: st.agreed, Approvals: st.approvals, Own: p.UserID != "" && p.UserID == e.AskedByID, AskedAt: e.CreatedAt, ExpiresAt: e.ExpiresAt,
		EndedBy: e.EndedBy, EndReason: e.EndReason, EndedAt: e.EndedAt, Version: e.Version}
	if out.Devices == nil {
		out.Devices = []api.KeyExportDevice{}
	}
	if e.Kind == api.ExportRecoveryKey {
		key, err := client.ParsePublicKey([]byte(e.PublicKey))
		if err != nil {
			return out, err
		}
		out.RecoveryKey = &api.RecoveryKey{KeyID: key.ID, Threshold: key.Threshold, Holders: key.Holders, CreatedAt: e.CreatedAt, CreatedBy: e.AskedBy}
	}
	return out, nil
}
