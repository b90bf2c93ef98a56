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

// Job is one encrypt job on one device.
type Job struct {
	ID     string
	Device api.AssignedDevice
	// Disk is the path of the device, Identity what the machine knows it by.
	Disk     string
	Identity string
	// InUse says who uses the device, ReadOnly that it cannot be written: either refuses the job. Disks that the running
	// system stands on are no devices of any provider, and are refused once more by the look at the disk itself.
	InUse    string
	ReadOnly bool
	Destroy  bool
	// Account and Broker go into the header.
	Account, Broker string
	StateDir        string
	RuntimeDir      string
	Connections     int
	Progress        func(phase string, percent int)
	Logger          *slog.Logger
}

// Phases of a job as reported.
const (
	PhaseHeader     = "header"
	PhaseFileSystem = "file system"
)

// Run writes header and file system and returns the volume's record. It owns key and wipes it. Run may be called again
// for a job that was interrupted anywhere, also after its end and before the broker took note: it starts from the
// beginning. Once the broker has taken note, Forget ends that.
func (j Job) Run(ctx context.Context, key *keymem.Key) (api.VolumeRecord, error) {
	defer key.Wipe()
	if err := j.check(key); err != nil {
		return api.VolumeRecord{}, j.failed(err)
	}
	mark := marker{JobID: j.ID, DeviceID: j.Device.ID, Identity: j.Identity}
	begun, err := mark.begun(j.StateDir)
	if err != nil {
		return api.VolumeRecord{}, j.failed(err)
	}
	disk, err := blockdev.OpenFile(j.Disk, blockdev.FileOptions{})
	if err != nil {
		return api.VolumeRecord{}, j.failed(err)
	}
	record, err := j.write(ctx, disk, key, mark, begun)
	if err := errors.Join(err, disk.Close()); err != nil {
		return api.VolumeRecord{}, j.failed(err)
	}
	return record, nil
}

func (j Job) failed(err error) error {
	return fmt.Errorf("encrypt %s (%s): %w", j.Device.Name, j.Disk, err)
}

func (j Job) check(key *keymem.Key) error {
	switch {
	case j.ReadOnly:
		return errors.New("the device is read-only")
	case j.InUse != "":
		return fmt.Errorf("the device is in use (%s); release it first", j.InUse)
	case key.Len() != j.Device.KeyBits/4:
		return fmt.Errorf("the delivered key has %d bytes, %d-bit XTS needs %d: refused", key.Len(), j.Device.KeyBits, j.Device.KeyBits/4)
	}
	if _, err := mount.CheckTarget(j.Device.MountPoint); err != nil {
		return err
	}
	return j.neverRoot()
}

// neverRoot refuses a disk that the running system stands on, whatever inventory or broker say.
func (j Job) neverRoot() error {
	path, err := filepath.EvalSymlinks(j.Disk)
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

func (j Job) write(ctx context.Context, disk *blockdev.File, key *keymem.Key, mark marker, begun bool) (api.VolumeRecord, error) {
	j.Progress(PhaseHeader, 0)
	contents, err := judge(disk, j.Device.ID, j.Account, j.Destroy, begun)
	if err != nil {
		return api.VolumeRecord{}, err
	}
	j.Logger.Info("encrypting", "disk", j.Disk, "holds", contents.String(), "destroy", j.Destroy, "again", begun)
	if err := mark.set(j.StateDir); err != nil {
		return api.VolumeRecord{}, err
	}
	if !contents.Empty {
		if err := clearTail(disk); err != nil {
			return api.VolumeRecord{}, err
		}
	}
	made, err := luks2.Format(disk, luks2.Params{Device: j.Device.ID, Account: j.Account, Broker: j.Broker, KeyBits: j.Device.KeyBits,
		SectorSize: max(512, min(4096, sectorSize(disk))), Overwrite: true}, key)
	if err != nil {
		return api.VolumeRecord{}, err
	}
	j.Progress(PhaseHeader, 100)
	if err := j.fileSystem(ctx, disk, made, key); err != nil {
		return api.VolumeRecord{}, err
	}
	return record.OnWire(made), nil
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

// fileSystem makes the file system inside the new volume and has it on the disk when it returns.
func (j Job) fileSystem(ctx context.Context, disk *blockdev.File, record luks2.Record, key *keymem.Key) error {
	own, err := key.Clone()
	if err != nil {
		return err
	}
	vol, err := nbdcrypt.Open(disk, record, own, nbdcrypt.Options{})
	if err != nil {
		own.Wipe()
		return err
	}
	att, err := attach.Attach(ctx, vol, attach.Options{Name: j.Device.Name, VolumeUUID: record.UUID, SectorSize: record.SectorSize,
		Connections: j.Connections, RuntimeDir: j.RuntimeDir, Logger: j.Logger})
	if err != nil {
		return errors.Join(err, vol.Close())
	}
	err = mount.Format(ctx, mount.FormatOptions{Device: att.Path(), Type: j.Device.FileSystem, Overwrite: true,
		Progress: func(f float64, _ string) { j.Progress(PhaseFileSystem, int(f*100)) }})
	return errors.Join(err, detach(att), vol.Close())
}

// detach waits for whoever looks at a new block device (udev) before it gives up.
func detach(att attach.Attachment) error {
	err := att.Close()
	for end := time.Now().Add(10 * time.Second); errors.Is(err, attach.ErrBusy) && time.Now().Before(end); err = att.Close() {
		time.Sleep(50 * time.Millisecond)
	}
	return err
}
