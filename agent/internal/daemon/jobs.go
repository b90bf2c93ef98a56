package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"keyward/agent/internal/control"
	"keyward/agent/internal/encrypt"
	"keyward/broker/api"
	"keyward/broker/client"
)

// progressPace is how often progress within a phase is reported. The broker hands a job out again that was silent for 30
// seconds, so something is sent at least every keepAlive.
const (
	progressPace = time.Second
	keepAlive    = 10 * time.Second
)

// job is one encrypt job in progress or done.
type job struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	info control.Job
}

func (j *job) status() control.Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.info
}

func (j *job) at(phase string, percent int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.info.Phase, j.info.Percent = phase, percent
}

// end interrupts the job; the broker hands it out again.
func (j *job) end() {
	j.cancel()
	<-j.done
}

// encrypt starts a job unless it runs already or the agent is stopping.
func (d *Daemon) encrypt(c api.Command) {
	if c.Device == nil {
		d.log.Warn("an encrypt command without a device was ignored", "job", c.JobID)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	j := &job{cancel: cancel, done: make(chan struct{}),
		info: control.Job{ID: c.JobID, DeviceID: c.Device.ID, Device: c.Device.Name, Phase: "queued"}}
	d.mu.Lock()
	for i, old := range d.jobs {
		if old.status().ID != c.JobID {
			continue
		}
		select {
		case <-old.done: // it ended without the broker taking note: again
			d.jobs = append(d.jobs[:i:i], d.jobs[i+1:]...)
		default:
			d.mu.Unlock()
			cancel()
			return
		}
		break
	}
	if d.stopping {
		d.mu.Unlock()
		cancel()
		return
	}
	d.jobs = append(d.jobs, j)
	d.mu.Unlock()
	go func() {
		defer close(j.done)
		defer cancel()
		d.run(ctx, j, c)
	}()
}

// run carries a job out and reports how it ended.
func (d *Daemon) run(ctx context.Context, j *job, c api.Command) {
	record, err := d.encryptDevice(ctx, j, c)
	if ctx.Err() != nil { // the agent stops: the job is taken again later, from the start
		j.at("interrupted", 0)
		return
	}
	out := api.JobProgress{Phase: "done", Percent: 100, Done: true, Volume: &record}
	if err != nil {
		d.log.Error("encrypt job", "job", c.JobID, "error", err)
		j.mu.Lock()
		j.info.Error = err.Error()
		j.mu.Unlock()
		out = api.JobProgress{Phase: "failed", Failed: err.Error()}
	}
	j.at(out.Phase, out.Percent)
	for n := 1; ctx.Err() == nil; n++ {
		sent := d.broker.JobProgress(ctx, c.JobID, out)
		if d.link.saw(sent) == nil || final(sent) {
			if sent != nil {
				d.log.Error("the broker refused how an encrypt job ended", "job", c.JobID, "error", sent)
			}
			break
		}
		pause(ctx, d.o.Backoff(n))
	}
	d.refreshSoon()
}

func (d *Daemon) encryptDevice(ctx context.Context, j *job, c api.Command) (api.VolumeRecord, error) {
	if _, err := d.scan(ctx); err != nil { // what was published may be minutes old
		return api.VolumeRecord{}, err
	}
	d.mu.Lock()
	disk, here := d.found[c.Device.Identity]
	d.mu.Unlock()
	if !here {
		return api.VolumeRecord{}, fmt.Errorf("device %s (%s) is not on this machine; publish the inventory again", c.Device.Name, c.Device.Identity)
	}
	nonce, err := d.broker.Nonce(ctx)
	if d.link.saw(err) != nil {
		return api.VolumeRecord{}, fmt.Errorf("ask for a challenge: %w", err)
	}
	private, err := client.NewDeliveryKey()
	if err != nil {
		return api.VolumeRecord{}, fmt.Errorf("make the key that the delivery is sealed to: %w", err)
	}
	delivery, err := d.broker.JobKey(ctx, c.JobID, api.JobKeyRequest{PublicKey: private.PublicKey(), Nonce: nonce.Nonce})
	if d.link.saw(err) != nil {
		return api.VolumeRecord{}, fmt.Errorf("take the encrypt job: %w", err)
	}
	key, err := openDelivery(private, delivery, api.DeliveryBinding{Purpose: "encrypt-job", AccountID: d.id.AccountID, RequestID: c.JobID,
		DeviceID: c.Device.ID, InstanceID: d.id.InstanceID, Nonce: nonce.Nonce, LeaseSeconds: delivery.LeaseSeconds})
	if err != nil {
		return api.VolumeRecord{}, err
	}
	told := newTeller(ctx, d, j)
	defer told.end()
	return encrypt.Job{ID: c.JobID, Device: *c.Device, Disk: disk.path, Identity: disk.identity, ReadOnly: disk.readOnly, InUse: disk.inUse,
		Destroy: c.Destroy, Account: d.id.AccountID, Broker: d.id.Broker, StateDir: d.cfg.StateDir,
		RuntimeDir: filepath.Join(d.cfg.RuntimeDir, "volumes"), Connections: d.cfg.Connections, Progress: told.tell, Logger: d.log}.Run(ctx, key)
}

// teller sends progress to the broker in the background, the newest only, so that a slow broker does not slow mkfs.
type teller struct {
	job  *job
	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}
}

func newTeller(ctx context.Context, d *Daemon, j *job) *teller {
	ctx, stop := context.WithCancel(ctx)
	t := &teller{job: j, wake: make(chan struct{}, 1), stop: stop, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		for {
			s := j.status()
			if s.Phase != "queued" {
				_ = d.link.saw(d.broker.JobProgress(ctx, s.ID, api.JobProgress{Phase: s.Phase, Percent: s.Percent}))
				pause(ctx, progressPace)
			}
			select {
			case <-ctx.Done():
				return
			case <-t.wake:
			case <-time.After(keepAlive):
			}
		}
	}()
	return t
}

func (t *teller) tell(phase string, percent int) {
	t.job.at(phase, percent)
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// end returns when nothing of it can arrive after the final report.
func (t *teller) end() {
	t.stop()
	<-t.done
}
