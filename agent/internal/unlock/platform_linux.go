// Package unlock opens encrypted volumes on Linux: header verified, attached as a block device, checked, mounted; and the
// way back, which always ends without the key.
package unlock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/record"
	"keyward/agent/internal/script"
	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// Options of a Platform.
type Options struct {
	// AccountID is the machine's own account: a volume of another one is refused before its header is read.
	AccountID string
	// RuntimeDir holds what attachments leave for the next start.
	RuntimeDir  string
	Connections int
	// Grace is how long programs may keep a volume busy before it is suspended instead of unmounted.
	Grace time.Duration
	// Teardown runs before a volume is unmounted.
	Teardown script.Script
	// Leftovers of a killed agent that the kernel still holds (kernel NBD), by volume UUID.
	Leftovers []attach.Leftover
	Logger    *slog.Logger
}

// Platform implements volume.Platform.
type Platform struct {
	o Options

	mu        sync.Mutex
	leftovers map[string]attach.Leftover
}

// New makes a Platform.
func New(o Options) *Platform {
	p := &Platform{o: o, leftovers: map[string]attach.Leftover{}}
	for _, l := range o.Leftovers {
		if l.Reattachable {
			p.leftovers[l.VolumeUUID] = l
		}
	}
	return p
}

// Open implements volume.Platform.
func (p *Platform) Open(ctx context.Context, disk string, g *volume.Grant) (volume.Export, error) {
	x, err := p.open(ctx, disk, g)
	if err != nil {
		g.Key.Wipe()
		return nil, err
	}
	return x, nil
}

func (p *Platform) open(ctx context.Context, disk string, g *volume.Grant) (*export, error) {
	x, err := p.unseal(disk, Passed{Device: g.Device, Volume: g.Volume, ReadOnly: g.Device.Access == api.AccessReadOnly}, g.Key)
	if err != nil {
		return nil, err
	}
	if x.att, err = p.attach(ctx, x); err != nil {
		x.spare.Wipe()
		return nil, errors.Join(err, x.vol.Close(), x.disk.Close())
	}
	return x, nil
}

// unseal verifies and opens the volume on disk. It consumes key on success.
func (p *Platform) unseal(disk string, v Passed, key *keymem.Key) (*export, error) {
	g := &volume.Grant{Device: v.Device, Volume: v.Volume, Key: key}
	if err := belongs(g, p.o.AccountID); err != nil {
		return nil, err
	}
	dev, err := blockdev.OpenFile(disk, blockdev.FileOptions{ReadOnly: v.ReadOnly})
	if err != nil {
		return nil, err
	}
	if err := repair(dev, g, v.ReadOnly, p.o.Logger); err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	spare, err := key.Clone()
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	vol, err := nbdcrypt.Open(dev, record.OnDisk(v.Volume), key, nbdcrypt.Options{ReadOnly: v.ReadOnly})
	if err != nil {
		spare.Wipe()
		return nil, errors.Join(fmt.Errorf("open volume on %s: %w", disk, err), dev.Close())
	}
	return &export{o: p.o, device: v.Device, record: v.Volume, vol: vol, spare: spare, disk: dev, readOnly: v.ReadOnly, target: v.Target}, nil
}

// belongs checks what the broker sent against itself and the machine, before the disk is touched. The record's device may
// be another one: a clone keeps the header of its source, and the broker says so.
func belongs(g *volume.Grant, account string) error {
	switch {
	case g.Volume.Account != account:
		return fmt.Errorf("the delivered volume record is of account %q, this machine of account %q: refused", g.Volume.Account, account)
	case record.OnDisk(g.Volume).KeyLen() != g.Key.Len():
		return fmt.Errorf("the delivered key has %d bytes, the volume record says %d: refused", g.Key.Len(), record.OnDisk(g.Volume).KeyLen())
	}
	return nil
}

// repair writes a damaged header copy again from the good one, once record and key have vouched for that.
func repair(dev *blockdev.File, g *volume.Grant, readOnly bool, logger *slog.Logger) error {
	header, err := luks2.Read(dev)
	if err != nil {
		return fmt.Errorf("read the header of %s: %w", dev.Path(), err)
	}
	if !header.Recovered || readOnly {
		return nil
	}
	want := record.OnDisk(g.Volume)
	if err := errors.Join(header.Verify(want), header.VerifyKey(want, g.Key)); err != nil {
		return fmt.Errorf("verify the header of %s: %w", dev.Path(), err)
	}
	damaged := header.Damaged
	if err := luks2.Repair(dev, header); err != nil {
		return fmt.Errorf("repair the damaged header copy on %s: %w", dev.Path(), err)
	}
	logger.Warn("a damaged header copy was written again from the good one; check the disk", "disk", dev.Path(), "copy", damaged)
	return nil
}

// attach makes x.vol a block device, by taking over the one that a killed agent left if there is one.
func (p *Platform) attach(ctx context.Context, x *export) (attach.Attachment, error) {
	o := x.options()
	p.mu.Lock()
	_, left := p.leftovers[x.record.UUID]
	delete(p.leftovers, x.record.UUID)
	p.mu.Unlock()
	if left {
		att, err := attach.Reattach(ctx, x.vol, o)
		if !errors.Is(err, attach.ErrNotAttached) {
			return att, err
		}
	}
	return attach.Attach(ctx, x.vol, o)
}

// options are how x is attached.
func (x *export) options() attach.Options {
	return attach.Options{Name: x.device.Name, VolumeUUID: x.record.UUID, ReadOnly: x.readOnly, SectorSize: x.record.SectorSize,
		Connections: x.o.Connections, RuntimeDir: x.o.RuntimeDir, Logger: x.o.Logger}
}

// Drop removes block devices of a killed agent that nobody took over. It is called when the agent ends.
func (p *Platform) Drop(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, left := range p.leftovers {
		if err := attach.Drop(ctx, p.o.RuntimeDir, left); err != nil {
			p.o.Logger.Warn("a block device of an earlier agent stays", "volume", id, "error", err)
			continue
		}
		delete(p.leftovers, id)
	}
}
