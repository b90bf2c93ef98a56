// Package unlock opens encrypted volumes on Linux: header verified, attached as a block device, checked, mounted; and the
// way back, which always ends without the key.
package unlock

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/script"
	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/nbdcrypt/keymem"
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
	// Disk is where a device of this machine is now, by its identity; needed for RAID sets only.
	Disk   func(identity string) (path string, here bool)
	Logger *slog.Logger
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
		return nil, errors.Join(err, x.dev.Close(), closeDisks(x.parts))
	}
	return x, nil
}

// unseal verifies and opens the volume on disk, or all members of a RAID set. It consumes key on success.
func (p *Platform) unseal(disk string, v Passed, key *keymem.Key) (*export, error) {
	all, err := p.members(disk, v)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if err := belongs(m.record, p.o.AccountID); err != nil {
			return nil, err
		}
	}
	keys, err := split(all, key)
	if err != nil {
		return nil, err
	}
	var parts []part
	fail := func(err error) (*export, error) {
		wipe(keys)
		return nil, errors.Join(err, closeParts(parts))
	}
	for i, m := range all {
		opened, err := p.openPart(m, keys[i], v.ReadOnly)
		if err != nil {
			return fail(err)
		}
		parts = append(parts, opened)
	}
	dev, err := assemble(parts, v.Device.Set)
	if err != nil {
		return fail(err)
	}
	return &export{o: p.o, device: v.Device, record: v.Volume, parts: parts, dev: dev, spare: key, readOnly: v.ReadOnly, target: v.Target}, nil
}

// attach makes x.dev a block device, by taking over the one that a killed agent left if there is one.
func (p *Platform) attach(ctx context.Context, x *export) (attach.Attachment, error) {
	o := x.options()
	p.mu.Lock()
	_, left := p.leftovers[x.id()]
	delete(p.leftovers, x.id())
	p.mu.Unlock()
	if left {
		att, err := attach.Reattach(ctx, x.dev, o)
		if !errors.Is(err, attach.ErrNotAttached) {
			return att, err
		}
	}
	return attach.Attach(ctx, x.dev, o)
}

// options are how x is attached.
func (x *export) options() attach.Options {
	return attach.Options{Name: x.name(), VolumeUUID: x.id(), ReadOnly: x.readOnly, SectorSize: x.sectorSize(),
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
