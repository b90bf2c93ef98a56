package daemon

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/brokertest"
	"keyward/agent/internal/config"
	"keyward/agent/internal/control"
	"keyward/agent/internal/mount"
	"keyward/agent/volume"
	"keyward/broker/api"
)

// rig is one machine with its broker, in a folder of its own.
type rig struct {
	t      *testing.T
	broker *brokertest.Broker
	dir    string
	o      Options
	stop   func() // ends the running agent gracefully and waits
}

func newRig(t *testing.T) *rig {
	t.Helper()
	needs(t)
	dir, err := os.MkdirTemp("", "kwa") // short: the control socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, broker: brokertest.New(t), dir: dir, stop: func() {}}
	cfg := config.Default()
	cfg.StateDir, cfg.RuntimeDir = filepath.Join(dir, "state"), filepath.Join(dir, "run")
	cfg.UnmountGraceSeconds = 1
	cfg.Location = "rack 7"
	level := slog.LevelInfo
	out := io.Writer(testLog{t})
	r.o = Options{Config: cfg, Version: "1.2.3", Logger: slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})),
		Backoff: func(int) time.Duration { return 20 * time.Millisecond }, LeaseCheck: 20 * time.Millisecond}
	t.Cleanup(r.clean)
	return r
}

// testLog writes the agent's log into the test's, as long as the test runs.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	if l.t.Context().Err() == nil {
		l.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// needs skips where real volumes cannot be made.
func needs(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	for _, path := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("needs %s", path)
		}
	}
	for _, tool := range []string{"mkfs.ext4", "e2fsck"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s; install e2fsprogs", tool)
		}
	}
}

// clean ends what a failed test left running and fails on leftovers.
func (r *rig) clean() {
	r.stop()
	mounts, err := mount.Mounts()
	if err != nil {
		r.t.Error(err)
	}
	left := false
	for _, m := range mounts {
		if strings.HasPrefix(m.Mountpoint, r.dir+"/") {
			r.t.Errorf("left mounted: %s", m.Mountpoint)
			left = true
			_ = unix.Unmount(m.Mountpoint, unix.MNT_FORCE)
			_ = unix.Unmount(m.Mountpoint, unix.MNT_DETACH)
		}
	}
	if found, _ := attach.Stale(context.Background(), filepath.Join(r.o.Config.RuntimeDir, "volumes"), r.o.Logger); len(found) > 0 && !left {
		r.t.Errorf("left attached: %+v", found)
	}
	os.RemoveAll(r.dir)
}

// image makes a raw disk and offers it to the agent.
func (r *rig) image(name string, size int64) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	f, err := os.Create(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		r.t.Fatal(err)
	}
	f.Close()
	r.o.Config.Native.Images = append(r.o.Config.Native.Images, config.Image{Path: path})
	return path
}

func (r *rig) enrol() {
	r.t.Helper()
	_, err := Enrol(r.t.Context(), r.o.Config, Enrolment{AccountID: r.broker.AccountID, Token: r.broker.Token(), URL: r.broker.URL(), Version: "1.2.3"})
	if err != nil {
		r.t.Fatal(err)
	}
}

// start runs the agent in this process until stop.
func (r *rig) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	o := r.o
	o.Ready = func() { close(ready) }
	go func() { done <- Run(ctx, o) }()
	r.stop = func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the agent ended with: %v", err)
		}
		r.stop = func() {}
	}
	select {
	case <-ready:
	case err := <-done:
		r.stop = func() {}
		r.t.Fatalf("the agent did not start: %v", err)
	}
}

// encrypted brings an image to an encrypted ext4 volume and returns its device ID and mount point.
func (r *rig) encrypted(name string) (id, target string) {
	r.t.Helper()
	d := r.broker.Published(name)
	target = filepath.Join(r.dir, "mnt-"+name)
	r.broker.Configure(d.ID, "ext4", target, api.AccessReadWrite, 256)
	progress := r.broker.JobEnd(r.broker.Encrypt(d.ID, false))
	if last := progress[len(progress)-1]; !last.Done {
		r.t.Fatalf("encrypt job: %+v", last)
	}
	return d.ID, target
}

// mounted approves the open request of a device and waits for the mount.
func (r *rig) mounted(id string) brokertest.Request {
	r.t.Helper()
	q := r.broker.Asked(id, api.KeyPending)
	r.broker.Decide(q.ID, api.KeyApproved, "a person approved")
	r.broker.Reported(q.ID, api.EventMounted)
	return q
}

// status asks the running agent over its socket.
func (r *rig) status() *control.Status {
	r.t.Helper()
	a, err := control.Call(r.t.Context(), r.o.Config.ControlSocket(), control.Request{Op: control.OpStatus})
	if err != nil {
		r.t.Fatal(err)
	}
	return a.Status
}

func (r *rig) write(path, content string) {
	r.t.Helper()
	f, err := os.Create(path)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := f.WriteString(content); err != nil {
		r.t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		r.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) wantFile(path, content string) {
	r.t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != content {
		r.t.Errorf("%s holds %q (%v), want %q", path, got, err, content)
	}
}

func (r *rig) wantMounted(target string, want bool) {
	r.t.Helper()
	if got, err := mount.IsMounted(target); err != nil || got != want {
		r.t.Fatalf("%s mounted = %v (%v), want %v", target, got, err, want)
	}
}

// eventually waits for something that the agent does by itself.
func (r *rig) eventually(what string, check func() bool) {
	r.t.Helper()
	for end := time.Now().Add(time.Minute); !check(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("waited a minute for: %s", what)
		}
	}
}

// until waits for the agent's first volume to reach a state and returns how it looks then.
func (r *rig) until(want volume.State) volume.Snapshot {
	r.t.Helper()
	var last volume.Snapshot
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if s := r.status(); len(s.Volumes) > 0 {
			if last = s.Volumes[0]; last.State == want {
				return last
			}
		}
	}
	r.t.Fatalf("the volume did not become %s: %+v", want, last)
	return last
}

// script makes an executable file of the user's.
func (r *rig) script(name, body string) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// clock is a boot-time clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Duration
}

func (c *clock) read() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now += d
}

// ask sends an operation to the agent.
func (r *rig) ask(op control.Op, device string) control.Answer {
	r.t.Helper()
	a, err := control.Call(r.t.Context(), r.o.Config.ControlSocket(), control.Request{Op: op, Device: device})
	if err != nil {
		r.t.Fatalf("%s %s: %v", op, device, err)
	}
	return a
}
