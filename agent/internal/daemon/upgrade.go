package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"keyward/agent/internal/attach/handover"
	"keyward/agent/internal/unlock"
	"keyward/agent/volume"
	"keyward/broker/api"
)

const (
	// trialWait is how long a new program may take to say its version.
	trialWait = 10 * time.Second
	// passWait bounds the wait for volumes that are busy and for storage that does not answer.
	passWait = 30 * time.Second
)

// note is what a life of the agent tells the next. Keys and connections travel beside it, in the order of Volumes.
type note struct {
	Volumes []notedVolume `json:"volumes"`
	Reports []notedReport `json:"reports"`
}

type notedVolume struct {
	Passed      unlock.Passed   `json:"passed"`
	Snapshot    volume.Snapshot `json:"snapshot"`
	RequestID   string          `json:"request_id"`
	Nonce       string          `json:"nonce"`
	LeaseEnd    time.Duration   `json:"lease_end"` // on the boot-time clock, which goes on
	Connections int             `json:"connections"`
}

type notedReport struct {
	RequestID string           `json:"request_id"`
	Event     api.RequestEvent `json:"event"`
}

// upgrade makes this process go on as program: mounted volumes stay mounted, the kernel's requests wait for a moment, and
// leases go on. It returns only if that failed; then everything is as before.
//
// Volumes that are attached by FUSE and loop cannot go along, so with one of them nothing happens. Suspended volumes have no
// key to pass: they wait for the next life as they would after a crash.
func (d *Daemon) upgrade(ctx context.Context, program string) error {
	program, err := d.trial(ctx, program)
	if err != nil {
		return err
	}
	d.mu.Lock()
	busy := d.upgrading || d.stopping
	for _, j := range d.jobs {
		if !j.over() {
			err = errors.Join(err, fmt.Errorf("an encrypt job of %s is running; upgrade when it has ended", j.status().Device))
		}
	}
	if busy {
		err = errors.New("the agent is stopping or being upgraded already")
	}
	if err == nil {
		d.upgrading = true
	}
	d.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.upgrading = false
	}()
	ctx, cancel := context.WithTimeout(ctx, passWait)
	defer cancel()
	_ = d.outbox.drain(ctx) // what is not sent by then goes along

	var p passage
	if err = p.collect(ctx, d); err == nil {
		d.log.Info("going on as another program", "program", program, "volumes", len(p.taken))
		err = handover.Exec(program, os.Args, os.Environ(), p.parcel)
	}
	if undo := p.undo(); undo != nil {
		d.log.Error("after an upgrade that failed", "error", undo)
		err = errors.Join(err, undo)
	}
	return fmt.Errorf("upgrade: %w; the agent goes on as it was", err)
}

// trial finds the program and makes sure that it runs on this machine.
func (d *Daemon) trial(ctx context.Context, program string) (string, error) {
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return "", fmt.Errorf("upgrade: find the running program: %w; name one", err)
		}
	}
	if !filepath.IsAbs(program) {
		return "", fmt.Errorf("upgrade: %q is not an absolute path", program)
	}
	ctx, cancel := context.WithTimeout(ctx, trialWait)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("upgrade: %s does not run on this machine: %w: %s", program, err, bytes.TrimSpace(out[:min(len(out), 200)]))
	}
	d.log.Info("program to go on as", "program", program, "version", string(bytes.TrimSpace(out)))
	return program, nil
}

// passage is a hand-over in progress.
type passage struct {
	parcel handover.Parcel
	taken  []volume.Export
	goOn   []func()
}

// collect makes every volume stand still and takes those that are open.
func (p *passage) collect(ctx context.Context, d *Daemon) error {
	var open []volume.Passing
	for _, v := range d.all() {
		still, goOn, err := v.Pause(ctx)
		if err != nil {
			return err
		}
		p.goOn = append(p.goOn, goOn)
		switch s := still.Snapshot.State; {
		case s == volume.Mounted:
			open = append(open, still)
			if err := unlock.Passable(still.Export); err != nil {
				return err
			}
		case still.Export != nil: // suspended
			if err := unlock.Passable(still.Export); err != nil {
				return err
			}
		}
	}
	n := note{Volumes: []notedVolume{}, Reports: d.outbox.unsent()}
	for _, v := range open {
		r, ok := v.Request.(*request)
		if !ok {
			return fmt.Errorf("volume %s has no key request", v.Snapshot.Name)
		}
		passed, key, conns, err := unlock.Pass(ctx, v.Export)
		if err != nil {
			return err
		}
		p.taken = append(p.taken, v.Export)
		p.parcel.Keys = append(p.parcel.Keys, key)
		p.parcel.Files = append(p.parcel.Files, conns...)
		n.Volumes = append(n.Volumes, notedVolume{Passed: passed, Snapshot: v.Snapshot, RequestID: r.id, Nonce: r.nonce,
			LeaseEnd: v.LeaseEnd, Connections: len(conns)})
	}
	var err error
	p.parcel.Note, err = json.Marshal(n)
	return err
}

// undo gives everything back to this life.
func (p *passage) undo() error {
	var errs []error
	for _, e := range p.taken {
		errs = append(errs, unlock.Retake(e))
	}
	for _, goOn := range p.goOn {
		goOn()
	}
	return errors.Join(errs...)
}

// takeOver goes on with what a former life has handed over. A volume that cannot be taken over waits for a new key, as after
// a crash.
func (d *Daemon) takeOver(ctx context.Context, p *handover.Parcel) {
	if p == nil {
		return
	}
	var n note
	if err := json.Unmarshal(p.Note, &n); err != nil {
		d.log.Error("the former program's volumes wait for new keys", "error", err)
		return
	}
	for _, r := range n.Reports {
		d.outbox.put(r.RequestID, r.Event)
	}
	for _, v := range n.Volumes {
		if v.Connections < 0 || v.Connections > len(p.Files) || len(p.Keys) == 0 {
			d.log.Error("the former program handed over less than it says", "volume", v.Snapshot.Name)
			return
		}
		conns, key := p.Files[:v.Connections], p.Keys[0]
		p.Files, p.Keys = p.Files[v.Connections:], p.Keys[1:]
		x, err := d.platform.Adopt(ctx, v.Snapshot.Disk, v.Passed, key, conns)
		if err != nil {
			d.log.Error("a volume waits for a new key", "error", err)
			continue
		}
		r := &request{courier: d.courier, id: v.RequestID, deviceID: v.Passed.Device.ID, nonce: v.Nonce}
		d.volumes[v.Passed.Device.ID] = volume.Adopt(v.Passed.Device, volume.Passing{Snapshot: v.Snapshot, Export: x, Request: r, LeaseEnd: v.LeaseEnd},
			d.volumeOptions())
		d.log.Info("went on with a volume of the former program", "device", v.Snapshot.Name, "path", x.Info().BlockDevice)
	}
}
