package unlock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"keyward/agent/internal/attach"
	"keyward/agent/volume"
	"keyward/broker/api"
	"keyward/nbdcrypt/keymem"
)

// Passed is an open volume as one life of the agent leaves it to the next, without its secret and its connections.
type Passed struct {
	Device   api.AssignedDevice `json:"device"`
	Volume   api.VolumeRecord   `json:"volume"`
	ReadOnly bool               `json:"read_only"`
	Target   string             `json:"target"`
	// Disks are where the members of a RAID set are.
	Disks []string `json:"disks,omitempty"`
}

// ErrFixed is returned for a volume that only its own process can serve: one that is attached by FUSE and loop.
var ErrFixed = errors.New("attached by FUSE and loop, which the kernel binds to this process")

// Passable returns nil if Pass can take an export, and else an error that wraps ErrFixed. It changes nothing.
func Passable(e volume.Export) error {
	x, ok := e.(*export)
	if !ok {
		return fmt.Errorf("%T: %w", e, ErrFixed)
	}
	if _, ok := x.att.(attach.Releaser); !ok {
		return fmt.Errorf("volume %s is %w: lock it first (keyward-agent lock %s), or stop the agent", x.device.Name, ErrFixed, x.device.ID)
	}
	return nil
}

// Pass stops serving a mounted volume: the kernel's requests wait, the key schedules are wiped. The key stays the
// export's, the files stay open, and Retake undoes it.
func Pass(ctx context.Context, e volume.Export) (Passed, *keymem.Key, []*os.File, error) {
	if err := Passable(e); err != nil {
		return Passed{}, nil, nil, err
	}
	x := e.(*export)
	conns, err := x.att.(attach.Releaser).Release(ctx)
	if err != nil {
		return Passed{}, nil, nil, err
	}
	if err := x.suspend(); err != nil {
		err = fmt.Errorf("flush volume %s: %w", x.device.Name, err)
		return Passed{}, nil, nil, errors.Join(err, Retake(e))
	}
	out := Passed{Device: x.device, Volume: x.record, ReadOnly: x.readOnly, Target: x.target}
	if x.device.Set != nil {
		for _, part := range x.parts {
			out.Disks = append(out.Disks, part.disk.Path())
		}
	}
	return out, x.spare, conns, nil
}

// Retake goes on serving a volume after a Pass that nobody has taken.
func Retake(e volume.Export) error {
	x, ok := e.(*export)
	if !ok {
		return nil
	}
	key, err := x.spare.Clone()
	if err == nil {
		if err = x.unsuspend(key); err != nil {
			key.Wipe()
		}
	}
	// Requests wait for the key, if it is missing, rather than fail.
	if err = errors.Join(err, x.att.(attach.Releaser).Resume()); err != nil {
		return fmt.Errorf("serve volume %s again: %w", x.device.Name, err)
	}
	return nil
}

// Adopt goes on with a volume that a former life of this process has passed on, found at disk. It takes key and conns
// over. After an error the block device waits like that of a killed agent, for Open or Drop.
func (p *Platform) Adopt(ctx context.Context, disk string, was Passed, key *keymem.Key, conns []*os.File) (volume.Export, error) {
	x, err := p.unseal(disk, was, key)
	if err != nil {
		key.Wipe()
		for _, c := range conns {
			c.Close()
		}
		return nil, fmt.Errorf("go on with volume %s: %w", was.Device.Name, err)
	}
	if x.att, err = attach.Adopt(ctx, x.dev, x.options(), conns); err != nil {
		x.spare.Wipe()
		return nil, fmt.Errorf("go on with volume %s: %w", was.Device.Name, errors.Join(err, x.dev.Close(), closeDisks(x.parts)))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.leftovers, x.id())
	return x, nil
}
