package keyexport

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// ready is an export that may leave, with what it needs to.
type ready struct {
	export  store.KeyExport
	chosen  []inventory.Chosen
	account keystore.AccountKey
	at      time.Time
}

// Fetch writes the archive of an approved export to its asker, once: when w fails, it has to be asked for anew. It is
// marked as fetched, and recorded, before the first byte leaves.
func (s *Service) Fetch(ctx context.Context, p tenant.Principal, id string, in api.KeyExportFetch, w io.Writer) error {
	var r ready
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		r, err = prepare(tx.Tenant(p.AccountID), p, id, api.ExportDevices)
		return err
	})
	if err != nil {
		return err
	}
	if err := inventory.CheckExport(ids(r.export), in.Passphrase); err != nil {
		return err
	}
	archive, err := s.archive(s.Root, r.at, r.account, r.chosen, in.Passphrase)
	if err != nil {
		return err
	}
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		now, err := prepare(t, p, id, api.ExportDevices) // all of it again: it decides here
		if err != nil {
			return err
		}
		return s.move(t, p, &now.export, EventFetched, Ctx{Enough: true, Same: true}, "", func() error {
			return inventory.RecordExport(t, p, now.chosen, map[string]string{"export": id})
		})
	})
	if err != nil {
		return err
	}
	if _, err := w.Write(archive); err != nil {
		return fmt.Errorf("sending the exported keys: %w", err)
	}
	return nil
}

// SetRecoveryKey makes the recovery key of an approved export the account's.
func (s *Service) SetRecoveryKey(ctx context.Context, p tenant.Principal, id string) (out api.RecoveryKey, err error) {
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		r, err := prepare(t, p, id, api.ExportRecoveryKey)
		if err != nil {
			return err
		}
		return s.move(t, p, &r.export, EventFetched, Ctx{Enough: true, Same: true}, "", func() (err error) {
			out, err = s.Recovery.Become(t, p, r.export.PublicKey)
			return err
		})
	})
	return out, err
}

// prepare reads an export and refuses, by the machine, one that may not leave now.
func prepare(t *store.Tenant, p tenant.Principal, id string, kind api.KeyExportKind) (r ready, err error) {
	r.at = t.Now()
	if r.export, err = current(t, id, 0); err != nil {
		return r, err
	}
	if r.export.Kind != kind {
		return r, problem.Conflict("This export is one of another kind.", "Fetch keys of devices, and set a recovery key.")
	}
	if p.UserID == "" || p.UserID != r.export.AskedByID {
		return r, problem.Forbidden("fetching what another person asked for")
	}
	if err := stepup.Require(t, p); err != nil {
		return r, err
	}
	st, err := standingOf(t, r.export)
	if err != nil {
		return r, err
	}
	same := true
	if kind == api.ExportDevices && r.export.Status == api.ExportApproved {
		if r.chosen, err = inventory.Choose(t, ids(r.export)); err != nil {
			return r, err
		}
		same = slices.Equal(keysOf(named(r.chosen)), keysOf(r.export.Devices))
	}
	if _, err := Apply(r.export.Status, EventFetched, Ctx{Own: true, Enough: st.enough(), Same: same}); err != nil {
		return r, refusal(err)
	}
	r.account, err = inventory.AccountKey(t)
	return r, err
}

func ids(e store.KeyExport) []string {
	out := make([]string, len(e.Devices))
	for i, d := range e.Devices {
		out[i] = d.ID
	}
	return out
}

// keysOf are the devices without their names, which may change.
func keysOf(devices []api.KeyExportDevice) []api.KeyExportDevice {
	out := slices.Clone(devices)
	for i := range out {
		out[i].Name = ""
	}
	return out
}
