package daemon

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keyward/agent/internal/attach"
	"keyward/agent/internal/control"
	"keyward/agent/volume"
	"keyward/broker/api"
)

// upgrade tells the agent to go on as a program and waits for the next life.
func (r *rig) upgrade(program string) *control.Status {
	r.t.Helper()
	before := r.status()
	a, err := control.Call(r.t.Context(), r.o.Config.ControlSocket(), control.Request{Op: control.OpUpgrade, Program: program})
	if err == nil || a.Error != "" {
		r.t.Fatalf("upgrade: %+v, %v", a, err)
	}
	var now *control.Status
	r.eventually("the next life to answer", func() bool {
		a, err := control.Call(r.t.Context(), r.o.Config.ControlSocket(), control.Request{Op: control.OpStatus})
		now = a.Status
		return err == nil && !now.Started.Equal(before.Started)
	})
	if now.PID != before.PID {
		r.t.Errorf("the next life is process %d, the former %d: a supervisor would lose it", now.PID, before.PID)
	}
	return now
}

// writer appends lines to a file and syncs each, until it is told to stop. Nothing may fail.
func writer(t *testing.T, path string) (stop func() int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var done sync.WaitGroup
	lines := 0
	done.Go(func() {
		defer f.Close()
		for {
			select {
			case <-over:
				return
			default:
			}
			if _, err := f.WriteString(strconv.Itoa(lines) + "\n"); err != nil {
				t.Errorf("line %d: %v", lines, err)
				return
			}
			if err := f.Sync(); err != nil {
				t.Errorf("sync after line %d: %v", lines, err)
				return
			}
			lines++
		}
	})
	return func() int {
		close(over)
		done.Wait()
		return lines
	}
}

func wantLines(t *testing.T, path string, n int) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := strings.Fields(string(text))
	if len(found) < n {
		t.Fatalf("%d lines are there, %d were synced", len(found), n)
	}
	for i, line := range found {
		if line != strconv.Itoa(i) {
			t.Fatalf("line %d is %q", i, line)
		}
	}
}

// needKernelNBD skips where volumes are attached by FUSE and loop; suite e2e/vm has a kernel with nbd.
func needKernelNBD(t *testing.T) {
	t.Helper()
	if !attach.HasNBD(t.Context()) {
		t.Skip("needs a kernel with nbd: e2e/vm runs this inside one")
	}
}

func TestUpgrade_volumeStaysMountedUnderLoadAndWithoutABroker(t *testing.T) {
	needKernelNBD(t)
	r := newRig(t)
	r.image("data.img", imageSize)
	r.broker.Lease = 3600
	r.enrol()
	cmd := r.child()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	was := r.until(volume.Mounted)
	r.broker.Stop()
	stop := writer(t, filepath.Join(target, "log"))
	for range 2 {
		now := r.upgrade("")
		if len(now.Volumes) != 1 {
			t.Fatalf("the next life has %d volumes", len(now.Volumes))
		}
		is := now.Volumes[0]
		if is.State != volume.Mounted || is.RequestID != q.ID || is.BlockDevice != was.BlockDevice || is.MountPoint != target || !is.Since.Equal(was.Since) {
			t.Errorf("the volume was %+v and is %+v", was, is)
		}
		if is.LeaseSeconds <= 0 || is.LeaseSeconds > was.LeaseSeconds {
			t.Errorf("the lease had %d s and has %d s", was.LeaseSeconds, is.LeaseSeconds)
		}
		time.Sleep(200 * time.Millisecond)
	}
	n := stop()
	wantLines(t, filepath.Join(target, "log"), n)

	// The request is still the same one: what the broker wants of it is done.
	r.broker.Start()
	r.broker.Revoke(q.ID, api.RevokeSuspend, "a pause")
	r.broker.Reported(q.ID, api.EventSuspended)
	r.wantNoKey(cmd.Process.Pid, id)
	// The private key that deliveries of the former life's request are sealed to is gone with it, so an approval of that
	// request is answered by a new one.
	r.broker.Decide(q.ID, api.KeyApproved, "go on")
	next := r.broker.Asked(id, api.KeyPending)
	r.broker.Decide(next.ID, api.KeyApproved, "go on")
	r.broker.Reported(next.ID, api.EventMounted)
	r.write(filepath.Join(target, "more"), "after the pause")
	r.broker.Revoke(next.ID, api.RevokeUnmount, "the end")
	r.broker.Reported(next.ID, api.EventRevoked)
	r.wantMounted(target, false)
	r.wantNoKey(cmd.Process.Pid, id)
}

// An agent that dies while a volume is suspended leaves a frozen file system. Its successor thaws it.
func TestAgent_killedWhileSuspendedGoesOn(t *testing.T) {
	needKernelNBD(t)
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	cmd := r.child()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	r.broker.Revoke(q.ID, api.RevokeSuspend, "a pause")
	r.broker.Reported(q.ID, api.EventSuspended)
	r.kill(cmd)
	r.child()
	next := r.broker.Asked(id, api.KeyPending)
	r.broker.Decide(next.ID, api.KeyApproved, "go on")
	r.broker.Reported(next.ID, api.EventMounted)
	r.write(filepath.Join(target, "file"), "written")
	r.wantFile(filepath.Join(target, "file"), "written")
}

func TestUpgrade_volumeByFUSEIsRefusedByNameAndNothingHappens(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	r.child()
	id, target := r.encrypted("data.img")
	r.mounted(id)
	v := r.until(volume.Mounted)
	if v.Kind != attach.KindFUSE {
		t.Skip("this kernel has nbd")
	}
	started := r.status().Started
	stop := writer(t, filepath.Join(target, "log"))
	_, err := control.Call(t.Context(), r.o.Config.ControlSocket(), control.Request{Op: control.OpUpgrade})
	if err == nil || !strings.Contains(err.Error(), v.Name) || !strings.Contains(err.Error(), "keyward-agent lock "+id) {
		t.Errorf("upgrade says %v; want the volume's name and what to do", err)
	}
	n := stop()
	wantLines(t, filepath.Join(target, "log"), n)
	if s := r.status(); !s.Started.Equal(started) || s.Volumes[0].State != volume.Mounted {
		t.Errorf("after the refusal: %+v", s)
	}
	// What it says to do works.
	r.ask(control.OpLock, id)
	if now := r.upgrade(""); len(now.Volumes) > 0 && now.Volumes[0].State == volume.Mounted {
		t.Errorf("a locked volume is mounted: %+v", now.Volumes[0])
	}
}

func TestUpgrade_aProgramThatDoesNotRunIsRefused(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	r.child()
	started := r.status().Started
	text := filepath.Join(r.dir, "text")
	if err := os.WriteFile(text, []byte("no program"), 0o700); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]string{"/nonexistent": "/nonexistent", "/bin/false": "does not run", text: "does not run", "relative": "absolute"} {
		_, err := control.Call(t.Context(), r.o.Config.ControlSocket(), control.Request{Op: control.OpUpgrade, Program: program})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", program, err)
		}
	}
	if s := r.status(); !s.Started.Equal(started) {
		t.Error("another life answers")
	}
}
