package encrypt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/discover"
	"keyward/agent/internal/mount"
	"keyward/agent/internal/record"
	"keyward/broker/api"
	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// Job is one encrypt job: on one device, or on all members of a RAID set together.
type Job struct {
	ID     string
	Device api.AssignedDevice
	// Disks are where the device is, or the members of Device.Set in their order.
	Disks   []Disk
	Destroy bool
	// Account and Broker go into the header.
	Account, Broker string
	StateDir        string
	RuntimeDir      string
	Connections     int
	Progress        func(phase string, percent int)
	Logger          *slog.Logger
}

// Disk is a device of a job as this machine has it.
type Disk struct {
	// DeviceID is the broker's ID of the device, Name what people call it.
	DeviceID, Name string
	// Path is where it is, Identity what the machine knows it by.
	Path, Identity string
	// InUse says who uses the device, ReadOnly that it cannot be written: either refuses the job. Disks that the running
	// system stands on are no devices of any provider, and are refused once more by the look at the disk itself.
	InUse    string
	ReadOnly bool
}

// Phases of a job as reported.
const (
	PhaseHeader     = "header"
	PhaseFileSystem = "file system"
)

// Run writes headers and file system and returns the volumes' records, one for each disk. key is the key of the device, or
// of all members of a set one after the other; Run owns it and wipes it. Run may be called again for a job that was
// interrupted anywhere, also after its end and before the broker took note: it starts from the beginning. Once the broker
// has taken note, Forget ends that.
func (j Job) Run(ctx context.Context, key *keymem.Key) ([]api.VolumeRecord, error) {
	defer key.Wipe()
	keys, err := j.check(key)
	if err != nil {
		return nil, j.failed(err)
	}
	defer func() {
		for _, k := range keys {
			k.Wipe()
		}
	}()
	targets, err := j.look()
	if err == nil {
		err = j.write(ctx, targets, keys)
	}
	for _, t := range targets {
		err = errors.Join(err, t.file.Close())
	}
	if err != nil {
		return nil, j.failed(err)
	}
	out := make([]api.VolumeRecord, len(targets))
	for i, t := range targets {
		out[i] = record.OnWire(t.made)
	}
	return out, nil
}

func (j Job) failed(err error) error {
	if j.Device.Set != nil {
		return fmt.Errorf("encrypt RAID set %s: %w", j.Device.Set.Name, err)
	}
	return fmt.Errorf("encrypt %s (%s): %w", j.Device.Name, j.Disks[0].Path, err)
}

// check refuses what can be refused without a look at the disks, and returns the key of each.
func (j Job) check(key *keymem.Key) ([]*keymem.Key, error) {
	want := j.Device.KeyBits / 4
	if key.Len() != want*len(j.Disks) {
		return nil, fmt.Errorf("the delivered key has %d bytes, %d-bit XTS needs %d: refused", key.Len(), j.Device.KeyBits, want*len(j.Disks))
	}
	if _, err := mount.CheckTarget(j.Device.MountPoint); err != nil {
		return nil, err
	}
	lengths := make([]int, len(j.Disks))
	for i, d := range j.Disks {
		switch {
		case d.ReadOnly:
			return nil, d.named(errors.New("the device is read-only"))
		case d.InUse != "":
			return nil, d.named(fmt.Errorf("the device is in use (%s); release it first", d.InUse))
		}
		if err := neverRoot(d.Path); err != nil {
			return nil, d.named(err)
		}
		lengths[i] = want
	}
	return key.Split(lengths...)
}

// named says which disk of several an error is about.
func (d Disk) named(err error) error { return fmt.Errorf("device %s: %w", d.Name, err) }

// neverRoot refuses a disk that the running system stands on, whatever inventory or broker say.
func neverRoot(disk string) error {
	path, err := filepath.EvalSymlinks(disk)
	if err != nil {
		return err
	}
	if info, err := os.Stat(path); err != nil || info.Mode()&os.ModeDevice == 0 {
		return err // an image file is not what a system stands on
	}
	devices, err := discover.Devices(context.Background(), discover.Sources{})
	if err != nil {
		return fmt.Errorf("find the disks that the system stands on: %w", err)
	}
	for _, d := range devices {
		if d.Path == path && d.Root {
			return fmt.Errorf("the running system stands on %s; it is never encrypted", path)
		}
	}
	return nil
}

// target is a disk that may be written to.
type target struct {
	Disk
	file  *blockdev.File
	mark  marker
	clean bool // nothing was recognised on it
	made  luks2.Record
}

// look opens every disk and judges what it holds before the first byte is written to any. What it returns is closed by the
// caller, also after an error.
func (j Job) look() ([]target, error) {
	j.Progress(PhaseHeader, 0)
	var out []target
	for _, d := range j.Disks {
		t := target{Disk: d, mark: marker{JobID: j.ID, DeviceID: d.DeviceID, Identity: d.Identity}}
		begun, err := t.mark.begun(j.StateDir)
		if err != nil {
			return out, err
		}
		if t.file, err = blockdev.OpenFile(d.Path, blockdev.FileOptions{}); err != nil {
			return out, err
		}
		out = append(out, t)
		contents, err := judge(t.file, d.DeviceID, j.Account, j.Destroy, begun)
		if err != nil {
			return out, d.named(err)
		}
		out[len(out)-1].clean = contents.Empty
		j.Logger.Info("encrypting", "disk", d.Path, "holds", contents.String(), "destroy", j.Destroy, "again", begun)
	}
	return out, nil
}

func (j Job) write(ctx context.Context, targets []target, keys []*keymem.Key) error {
	for i := range targets {
		t := &targets[i]
		if err := t.mark.set(j.StateDir); err != nil {
			return err
		}
		if !t.clean {
			if err := clearTail(t.file); err != nil {
				return t.named(err)
			}
		}
		var err error
		t.made, err = luks2.Format(t.file, luks2.Params{Device: t.DeviceID, Account: j.Account, Broker: j.Broker, KeyBits: j.Device.KeyBits,
			SectorSize: max(512, min(4096, sectorSize(t.file))), RAID: j.place(i), Overwrite: true}, keys[i])
		if err != nil {
			return t.named(err)
		}
	}
	j.Progress(PhaseHeader, 100)
	return j.fileSystem(ctx, targets, keys)
}

// place is where a disk stands in the RAID set, nil for a device that stands alone.
func (j Job) place(i int) *luks2.RAIDMember {
	if j.Device.Set == nil {
		return nil
	}
	return &luks2.RAIDMember{Set: j.Device.Set.ID, Index: i, Count: len(j.Disks), Chunk: j.Device.Set.Chunk}
}

// sectorSize is 4096 unless the device's size is not a whole number of them.
func sectorSize(disk *blockdev.File) int {
	if (disk.Size()-luks2.DataOffset)%4096 != 0 {
		return 512
	}
	return 4096
}

// clearTail removes signatures that live at the end of a disk (GPT's copy, md RAID): the header is written at the start,
// and a leftover at the end would make other tools see what is no longer there.
func clearTail(disk *blockdev.File) error {
	const tail = 1 << 20
	from := max(0, disk.Size()-tail)
	if _, err := disk.WriteAt(make([]byte, disk.Size()-from), from); err != nil {
		return fmt.Errorf("clear the end of the disk: %w", err)
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("clear the end of the disk: %w", err)
	}
	return nil
}

// fileSystem makes the file system inside the new volume, or stripe of volumes, and has it on the disks when it returns.
func (j Job) fileSystem(ctx context.Context, targets []target, keys []*keymem.Key) error {
	dev, err := opened(targets, keys)
	if err != nil {
		return err
	}
	id, size := targets[0].made.UUID, 0
	if j.Device.Set != nil {
		id = j.Device.Set.ID
	}
	for _, t := range targets {
		size = max(size, t.made.SectorSize)
	}
	att, err := attach.Attach(ctx, dev, attach.Options{Name: j.Device.Name, VolumeUUID: id, SectorSize: size,
		Connections: j.Connections, RuntimeDir: j.RuntimeDir, Logger: j.Logger})
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	err = mount.Format(ctx, mount.FormatOptions{Device: att.Path(), Type: j.Device.FileSystem, Overwrite: true,
		Progress: func(f float64, _ string) { j.Progress(PhaseFileSystem, int(f*100)) }})
	return errors.Join(err, detach(att), dev.Close())
}

// opened is the new volume, or the stripe of all.
func opened(targets []target, keys []*keymem.Key) (blockdev.Device, error) {
	var volumes []*nbdcrypt.Volume
	fail := func(err error) (blockdev.Device, error) {
		for _, v := range volumes {
			err = errors.Join(err, v.Close())
		}
		return nil, err
	}
	for i, t := range targets {
		own, err := keys[i].Clone()
		if err != nil {
			return fail(err)
		}
		vol, err := nbdcrypt.Open(t.file, t.made, own, nbdcrypt.Options{})
		if err != nil {
			own.Wipe()
			return fail(t.named(err))
		}
		volumes = append(volumes, vol)
	}
	if len(volumes) == 1 {
		return volumes[0], nil
	}
	stripe, err := nbdcrypt.NewStripe(volumes)
	if err != nil {
		return fail(err)
	}
	return stripe, nil
}

// detach waits for whoever looks at a new block device (udev) before it gives up.
func detach(att attach.Attachment) error {
	err := att.Close()
	for end := time.Now().Add(10 * time.Second); errors.Is(err, attach.ErrBusy) && time.Now().Before(end); err = att.Close() {
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
