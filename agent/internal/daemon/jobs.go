package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
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

// over reports that nothing of the job runs any more.
func (j *job) over() bool {
	select {
	case <-j.done:
		return true
	default:
		return false
	}
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
		info: control.Job{ID: c.JobID, DeviceID: c.Device.ID, Device: called(*c.Device), Phase: "queued"}}
	d.mu.Lock()
	for _, old := range d.jobs {
		// A job that has ended here is never run again: the command was on its way when the report was. Only a new life of
		// the agent takes an interrupted job up again.
		if old.status().ID == c.JobID {
			d.mu.Unlock()
			cancel()
			return
		}
	}
	if d.stopping || d.upgrading { // the next life takes it: the command is repeated
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

// errNotTaken is returned for a job whose key did not arrive.
var errNotTaken = errors.New("the encrypt job was not taken")

// run carries a job out and reports how it ended.
func (d *Daemon) run(ctx context.Context, j *job, c api.Command) {
	records, err := d.encryptDevice(ctx, j, c)
	if ctx.Err() != nil { // the agent stops: the job is taken again later, from the start
		j.at("interrupted", 0)
		return
	}
	if errors.Is(err, errNotTaken) { // nothing was written; the broker sends the command again while it stands
		d.log.Warn("encrypt job", "job", c.JobID, "error", err)
		d.mu.Lock()
		d.jobs = slices.DeleteFunc(d.jobs, func(o *job) bool { return o == j })
		d.mu.Unlock()
		return
	}
	out := api.JobProgress{Phase: "done", Percent: 100, Done: true}
	if err == nil && c.Device.Set == nil {
		out.Volume = &records[0]
	} else if err == nil {
		out.Members = records
	} else {
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
			} else if err := forget(d.cfg.StateDir, *c.Device); err != nil {
				d.log.Warn("a job's marker stays", "job", c.JobID, "error", err)
			}
			break
		}
		pause(ctx, d.o.Backoff(n))
	}
	d.refreshSoon()
}

// cannotRotate is this agent's answer to a rotation of a volume's key.
const cannotRotate = "This agent cannot give a volume's data another key yet; a newer one may. The volume goes on with the key that it has."

// postpone tells the broker that a rotation has to wait. The command is repeated until it has the answer.
func (d *Daemon) postpone(c api.Command) {
	d.mu.Lock()
	busy := d.answering[c.JobID] || c.JobID == ""
	d.answering[c.JobID] = true
	d.mu.Unlock()
	if busy {
		return
	}
	go func() {
		defer func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			delete(d.answering, c.JobID)
		}()
		ctx, cancel := context.WithTimeout(context.Background(), confirmWait)
		defer cancel()
		if err := d.link.saw(d.broker.JobProgress(ctx, c.JobID, api.JobProgress{Phase: "waiting", Waiting: cannotRotate})); err != nil {
			d.log.Warn("telling the broker that a rotation has to wait; it asks again", "job", c.JobID, "error", err)
		}
	}()
}

func (d *Daemon) encryptDevice(ctx context.Context, j *job, c api.Command) ([]api.VolumeRecord, error) {
	if _, err := d.scan(ctx); err != nil { // what was published may be minutes old
		return nil, fmt.Errorf("%w: %w", errNotTaken, err)
	}
	disks, err := d.disksOf(*c.Device)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotTaken, err)
	}
	nonce, err := d.broker.Nonce(ctx)
	if d.link.saw(err) != nil {
		return nil, fmt.Errorf("%w: ask for a challenge: %w", errNotTaken, err)
	}
	private, err := client.NewDeliveryKey()
	if err != nil {
		return nil, fmt.Errorf("make the key that the delivery is sealed to: %w", err)
	}
	delivery, err := d.broker.JobKey(ctx, c.JobID, api.JobKeyRequest{PublicKey: private.PublicKey(), Nonce: nonce.Nonce})
	if d.link.saw(err) != nil {
		return nil, fmt.Errorf("%w: %w", errNotTaken, err)
	}
	if !sameMembers(delivery.Device.Set, c.Device.Set) {
		return nil, errors.New("the keys were delivered for other members than the job names: refused")
	}
	key, err := openDelivery(private, delivery, api.DeliveryBinding{Purpose: "encrypt-job", AccountID: d.id.AccountID, RequestID: c.JobID,
		DeviceID: c.Device.ID, InstanceID: d.id.InstanceID, Nonce: nonce.Nonce, LeaseSeconds: delivery.LeaseSeconds})
	if err != nil {
		return nil, err
	}
	told := newTeller(ctx, d, j)
	defer told.end()
	return encrypt.Job{ID: c.JobID, Device: *c.Device, Disks: disks, Destroy: c.Destroy, Account: d.id.AccountID, Broker: d.id.Broker, StateDir: d.cfg.StateDir,
		RuntimeDir: filepath.Join(d.cfg.RuntimeDir, "volumes"), Connections: d.cfg.Connections, Progress: told.tell, Logger: d.log}.Run(ctx, key)
}

// sameMembers says whether two descriptions are of one RAID set with its members in the same places, or of none.
func sameMembers(a, b *api.AssignedSet) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ID == b.ID && a.Chunk == b.Chunk && slices.EqualFunc(a.Members, b.Members, func(x, y api.AssignedMember) bool { return x.ID == y.ID && x.Identity == y.Identity })
}

// disksOf are where a device, or the members of a RAID set in their order, are on this machine.
func (d *Daemon) disksOf(a api.AssignedDevice) ([]encrypt.Disk, error) {
	all := []api.AssignedMember{{ID: a.ID, Identity: a.Identity, Name: a.Name}}
	if a.Set != nil {
		all = a.Set.Members
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []encrypt.Disk
	for _, m := range all {
		f, here := d.found[m.Identity]
		if !here {
			return nil, fmt.Errorf("device %s (%s) is not on this machine; publish the inventory again", m.Name, m.Identity)
		}
		out = append(out, encrypt.Disk{DeviceID: m.ID, Name: m.Name, Path: f.path, Identity: f.identity, InUse: f.inUse, ReadOnly: f.readOnly})
	}
	return out, nil
}

// forget ends that an interrupted job may start again over its own headers.
func forget(stateDir string, a api.AssignedDevice) error {
	err := encrypt.Forget(stateDir, a.ID)
	if a.Set != nil {
		for _, m := range a.Set.Members {
			err = errors.Join(err, encrypt.Forget(stateDir, m.ID))
		}
	}
	return err
}

// teller sends progress to the broker in the background: each phase at least once, and within a phase the newest only, so
// that a slow broker does not slow mkfs.
type teller struct {
	d    *Daemon
	job  *job
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	unsent []api.JobProgress
}

func newTeller(ctx context.Context, d *Daemon, j *job) *teller {
	t := &teller{d: d, job: j, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go t.run(ctx)
	return t
}

func (t *teller) run(ctx context.Context) {
	defer close(t.done)
	for alive := true; alive; {
		select {
		case <-ctx.Done():
			return
		case <-t.stop:
			alive = false // what is unsent goes out first
		case <-t.wake:
		case <-time.After(keepAlive):
		}
		t.send(ctx, alive)
		if alive {
			select {
			case <-t.stop:
				alive = false
				t.send(ctx, alive)
			case <-time.After(progressPace):
			}
		}
	}
}

func (t *teller) send(ctx context.Context, keepAlive bool) {
	for _, p := range t.take(keepAlive) {
		_ = t.d.link.saw(t.d.broker.JobProgress(ctx, t.job.status().ID, p))
	}
}

// take returns what is unsent, or the newest again to keep the job alive.
func (t *teller) take(keepAlive bool) []api.JobProgress {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := t.unsent
	t.unsent = nil
	if s := t.job.status(); keepAlive && len(out) == 0 && s.Phase != "queued" {
		out = []api.JobProgress{{Phase: s.Phase, Percent: s.Percent}}
	}
	return out
}

func (t *teller) tell(phase string, percent int) {
	t.job.at(phase, percent)
	t.mu.Lock()
	if last := len(t.unsent) - 1; last >= 0 && t.unsent[last].Phase == phase {
		t.unsent[last].Percent = percent
	} else {
		t.unsent = append(t.unsent, api.JobProgress{Phase: phase, Percent: percent})
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// end returns when nothing of it can arrive after the final report.
func (t *teller) end() {
	close(t.stop)
	<-t.done
}
