// Package adopt brings a LUKS2 volume that was encrypted before under a broker: its key goes to the broker, its header gets
// our token, its data stays where it is.
package adopt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"keyward/agent/internal/discover"
	"keyward/agent/internal/record"
	"keyward/agent/provider"
	"keyward/broker/api"
	"keyward/broker/client"
	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// maxBackup is the most of a header area that is copied: what LUKS2 allows for headers and slots, in bytes.
const maxBackup = 256 << 20

// Broker is what an import asks of the broker; client.Agent implements it.
type Broker interface {
	Nonce(ctx context.Context) (api.NonceResponse, error)
	ImportOffer(ctx context.Context, deviceID string, in api.ImportOfferRequest) (api.ImportOffer, error)
	Import(ctx context.Context, deviceID string, in api.ImportKey) (api.AssignedDevice, error)
}

// Job is the import of one volume.
type Job struct {
	Broker     Broker
	InstanceID string
	// Device is the disk as the provider shows it, DeviceID the broker's name for it.
	Device   provider.Device
	DeviceID string
	// Key finds the volume key on the disk, from a passphrase or from an export. The caller of Key wipes it.
	Key func(disk blockdev.Device) (*keymem.Key, error)
	// Backup is the file that a copy of the header is written to. It must not exist.
	Backup string
	// TakeOver is the explicit word that a volume of another broker, account or device may become this device's: its former
	// record no longer opens it then.
	TakeOver bool
	// TryOnly ends before anything is written or handed over.
	TryOnly bool
	Logger  *slog.Logger
}

// Run imports the volume and returns the device as the broker has it. Until the header is written nothing has changed; if
// the broker cannot be reached after that, the volume still opens with its passphrases, and Run can be called again.
func (j Job) Run(ctx context.Context) (api.AssignedDevice, error) {
	d, err := j.run(ctx)
	if err != nil {
		return d, fmt.Errorf("import %s (%s): %w", j.Device.Name, j.Device.Path, err)
	}
	return d, nil
}

func (j Job) run(ctx context.Context) (api.AssignedDevice, error) {
	var none api.AssignedDevice
	switch {
	case j.Device.ReadOnly:
		return none, errors.New("the disk is read-only, and the header gets a token")
	case j.Device.InUse != "":
		return none, fmt.Errorf("the disk is in use (%s); unmount the volume and close it (cryptsetup close) first", j.Device.InUse)
	}
	nonce, err := j.Broker.Nonce(ctx)
	if err != nil {
		return none, fmt.Errorf("ask for a challenge: %w", err)
	}
	offer, err := j.Broker.ImportOffer(ctx, j.DeviceID, api.ImportOfferRequest{Nonce: nonce.Nonce})
	if err != nil {
		return none, err
	}
	disk, err := blockdev.OpenFile(j.Device.Path, blockdev.FileOptions{ReadOnly: j.TryOnly})
	if err != nil {
		return none, err
	}
	defer disk.Close()
	key, err := j.Key(disk)
	if err != nil {
		return none, err
	}
	defer key.Wipe()
	p := luks2.Params{Device: j.DeviceID, Account: offer.AccountID, Broker: offer.Broker, Overwrite: j.TakeOver || j.again(disk, offer)}
	planned, err := j.try(disk, p, key, offer.Device)
	if err != nil || j.TryOnly {
		return offer.Device, err
	}
	if err := j.backUp(disk, planned.DataOffset); err != nil {
		return none, err
	}
	rec, err := luks2.Adopt(disk, p, key)
	if err != nil {
		return none, err
	}
	j.Logger.Info("the header has its token", "disk", j.Device.Path, "volume", rec.UUID, "backup", j.Backup)
	in, err := client.SealImport(offer.PublicKey, api.ImportBinding{AccountID: offer.AccountID, DeviceID: j.DeviceID, InstanceID: j.InstanceID,
		Nonce: nonce.Nonce}, record.OnWire(rec), key.Bytes())
	if err != nil {
		return none, err
	}
	d, err := j.Broker.Import(ctx, j.DeviceID, in)
	if err != nil {
		return none, fmt.Errorf("hand the key over: %w; the volume still opens with its passphrases; import it again", err)
	}
	return d, nil
}

// again reports whether the header has the token of a former import of the same device, which the broker does not know of:
// it has just said that the device may be imported.
func (j Job) again(disk blockdev.Device, offer api.ImportOffer) bool {
	header, err := luks2.Read(disk)
	if err != nil {
		return false
	}
	r := header.Record()
	return r.Broker == offer.Broker && r.Account == offer.AccountID && r.Device == j.DeviceID
}

// try does all of it in memory: the header, opening the volume by it, and a look at what it holds.
func (j Job) try(disk blockdev.Device, p luks2.Params, key *keymem.Key, want api.AssignedDevice) (luks2.Record, error) {
	if header, err := luks2.Read(disk); err == nil && header.Record().RAID != nil {
		return luks2.Record{}, errors.New("the volume is a member of a RAID set, and its stripe would be forgotten; a set is imported by restoring its broker")
	}
	trial, err := newOverlay(disk)
	if err != nil {
		return luks2.Record{}, err
	}
	rec, err := luks2.Adopt(trial, p, key)
	if err != nil {
		return luks2.Record{}, err
	}
	own, err := key.Clone()
	if err != nil {
		return luks2.Record{}, err
	}
	vol, err := nbdcrypt.Open(trial, rec, own, nbdcrypt.Options{ReadOnly: true})
	if err != nil {
		own.Wipe()
		return luks2.Record{}, err
	}
	defer vol.Close()
	contents, err := discover.Probe(vol, vol.Size())
	if err != nil {
		return luks2.Record{}, err
	}
	if !contents.Has(want.FileSystem) {
		return luks2.Record{}, fmt.Errorf("the volume holds %s, and the device is configured for %s; correct the device in the console", contents, want.FileSystem)
	}
	return rec, nil
}

// backUp copies header and passphrase slots, as cryptsetup luksHeaderBackup does.
func (j Job) backUp(disk blockdev.Device, size int64) error {
	f, err := os.OpenFile(j.Backup, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("keep a copy of the header: %w", err)
	}
	_, err = io.Copy(f, io.NewSectionReader(disk, 0, min(size, maxBackup)))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("keep a copy of the header in %s: %w", j.Backup, errors.Join(err, os.Remove(j.Backup)))
	}
	return nil
}
