package unlock

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"

	"keyward/agent/internal/record"
	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// part is one encrypted volume of an export: the only one, or a member of a RAID set.
type part struct {
	record api.VolumeRecord
	vol    *nbdcrypt.Volume
	disk   *blockdev.File
}

// member is where a part lies, and what it is opened by.
type member struct {
	record api.VolumeRecord
	disk   string
}

// members are the parts that a delivery is about, in their order. disk is where the device is; the others of a RAID set are
// looked for on this machine, and one that is not there is named.
func (p *Platform) members(disk string, v Passed) ([]member, error) {
	d := v.Device
	if d.Set == nil {
		return []member{{v.Volume, disk}}, nil
	}
	out := make([]member, len(d.Set.Members))
	for i, m := range d.Set.Members {
		at, here := "", false
		switch {
		case i < len(v.Disks):
			at, here = v.Disks[i], true
		case p.o.Disk != nil:
			at, here = p.o.Disk(m.Identity)
		}
		if !here {
			return nil, fmt.Errorf("member %d of %d of RAID set %s, device %s, is not on this machine; attach it and try again", i, len(out), d.Set.Name, m.Name)
		}
		if m.Volume == nil {
			return nil, fmt.Errorf("member %d of %d of RAID set %s, device %s, was delivered without a volume record: refused", i, len(out), d.Set.Name, m.Name)
		}
		out[i] = member{*m.Volume, at}
	}
	return out, nil
}

// split gives each part the key that is its own. The whole stays the caller's.
func split(parts []member, key *keymem.Key) ([]*keymem.Key, error) {
	lengths, total := make([]int, len(parts)), 0
	for i, m := range parts {
		lengths[i] = record.OnDisk(m.record).KeyLen()
		total += lengths[i]
	}
	if total != key.Len() {
		return nil, fmt.Errorf("the delivered key has %d bytes, the volume record says %d: refused", key.Len(), total)
	}
	return key.Split(lengths...)
}

func wipe(keys []*keymem.Key) {
	for _, k := range keys {
		k.Wipe()
	}
}

// openPart verifies and opens the volume on a disk. It consumes key, also on error.
func (p *Platform) openPart(m member, key *keymem.Key, readOnly bool) (part, error) {
	dev, err := blockdev.OpenFile(m.disk, blockdev.FileOptions{ReadOnly: readOnly})
	if err != nil {
		key.Wipe()
		return part{}, err
	}
	if err := repair(dev, m.record, key, readOnly, p.o.Logger); err != nil {
		key.Wipe()
		return part{}, errors.Join(err, dev.Close())
	}
	vol, err := nbdcrypt.Open(dev, record.OnDisk(m.record), key, nbdcrypt.Options{ReadOnly: readOnly})
	if err != nil {
		key.Wipe()
		return part{}, errors.Join(fmt.Errorf("open volume on %s: %w", m.disk, err), dev.Close())
	}
	return part{m.record, vol, dev}, nil
}

// assemble puts parts together: one is itself, several are the stripe that their records describe, and nothing else.
func assemble(parts []part, set *api.AssignedSet) (blockdev.Device, error) {
	if set == nil {
		return parts[0].vol, nil
	}
	volumes := make([]*nbdcrypt.Volume, len(parts))
	for i, x := range parts {
		if r := x.record.RAID; r == nil || r.Set != set.ID || r.Chunk != set.Chunk {
			return nil, fmt.Errorf("device %s was delivered as member %d of RAID set %s, and its volume record says otherwise: refused", x.record.Device, i, set.Name)
		}
		volumes[i] = x.vol
	}
	return nbdcrypt.NewStripe(volumes)
}

func closeDisks(parts []part) error {
	var errs []error
	for _, x := range parts {
		errs = append(errs, x.disk.Close())
	}
	return errors.Join(errs...)
}

func closeParts(parts []part) error {
	var errs []error
	for _, x := range parts {
		errs = append(errs, x.vol.Close())
	}
	return errors.Join(errors.Join(errs...), closeDisks(parts))
}

// suspend wipes the keys of all parts and lets requests wait, always.
func (x *export) suspend() error {
	var errs []error
	for _, part := range x.parts {
		errs = append(errs, part.vol.Suspend())
	}
	return errors.Join(errs...)
}

// unsuspend gives every part its key back, or none. It consumes key on success.
func (x *export) unsuspend(key *keymem.Key) error {
	parts := make([]member, len(x.parts))
	for i, part := range x.parts {
		parts[i].record = part.record
	}
	keys, err := split(parts, key)
	if err != nil {
		return err
	}
	for i, part := range x.parts {
		if err := part.vol.Resume(keys[i]); err != nil {
			wipe(keys[i:])
			err = fmt.Errorf("device %s: %w", part.record.Device, err)
			for _, resumed := range x.parts[:i] {
				err = errors.Join(err, resumed.vol.Suspend())
			}
			return err
		}
	}
	key.Wipe()
	return nil
}

// resume goes on with a suspended export by a new grant. It consumes the grant's key on success.
func (x *export) resume(g *volume.Grant) error {
	if err := belongs(g.Volume, x.o.AccountID); err != nil {
		return err
	}
	stale := g.Volume.UUID != x.record.UUID || g.Volume.Epoch != x.record.Epoch || (g.Device.Set == nil) != (x.device.Set == nil)
	if set := g.Device.Set; set != nil && !stale {
		stale = len(set.Members) != len(x.parts)
		for i := 0; !stale && i < len(x.parts); i++ {
			v := set.Members[i].Volume
			stale = v == nil || v.UUID != x.parts[i].record.UUID || v.Epoch != x.parts[i].record.Epoch
		}
	}
	if stale {
		return errors.New("the delivered volume record is not the one that this volume was opened by; unmount it, then request it again")
	}
	if g.Device.Writers != x.device.Writers {
		return fmt.Errorf("volume %s was given to another machine that may have written to it since it was suspended here, so what is mounted is out of date; "+
			"unmount it (keyward-agent lock %s), then request it again", x.name(), x.device.ID)
	}
	spare, err := g.Key.Clone()
	if err == nil {
		err = x.unsuspend(g.Key)
	}
	if err != nil {
		spare.Wipe()
		return fmt.Errorf("resume the volume: %w", err)
	}
	x.spare = spare
	return nil
}

// name is what people call it.
func (x *export) name() string {
	if x.device.Set != nil {
		return x.device.Set.Name
	}
	return x.device.Name
}

// id is the UUID by which the kernel's device is known: the volume's, or the RAID set's.
func (x *export) id() string {
	if x.device.Set != nil {
		return x.device.Set.ID
	}
	return x.record.UUID
}

// sectorSize is the largest of the parts'.
func (x *export) sectorSize() int {
	size := 0
	for _, part := range x.parts {
		size = max(size, part.record.SectorSize)
	}
	return cmp.Or(size, x.record.SectorSize)
}

// belongs checks what the broker sent against itself and the machine, before the disk is touched. The record's device may
// be another one: a clone keeps the header of its source, and the broker says so.
func belongs(v api.VolumeRecord, account string) error {
	if v.Account != account {
		return fmt.Errorf("the delivered volume record is of account %q, this machine of account %q: refused", v.Account, account)
	}
	return nil
}

// repair writes a damaged header copy again from the good one, once record and key have vouched for that.
func repair(dev *blockdev.File, v api.VolumeRecord, key *keymem.Key, readOnly bool, logger *slog.Logger) error {
	header, err := luks2.Read(dev)
	if err != nil {
		return fmt.Errorf("read the header of %s: %w", dev.Path(), err)
	}
	if !header.Recovered || readOnly {
		return nil
	}
	want := record.OnDisk(v)
	if err := errors.Join(header.Verify(want), header.VerifyKey(want, key)); err != nil {
		return fmt.Errorf("verify the header of %s: %w", dev.Path(), err)
	}
	damaged := header.Damaged
	if err := luks2.Repair(dev, header); err != nil {
		return fmt.Errorf("repair the damaged header copy on %s: %w", dev.Path(), err)
	}
	logger.Warn("a damaged header copy was written again from the good one; check the disk", "disk", dev.Path(), "copy", damaged)
	return nil
}
