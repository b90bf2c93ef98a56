package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keyward/agent/volume"
	"keyward/broker/api"
)

// Y-31, J-10: mount_complete when all are mounted, teardown before a volume is unmounted.
func TestScripts_runAroundAllMountsInOrder(t *testing.T) {
	r := newRig(t)
	r.image("a.img", imageSize)
	r.image("b.img", imageSize)
	log := filepath.Join(r.dir, "log")
	r.o.Config.Scripts.MountComplete = r.script("start.sh", `echo "complete $KEYWARD_MOUNT_POINTS" >> `+log+"\n")
	r.o.Config.Scripts.Teardown = r.script("stop.sh",
		`mountpoint -q "$KEYWARD_MOUNT_POINT" && echo "teardown $KEYWARD_DEVICE mounted: $KEYWARD_REASON" >> `+log+"\n")
	r.enrol()
	r.start()
	a, targetA := r.encrypted("a.img")
	b, targetB := r.encrypted("b.img")
	qa := r.broker.Asked(a, api.KeyPending)
	qb := r.broker.Asked(b, api.KeyPending)
	r.broker.Decide(qa.ID, api.KeyApproved, "")
	r.broker.Reported(qa.ID, api.EventMounted)
	if text, err := os.ReadFile(log); err == nil {
		t.Errorf("with one of two volumes mounted a script ran: %s", text)
	}
	r.broker.Decide(qb.ID, api.KeyApproved, "")
	r.broker.Reported(qb.ID, api.EventMounted)
	r.wantLog(log, "complete "+targetA+":"+targetB)
	r.broker.Revoke(qb.ID, api.RevokeUnmount, "not fit")
	r.broker.Reported(qb.ID, api.EventRevoked)
	r.wantMounted(targetB, false)
	r.wantMounted(targetA, true)
	r.wantLog(log, "complete "+targetA+":"+targetB, "teardown b.img mounted: not fit")
	r.broker.Decide(qb.ID, api.KeyApproved, "")
	r.wantLog(log, "complete "+targetA+":"+targetB, "teardown b.img mounted: not fit", "complete "+targetA+":"+targetB)
}

// wantLog waits until a file has exactly these lines; the two mount points of a line may come in either order.
func (r *rig) wantLog(path string, want ...string) {
	r.t.Helper()
	var got []string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(path)
		if len(text) == 0 {
			continue
		}
		if got = slices.Collect(strings.SplitSeq(strings.TrimSuffix(string(text), "\n"), "\n")); len(got) >= len(want) {
			break
		}
	}
	if len(got) != len(want) {
		r.t.Fatalf("scripts logged %q, want %q", got, want)
	}
	for i := range want {
		x, y := strings.Split(strings.TrimPrefix(got[i], "complete "), ":"), strings.Split(strings.TrimPrefix(want[i], "complete "), ":")
		if got[i] != want[i] && !(len(x) == 2 && len(y) == 2 && x[0] == y[1] && x[1] == y[0]) {
			r.t.Errorf("line %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestTeardown_thatHangsIsKilledAndTheKeyGoesAnyway(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	child := filepath.Join(r.dir, "child")
	r.o.Config.Scripts.TimeoutSeconds = 1
	r.o.Config.Scripts.Teardown = r.script("stop.sh", "sleep 1000 &\necho $! > "+child+"\nwait\n")
	r.enrol()
	r.start()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	r.broker.Revoke(q.ID, api.RevokeUnmount, "not fit")
	e := r.broker.Reported(q.ID, api.EventRevoked)
	if !strings.Contains(e.Detail, "did not end within 1s") {
		t.Errorf("the report says %q", e.Detail)
	}
	r.wantMounted(target, false)
	pid, err := os.ReadFile(child)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
	}
	t.Errorf("process %s of the teardown script still runs", pid)
}

func TestRevoke_busyVolumeIsSuspendedAndNamesWhoBlocks(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	r.start()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	path := filepath.Join(target, "open")
	r.write(path, "before")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r.broker.Revoke(q.ID, api.RevokeUnmount, "not fit")
	e := r.broker.Reported(q.ID, api.EventRevoked)
	if !strings.Contains(e.Detail, "process "+strconv.Itoa(os.Getpid())) || !strings.Contains(e.Detail, "suspended") {
		t.Errorf("the report names nobody: %q", e.Detail)
	}
	r.until(volume.Suspended)
	r.wantNoKey(0, id)

	wrote := make(chan error, 1)
	go func() {
		_, err := f.WriteAt([]byte("during"), 0)
		wrote <- errors.Join(err, f.Sync())
	}()
	select {
	case err := <-wrote:
		t.Errorf("a write to a suspended volume ended (%v) instead of waiting", err)
	case <-time.After(300 * time.Millisecond):
	}
	r.broker.Decide(q.ID, api.KeyApproved, "complies again")
	if err := <-wrote; err != nil {
		t.Errorf("the write that waited failed: %v", err)
	}
	r.until(volume.Mounted)
	r.wantFile(path, "during")
	f.Close()
}

func TestRevoke_suspendKeepsProgramsWaitingAndResumes(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.o.Config.Scripts.Teardown = r.script("stop.sh", "echo $KEYWARD_ACTION $KEYWARD_REASON > "+filepath.Join(r.dir, "torn-down")+"\n")
	r.enrol()
	r.start()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	r.write(filepath.Join(target, "file"), "kept")
	r.broker.Revoke(q.ID, api.RevokeSuspend, "under suspicion")
	r.broker.Reported(q.ID, api.EventSuspended)
	v := r.until(volume.Suspended)
	if v.MountPoint != target || v.KeyProtection != "" || v.Why == "" {
		t.Errorf("a suspended volume shows %+v", v)
	}
	r.wantNoKey(0, id)
	if note, err := os.ReadFile(filepath.Join(r.dir, "torn-down")); err != nil || string(note) != "suspend under suspicion\n" {
		t.Errorf("the teardown script noted %q, %v", note, err)
	}
	r.broker.Decide(q.ID, api.KeyApproved, "cleared")
	r.until(volume.Mounted)
	r.write(filepath.Join(target, "more"), "written after")
	r.wantFile(filepath.Join(target, "file"), "kept")
}

func TestStop_ofASuspendedVolumeLosesNothingThatWasSynced(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	r.start()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	r.write(filepath.Join(target, "file"), "kept")
	r.broker.Revoke(q.ID, api.RevokeSuspend, "under suspicion")
	r.broker.Reported(q.ID, api.EventSuspended)
	r.until(volume.Suspended)
	r.stop()
	r.wantMounted(target, false)
	r.start()
	r.mounted(id)
	r.wantFile(filepath.Join(target, "file"), "kept")
}

func TestControl_lockAndRequestByTheMachineItself(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	r.start()
	id, target := r.encrypted("data.img")
	q := r.mounted(id)
	r.ask("lock", "data.img")
	r.wantMounted(target, false)
	r.broker.Reported(q.ID, api.EventUnmounted)
	r.wantNoKey(0, id)
	time.Sleep(100 * time.Millisecond)
	if n := len(r.broker.Requests(id)); n != 1 {
		t.Errorf("a volume that was locked by hand asked again by itself (%d requests)", n)
	}
	r.ask("request", id)
	r.mounted(id)
	r.wantMounted(target, true)
}
