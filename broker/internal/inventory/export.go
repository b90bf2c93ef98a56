package inventory

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/stepup"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// maxExport bounds the devices of one export.
const maxExport = 1000

// ExportName is the file name of an export made at a time.
func ExportName(at time.Time) string {
	return "KeywardDeviceKeys-" + at.UTC().Format("20060102T150405Z") + ".zip"
}

// exported is one device with what its file needs.
type exported struct {
	device store.Device
	key    store.DeviceKey
}

// Export writes a ZIP archive with a file per device, DEVICE-ID.xml, in which the key is encrypted under the passphrase.
// A RAID set stands for its members. The audit records are durable before the first byte leaves.
func (s *Service) Export(ctx context.Context, p tenant.Principal, in api.ExportWrite, w io.Writer) error {
	if len(in.DeviceIDs) == 0 || len(in.DeviceIDs) > maxExport {
		return problem.Invalid("device_ids", fmt.Sprintf("choose 1 to %d devices", maxExport))
	}
	if len(in.Passphrase) < keystore.MinExportPassphrase || len(in.Passphrase) > 1024 {
		return problem.Invalid("passphrase", fmt.Sprintf("needs %d to 1024 bytes", keystore.MinExportPassphrase))
	}
	var chosen []exported
	var account keystore.AccountKey
	err := s.Store.View(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		if err := stepup.Require(t, p); err != nil {
			return err
		}
		var err error
		if account, err = AccountKey(t); err != nil {
			return err
		}
		chosen, err = toExport(t, in.DeviceIDs)
		return err
	})
	if err != nil {
		return err
	}
	archive, err := s.archive(account, chosen, in.Passphrase)
	if err != nil {
		return err
	}
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		for _, e := range chosen {
			if err := audit.Append(t, audit.Entry{Category: audit.Key, Event: "device-key.exported", Actor: p.Actor(), Subject: e.device.ID,
				Detail: map[string]string{"name": e.device.Name, "address": p.Address}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if _, err := w.Write(archive); err != nil {
		return fmt.Errorf("sending the exported keys: %w", err)
	}
	return nil
}

// toExport reads the devices and their keys, each device once.
func toExport(t *store.Tenant, ids []string) ([]exported, error) {
	var devices []store.Device
	for _, id := range ids {
		d, err := store.In[store.Device](t).Get(id)
		if err == nil {
			devices = append(devices, d)
			continue
		}
		if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if _, err := set(t, id); err != nil {
			return nil, err
		}
		all, err := members(t, id)
		if err != nil {
			return nil, err
		}
		devices = append(devices, all...)
	}
	var out []exported
	for _, d := range devices {
		if slices.ContainsFunc(out, func(e exported) bool { return e.device.ID == d.ID }) {
			continue
		}
		if !Allowed(d.Status).CanExport || d.Volume == nil {
			return nil, problem.Conflict(fmt.Sprintf("Device %q is %q and has no key to export.", d.Name, d.Status),
				"Choose devices that are Encrypted or In-use.")
		}
		key, err := CurrentKey(t, d.ID)
		if err != nil {
			return nil, fmt.Errorf("reading the key of device %q: %w", d.Name, err)
		}
		out = append(out, exported{d, key})
	}
	return out, nil
}

func (s *Service) archive(account keystore.AccountKey, chosen []exported, passphrase string) ([]byte, error) {
	exporter, err := keystore.NewExporter(passphrase)
	if err != nil {
		return nil, err
	}
	defer exporter.Wipe()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, e := range chosen {
		file, err := s.exportFile(exporter, account, e)
		if err != nil {
			return nil, err
		}
		f, err := z.CreateHeader(&zip.FileHeader{Name: e.device.ID + ".xml", Method: zip.Deflate, Modified: s.Clock().UTC()})
		if err != nil {
			return nil, err
		}
		if _, err := f.Write(file); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (s *Service) exportFile(exporter *keystore.Exporter, account keystore.AccountKey, e exported) ([]byte, error) {
	key, err := keystore.OpenDeviceKey(s.Root, account, WrappedKey(e.key))
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return exporter.XML(keystore.ExportInfo{DeviceID: e.device.ID, Name: e.device.Name, Volume: *e.device.Volume}, key)
}
