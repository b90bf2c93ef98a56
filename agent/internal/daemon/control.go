package daemon

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"

	"keyward/agent/internal/control"
	"keyward/agent/volume"
)

// Control implements control.Handler.
func (d *Daemon) Control(ctx context.Context, r control.Request) control.Answer {
	text, err := "", error(nil)
	switch r.Op {
	case control.OpStatus:
		s := d.Status()
		return control.Answer{Status: &s}
	case control.OpPublish:
		text, err = d.publishNow(ctx)
	case control.OpRequest:
		text, err = d.withVolume(ctx, r.Device, func(v *volume.Volume) (string, error) {
			v.AskAnew("asked for on this machine")
			return "asked for " + v.Snapshot().Name + "; see: keyward-agent status", nil
		})
	case control.OpLock:
		text, err = d.withVolume(ctx, r.Device, func(v *volume.Volume) (string, error) {
			if err := v.Stop(ctx, "locked on this machine"); err != nil {
				return "", fmt.Errorf("lock %s: %w", v.Snapshot().Name, err)
			}
			s := v.Snapshot()
			if s.State == volume.Suspended {
				return "", fmt.Errorf("%s is in use and was suspended instead (its key is gone): %s", s.Name, s.Why)
			}
			return s.Name + " is locked; its key is gone from this machine", nil
		})
	case control.OpCheck:
		text, err = d.checkNow(ctx)
	case control.OpStop:
		d.stop()
		text = "stopping"
	case control.OpUpgrade:
		err = d.upgrade(ctx, r.Program)
	default:
		err = fmt.Errorf("operation %q is not known", r.Op)
	}
	if err != nil {
		return control.Answer{Error: err.Error()}
	}
	return control.Answer{Text: text}
}

func (d *Daemon) publishNow(ctx context.Context) (string, error) {
	if _, err := d.scan(ctx); err != nil {
		return "", err
	}
	if err := d.publish(ctx); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("published %d devices", len(d.found)), nil
}

// withVolume finds a volume by ID, name or disk. A device that the broker has assigned since is looked up first.
func (d *Daemon) withVolume(ctx context.Context, name string, act func(*volume.Volume) (string, error)) (string, error) {
	v, err := d.find(name)
	if err != nil {
		if rerr := d.refresh(ctx); rerr != nil {
			return "", fmt.Errorf("%w (and the broker could not be asked: %w)", err, rerr)
		}
		if v, err = d.find(name); err != nil {
			return "", err
		}
	}
	return act(v)
}

func (d *Daemon) find(name string) (*volume.Volume, error) {
	var match *volume.Volume
	for _, v := range d.all() {
		s := v.Snapshot()
		if s.DeviceID == name {
			return v, nil
		}
		if s.Name == name || s.Disk == name || (s.MountPoint != "" && s.MountPoint == name) {
			if match != nil {
				return nil, fmt.Errorf("several volumes are called %q; use the device ID", name)
			}
			match = v
		}
	}
	if match == nil {
		return nil, fmt.Errorf("no encrypted volume %q is assigned to this machine; see: keyward-agent status", name)
	}
	return match, nil
}

// Status is what the agent says of itself.
func (d *Daemon) Status() control.Status {
	s := control.Status{Version: d.o.Version, PID: os.Getpid(), Started: d.started.UTC(), Provider: d.provider.Name(), KeyGrade: d.id.Grade,
		InstanceID: d.id.InstanceID, AccountID: d.id.AccountID, AccountName: d.id.AccountName, CertificateUntil: d.current.Load().NotAfter().UTC(),
		Broker: d.link.status(), Hardening: d.hardening, Volumes: []volume.Snapshot{}, Jobs: []control.Job{}, Devices: []control.Device{}}
	for _, v := range d.all() {
		s.Volumes = append(s.Volumes, v.Snapshot())
	}
	slices.SortFunc(s.Volumes, func(a, b volume.Snapshot) int { return cmp.Compare(a.Name, b.Name) })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range d.jobs {
		s.Jobs = append(s.Jobs, j.status())
	}
	for _, f := range d.found {
		s.Devices = append(s.Devices, d.describe(f))
	}
	slices.SortFunc(s.Devices, func(a, b control.Device) int { return cmp.Compare(a.Path, b.Path) })
	return s
}

// describe joins what was found with what the broker says of it. The caller holds d.mu.
func (d *Daemon) describe(f found) control.Device {
	out := control.Device{Identity: f.identity, Name: f.name, Path: f.path, Size: f.size, Contents: f.contents}
	for _, a := range d.assigned {
		if a.Identity == f.identity {
			out.ID, out.Name, out.Status = a.ID, a.Name, string(a.Status)
			out.FileSystem, out.MountPoint, out.Access, out.KeyBits = a.FileSystem, a.MountPoint, string(a.Access), a.KeyBits
		}
	}
	return out
}
