package attach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func newImage(t *testing.T, size int64) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "volume.img")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	return image
}

func TestStale_afterSIGKILLTheVolumeCanBeAttachedAgainAndSyncedDataIsThere(t *testing.T) {
	t.Parallel()
	needFUSE(t)
	id, dir, image := uuid.NewString(), t.TempDir(), newImage(t, 64<<20)
	agent, dev := startAgent(t, agentSpec{Image: image, UUID: id, Dir: dir, Kind: KindFUSE})
	mkfs(t, dev)
	mp := mountForTest(t, dev)
	synced := bytes.Repeat([]byte("synced "), 100_000)
	f, err := os.Create(filepath.Join(mp, "synced"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(synced); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	// A file held open across the crash: the dead file system must not stop the new start.
	if _, err := f.WriteString("never synced"); err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	agent.kill()
	if _, err := Attach(context.Background(), newCountingDevice(1<<20), Options{Kind: KindFUSE, VolumeUUID: id, RuntimeDir: dir}); !errors.Is(err, ErrAttached) {
		t.Errorf("Attach before Stale: %v, want ErrAttached", err)
	}
	left, err := Stale(context.Background(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].VolumeUUID != id || left[0].Path != dev || !slices.Equal(left[0].Detached, []string{mp}) || left[0].Reattachable {
		t.Errorf("Stale found %+v, want the volume on %s mounted at %s", left, dev, mp)
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), id) || strings.Contains(string(b), mp) {
		t.Errorf("a mount was left (%v)", err)
	}

	again, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	a := attachForTest(t, fileDevice{again}, Options{VolumeUUID: id, RuntimeDir: dir})
	mp2 := mountForTest(t, a.Path())
	got, err := os.ReadFile(filepath.Join(mp2, "synced"))
	if err != nil || !bytes.HasPrefix(got, synced) {
		t.Errorf("after the crash %d bytes are there (%v), want the %d synced ones", len(got), err, len(synced))
	}
	if err := f.Sync(); err == nil {
		t.Error("a write to the dead file system was acknowledged")
	}
	f.Close()
	eventually(t, "the dead loop device goes once nobody holds it", func() bool { return a.Path() == dev || loopBacking(loopNumber(dev)) == "" })
	unmount(t, mp2)
}

func loopNumber(path string) int {
	var n int
	_, _ = fmt.Sscanf(path, "/dev/loop%d", &n)
	return n
}

func TestStale_leavesALivingAgentAlone(t *testing.T) {
	t.Parallel()
	id, dir := uuid.NewString(), t.TempDir()
	a := attachForTest(t, newCountingDevice(1<<20), Options{VolumeUUID: id, RuntimeDir: dir})
	left, err := Stale(context.Background(), dir, nil)
	if err != nil || len(left) != 0 {
		t.Fatalf("Stale = %+v, %v; want nothing", left, err)
	}
	f := openDirect(t, a.Path())
	if _, err := f.ReadAt(aligned(t, 4096), 0); err != nil {
		t.Errorf("the living attachment no longer answers: %v", err)
	}
	f.Close()
}

func TestStale_stateOfAnotherBootOrOfAReusedPID(t *testing.T) {
	t.Parallel()
	me := self()
	for name, o := range map[string]owner{
		"another boot":     {PID: me.PID, Start: me.Start, BootID: "00000000-0000-0000-0000-000000000000", Life: me.Life},
		"PID was reused":   {PID: me.PID, Start: me.Start + 1, BootID: me.BootID, Life: me.Life},
		"before an exec":   {PID: me.PID, Start: me.Start, BootID: me.BootID, Life: uuid.NewString()},
		"no such process":  {PID: 1 << 30, Start: 1, BootID: me.BootID},
		"never had a PID":  {BootID: me.BootID},
		"kernel thread 0?": {PID: -1, BootID: me.BootID},
	} {
		t.Run(name, func(t *testing.T) {
			dir, id := t.TempDir(), uuid.NewString()
			if err := (state{VolumeUUID: id, Kind: KindFUSE, Owner: o}).save(dir); err != nil {
				t.Fatal(err)
			}
			left, err := Stale(context.Background(), dir, slog.New(slog.DiscardHandler))
			if err != nil || len(left) != 1 {
				t.Fatalf("Stale = %+v, %v; want the one leftover", left, err)
			}
			if _, err := os.Stat(runDir(dir, id)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("runtime folder is still there: %v", err)
			}
		})
	}
	if !me.alive() {
		t.Error("this process is not alive")
	}
}

func TestStale_damagedStateIsReportedAndOthersAreCleaned(t *testing.T) {
	t.Parallel()
	dir, bad, good := t.TempDir(), uuid.NewString(), uuid.NewString()
	if err := (state{VolumeUUID: good, Kind: KindFUSE}).save(dir); err != nil {
		t.Fatal(err)
	}
	if err := (state{VolumeUUID: bad, Kind: KindFUSE}).save(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(stateFile(runDir(dir, bad)), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	left, err := Stale(context.Background(), dir, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), bad) {
		t.Errorf("error %v does not name the damaged state", err)
	}
	if len(left) != 1 || left[0].VolumeUUID != good {
		t.Errorf("Stale = %+v, want the readable one", left)
	}
	if _, err := Attach(context.Background(), newCountingDevice(1<<20), Options{VolumeUUID: bad, RuntimeDir: dir, Kind: KindFUSE}); err == nil {
		t.Error("Attach went ahead over a state that cannot be read")
	}
}

func TestStale_noRuntimeFolder(t *testing.T) {
	t.Parallel()
	left, err := Stale(context.Background(), filepath.Join(t.TempDir(), "none"), nil)
	if err != nil || left != nil {
		t.Errorf("Stale = %v, %v; want nothing", left, err)
	}
}

func TestWriteOrder_overlappingWritesKeepTheirOrderOthersDoNotWait(t *testing.T) {
	t.Parallel()
	var w writeOrder
	first := w.enter(0, 8192)
	entered := make(chan int, 3)
	started := make(chan struct{})
	go func() { // overlaps
		close(started)
		s := w.enter(4096, 8192)
		entered <- 2
		w.leave(s)
	}()
	<-started
	eventually(t, "the second write waits", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.inFlight) == 2
	})
	third := w.enter(1<<20, 4096) // elsewhere
	entered <- 3
	w.leave(third)
	select {
	case n := <-entered:
		if n != 3 {
			t.Fatal("an overlapping write overtook the first")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a write elsewhere waited")
	}
	w.leave(first)
	if n := <-entered; n != 2 {
		t.Fatalf("write %d entered, want 2", n)
	}
	eventually(t, "all have left", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.inFlight) == 0
	})
}
