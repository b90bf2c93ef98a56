package unlock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"keyward/broker/api"
	"keyward/e2e/lab"
)

const (
	patience = 60 * time.Second
	mib      = 1 << 20
	diskSize = 64 * mib
)

// machine is a real agent with raw disks, in folders of its own.
type machine struct {
	*account
	*lab.Agent
	dir   string
	disks []string
}

// machine enrols and starts an agent with n empty disks; extra is further configuration.
func (a *account) machine(n int, extra string) *machine {
	a.t.Helper()
	dir := tempDir(a.t)
	var disks []string
	for i := range n {
		disks = append(disks, filepath.Join(dir, fmt.Sprintf("disk%d.img", i)))
		if err := lab.MakeDisk(disks[i], diskSize); err != nil {
			a.t.Fatal(err)
		}
	}
	return a.machineWith(dir, disks, extra)
}

func (a *account) machineWith(dir string, disks []string, extra string) *machine {
	a.t.Helper()
	agent, err := a.site.broker.Enrol(a.t.Context(), lab.AgentOptions{Bin: program("keyward-agent"), Dir: filepath.Join(dir, "a"),
		Images: disks, Extra: "unmount_grace_seconds: 2\n" + extra, Token: a.token(), AccountID: a.setup.AccountID})
	if err != nil {
		a.t.Fatal(err)
	}
	m := &machine{account: a, Agent: agent, dir: dir, disks: disks}
	if err := agent.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(m.clean)
	return m
}

// machineOn is machine at the far end of a cable: it enrols from here, and lives there.
func (a *account) machineOn(wire *lab.Wire, n int) *machine {
	a.t.Helper()
	m := a.machine(n, "")
	if err := m.Stop(40 * time.Second); err != nil {
		a.t.Fatal(err)
	}
	wire.Inside(&m.Process)
	if err := m.Start(); err != nil {
		a.t.Fatal(err)
	}
	return m
}

// clean stops the agent and insists that it took everything apart by itself.
func (m *machine) clean() {
	if err := m.Stop(40 * time.Second); err != nil {
		m.t.Error(err)
	}
	left := lab.Traces(m.dir)
	if len(left) > 0 {
		m.t.Errorf("the stopped agent left behind: %v", left)
		if err := lab.TearDown(m.dir); err != nil {
			m.t.Error(err)
		}
	}
	if m.t.Failed() {
		m.t.Logf("the agent's log ends:\n%s", m.LogTail(40))
	}
}

// device waits until the broker lists disk i.
func (m *machine) device(i int) (found api.Device) {
	m.t.Helper()
	within(m.t, patience, func() error {
		list, err := m.Devices(m.t.Context(), nil)
		for _, d := range list.Devices {
			if d.Name == filepath.Base(m.disks[i]) {
				found = d
				return nil
			}
		}
		return errors.Join(err, fmt.Errorf("%s is not in the inventory", m.disks[i]))
	})
	return found
}

func (m *machine) mountPoint(i int) string { return filepath.Join(m.dir, fmt.Sprintf("v%d", i)) }

// configure saves what encryption needs to know; the device keeps its name.
func (m *machine) configure(i int, in api.DeviceWrite) api.Device {
	m.t.Helper()
	d := m.device(i)
	in.Name, in.Platform, in.MountPoint, in.ImageID, in.Version = d.Name, "linux", m.mountPoint(i), d.ImageID, d.Version
	if in.FileSystem == "" {
		in.FileSystem = "ext4"
	}
	d, err := m.ConfigureDevice(m.t.Context(), d.ID, in)
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

// encrypt configures disk i and has the agent encrypt it. A key request follows by itself.
func (m *machine) encrypt(i int, in api.DeviceWrite) api.Device {
	m.t.Helper()
	d := m.configure(i, in)
	if _, err := m.EncryptDevice(m.t.Context(), d.ID, api.EncryptWrite{Confirm: d.Name}); err != nil {
		m.t.Fatal(err)
	}
	return m.becomes(d.ID, api.DeviceEncrypted, api.DeviceInUse)
}

// becomes waits until the device has one of the statuses.
func (a *account) becomes(id string, want ...api.DeviceStatus) (d api.Device) {
	a.t.Helper()
	within(a.t, patience, func() (err error) {
		if d, err = a.Device(a.t.Context(), id); err != nil {
			return err
		}
		for _, status := range want {
			if d.Status == status {
				return nil
			}
		}
		return fmt.Errorf("device %q is %s (%s), want %v", d.Name, d.Status, d.StatusDetail, want)
	})
	return d
}

// newest is the device's key request with the highest number.
func (a *account) newest(ctx context.Context, device string) (newest api.RunningInstance, err error) {
	list, err := a.RunningInstances(ctx, nil)
	for _, row := range list.Rows {
		if row.DeviceID == device && row.Number > newest.Number {
			newest = row
		}
	}
	if err == nil && newest.RequestID == "" {
		err = errors.New("there is no key request for the device")
	}
	return newest, err
}

// request waits until the device's newest request has the status.
func (a *account) request(device string, want api.KeyStatus) (detail api.KeyRequestDetail) {
	a.t.Helper()
	within(a.t, patience, func() error {
		row, err := a.newest(a.t.Context(), device)
		if err != nil {
			return err
		}
		if row.Status != want {
			return fmt.Errorf("request %d is %s, want %s", row.Number, row.Status, want)
		}
		detail, err = a.KeyRequest(a.t.Context(), row.RequestID)
		return err
	})
	return detail
}

// requestBecomes waits until one request has the status; those of machines that are gone are in no list.
func (a *account) requestBecomes(id string, want api.KeyStatus) (detail api.KeyRequestDetail) {
	a.t.Helper()
	within(a.t, 2*patience, func() (err error) {
		if detail, err = a.KeyRequest(a.t.Context(), id); err == nil && detail.Status != want {
			err = fmt.Errorf("request %d is %s, want %s", detail.Number, detail.Status, want)
		}
		return err
	})
	return detail
}

// rated waits until the device's newest request has the rating.
func (a *account) rated(device string, want api.Integrity) {
	a.t.Helper()
	within(a.t, patience, func() error {
		r, err := a.newest(a.t.Context(), device)
		if err == nil && r.Integrity != want {
			err = fmt.Errorf("request %d is rated %s, want %s", r.Number, r.Integrity, want)
		}
		return err
	})
}

// went says whether a request came to a status by an event.
func went(r api.KeyRequestDetail, event string, to api.KeyStatus) bool {
	return slices.ContainsFunc(r.History, func(h api.KeyRequestEvent) bool { return h.Event == event && h.To == to })
}

// approve approves the device's pending request and waits for the mount.
func (m *machine) approve(i int, device string) api.KeyRequestDetail {
	m.t.Helper()
	r := m.request(device, api.KeyPending)
	if _, err := m.Approve(m.t.Context(), r.RequestID, api.Decision{Reason: "known machine"}); err != nil {
		m.t.Fatal(err)
	}
	m.mounted(i)
	return m.request(device, api.KeyDelivered)
}

func (m *machine) mounted(i int) {
	m.t.Helper()
	within(m.t, patience, func() error {
		if !lab.Mounted(m.mountPoint(i)) {
			return fmt.Errorf("%s is not mounted", m.mountPoint(i))
		}
		return nil
	})
}

func (m *machine) unmounted(i int) {
	m.t.Helper()
	within(m.t, patience, func() error {
		if lab.Mounted(m.mountPoint(i)) {
			return fmt.Errorf("%s is still mounted", m.mountPoint(i))
		}
		return nil
	})
}

// policy makes a policy for device with short times. The machine's image is in it.
func (a *account) policy(d api.Device, p api.Policy) api.Policy {
	a.t.Helper()
	p.ImageIDs, p.DeviceIDs = []string{d.ImageID}, []string{d.ID}
	if p.LeaseSeconds == 0 {
		p.LeaseSeconds, p.HeartbeatSeconds = 120, 2
	}
	if p.MissingAfterSeconds == 0 {
		p.MissingAfterSeconds = 600 // a machine under load is not gone
	}
	p.RevokeMode = api.RevokeUnmount
	p, err := a.CreatePolicy(a.t.Context(), p)
	if err != nil {
		a.t.Fatal(err)
	}
	return p
}

// onLinux holds on every machine that runs this suite, onWindows on none.
var (
	onLinux   = api.Rule{Fact: api.FactGuestOS, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "linux"}}}
	onWindows = api.Rule{Fact: api.FactGuestOS, Match: api.MatchAll, Conditions: []api.Condition{{Operator: api.OpEqual, Value: "windows"}}}
)

// auto approves by itself what runs on Linux.
func auto() api.Policy {
	return api.Policy{Name: "auto", Rules: []api.Rule{onLinux}, OnMatch: api.ActionApprove, OnFailure: api.ActionDeny}
}

// keep writes a file and puts it on the disk; kept says whether it is there, whole.
func keep(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.WriteString(path); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func kept(t *testing.T, path string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != path {
		t.Errorf("%s holds %q, %v", path, got, err)
	}
}
