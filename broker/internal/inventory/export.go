package inventory

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
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

// Chosen is one device of an export with the keys that its files need.
type Chosen struct {
	Device store.Device
	Key    store.DeviceKey
	// Pending is the key that a rotation will give the device; nil without one. It is exported too: the data may be under
	// either while the rotation goes on.
	Pending *store.DeviceKey
}

// CheckExport refuses an export whose form is wrong, before anything else is looked at.
func CheckExport(ids []string, passphrase string) error {
	if err := CheckChoice(ids); err != nil {
		return err
	}
	if len(passphrase) < keystore.MinExportPassphrase || len(passphrase) > 1024 {
		return problem.Invalid("passphrase", fmt.Sprintf("needs %d to 1024 bytes", keystore.MinExportPassphrase))
	}
	return nil
}

// CheckChoice refuses to export no device, or too many.
func CheckChoice(ids []string) error {
	if len(ids) == 0 || len(ids) > maxExport {
		return problem.Invalid("device_ids", fmt.Sprintf("choose 1 to %d devices", maxExport))
	}
	return nil
}

// ExportPeople is how many Security Administrators must agree to an export, the one who asks among them.
func ExportPeople(t *store.Tenant) (int64, error) {
	a, err := store.Global[store.Account](t.Tx()).Get(t.AccountID())
	if err != nil {
		return 0, fmt.Errorf("reading how many people an export takes: %w", err)
	}
	return max(a.ExportPeople, 1), nil
}

// Alone refuses what one person wants to take out of the broker where the account wants several to agree.
func Alone(t *store.Tenant) error {
	people, err := ExportPeople(t)
	if err != nil || people < 2 {
		return err
	}
	return problem.New(http.StatusForbidden, "export-needs-people", "Others have to agree to this",
		fmt.Sprintf("The account wants %d Security Administrators to agree before keys leave the broker.", people),
		"Ask for the export with a reason (POST /api/v1/key-exports, or in the console); when the others have approved it, fetch it.")
}

// Export writes a ZIP archive with a file per device, DEVICE-ID.xml, in which the key is encrypted under the passphrase.
// A RAID set stands for its members. The audit records are durable before the first byte leaves. Where an export takes
// several people, it is refused: see package keyexport.
func (s *Service) Export(ctx context.Context, p tenant.Principal, in api.ExportWrite, w io.Writer) error {
	if err := CheckExport(in.DeviceIDs, in.Passphrase); err != nil {
		return err
	}
	var chosen []Chosen
	var account keystore.AccountKey
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		t := tx.Tenant(p.AccountID)
		if chosen, err = Choose(t, in.DeviceIDs); err != nil { // before anything else: what is another account's is not there
			return err
		}
		if err := mayExportAlone(t, p); err != nil {
			return err
		}
		account, err = AccountKey(t)
		return err
	})
	if err != nil {
		return err
	}
	archive, err := Archive(s.Root, s.Clock(), account, chosen, in.Passphrase)
	if err != nil {
		return err
	}
	err = s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		if err := mayExportAlone(t, p); err != nil { // again: the account may want more people since
			return err
		}
		return RecordExport(t, p, chosen, nil)
	})
	if err != nil {
		return err
	}
	if _, err := w.Write(archive); err != nil {
		return fmt.Errorf("sending the exported keys: %w", err)
	}
	return nil
}

func mayExportAlone(t *store.Tenant, p tenant.Principal) error {
	if err := Alone(t); err != nil {
		return err
	}
	return stepup.Require(t, p)
}

// RecordExport leaves the audit records of an export, with details of the caller's.
func RecordExport(t *store.Tenant, p tenant.Principal, chosen []Chosen, more map[string]string) error {
	for _, c := range chosen {
		detail := map[string]string{"name": c.Device.Name, "address": p.Address}
		maps.Copy(detail, more)
		if c.Pending != nil {
			detail["pending_generation"] = strconv.FormatInt(c.Pending.Generation, 10)
		}
		if err := audit.Append(t, audit.Entry{Category: audit.Key, Event: "device-key.exported", Actor: p.Actor(), Subject: c.Device.ID, Detail: detail}); err != nil {
			return err
		}
	}
	return nil
}

// Choose reads the devices of an export and their keys, each device once. A RAID set stands for its members.
func Choose(t *store.Tenant, ids []string) ([]Chosen, error) {
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
	var out []Chosen
	for _, d := range devices {
		if slices.ContainsFunc(out, func(c Chosen) bool { return c.Device.ID == d.ID }) {
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
		c := Chosen{Device: d, Key: key}
		if pending, err := PendingKey(t, d.ID); err == nil {
			c.Pending = &pending
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("reading the pending key of device %q: %w", d.Name, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// Archive makes the ZIP of an export. A device whose key is being rotated has a second file, DEVICE-ID.pending.xml.
func Archive(root keystore.Root, now time.Time, account keystore.AccountKey, chosen []Chosen, passphrase string) ([]byte, error) {
	exporter, err := keystore.NewExporter(passphrase)
	if err != nil {
		return nil, err
	}
	defer exporter.Wipe()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	add := func(name string, d store.Device, key store.DeviceKey) error {
		file, err := exportFile(root, exporter, account, d, key)
		if err != nil {
			return err
		}
		f, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: now.UTC()})
		if err == nil {
			_, err = f.Write(file)
		}
		return err
	}
	for _, c := range chosen {
		if err := add(c.Device.ID+".xml", c.Device, c.Key); err != nil {
			return nil, err
		}
		if c.Pending == nil {
			continue
		}
		if err := add(c.Device.ID+".pending.xml", c.Device, *c.Pending); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func exportFile(root keystore.Root, exporter *keystore.Exporter, account keystore.AccountKey, d store.Device, row store.DeviceKey) ([]byte, error) {
	key, err := keystore.OpenDeviceKey(root, account, WrappedKey(row))
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return exporter.XML(keystore.ExportInfo{DeviceID: d.ID, Name: d.Name, Volume: *d.Volume}, key)
}
