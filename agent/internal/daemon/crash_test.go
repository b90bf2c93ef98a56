package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"keyward/agent/internal/config"
	"keyward/agent/internal/harden"
	"keyward/agent/volume"
	"keyward/broker/api"
)

// childEnv makes the test binary be an agent of its own, so that tests can kill one.
const childEnv = "KEYWARD_TEST_AGENT"

func TestMain(m *testing.M) {
	text := os.Getenv(childEnv)
	if text == "" {
		os.Exit(m.Run())
	}
	if len(os.Args) > 1 && os.Args[1] == "version" { // as an agent that is about to go on as this program asks it
		os.Exit(0)
	}
	var cfg config.Config
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := Run(ctx, Options{Config: cfg, Version: "1.2.3", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), Harden: harden.Apply,
		LeaseCheck: 50 * time.Millisecond, Backoff: func(int) time.Duration { return 50 * time.Millisecond }})
	if err != nil {
		slog.Error("agent ended", "error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child runs the agent as a process of its own.
func (r *rig) child() *exec.Cmd {
	r.t.Helper()
	text, err := json.Marshal(r.o.Config)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = testLog{r.t}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.stop = func() {
		r.stop = func() {}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			r.t.Errorf("the agent ended with %v", err)
		}
	}
	r.eventually("the agent to serve", func() bool {
		_, err := os.Stat(r.o.Config.ControlSocket())
		return err == nil
	})
	return cmd
}

func (r *rig) kill(cmd *exec.Cmd) {
	r.t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		r.t.Fatal(err)
	}
	_ = cmd.Wait()
	r.stop = func() {}
	_ = os.Remove(r.o.Config.ControlSocket()) // so that child waits for the next agent's
}

func TestAgent_killedUnderLoadComesBackWithEverySyncedFile(t *testing.T) {
	r := newRig(t)
	r.image("data.img", imageSize)
	r.enrol()
	cmd := r.child()
	id, target := r.encrypted("data.img")
	first := r.mounted(id)

	synced := 0
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			name := filepath.Join(target, "file-"+strconv.Itoa(synced))
			f, err := os.Create(name)
			if err != nil {
				return
			}
			_, err = f.WriteString(strings.Repeat(strconv.Itoa(synced)+" ", 2000))
			if err == nil {
				err = f.Sync()
			}
			f.Close()
			if err != nil {
				return
			}
			synced++
		}
	}()
	time.Sleep(500 * time.Millisecond)
	r.kill(cmd)
	close(stop)

	cmd = r.child()
	// Within the lease the broker delivers again at once: nobody has to get up.
	r.broker.Wait("the new agent to have asked", func() bool { return r.broker.Newest(id).ID != first.ID })
	second := r.broker.Asked(id, api.KeyDelivered)
	r.broker.Reported(second.ID, api.EventMounted)
	<-done // with FUSE the write under way failed, with kernel NBD it waited for the new agent
	if synced == 0 {
		t.Fatal("nothing was written before the kill")
	}
	for i := range synced {
		r.wantFile(filepath.Join(target, "file-"+strconv.Itoa(i)), strings.Repeat(strconv.Itoa(i)+" ", 2000))
	}

	// A broker that revokes the request of the former life gets its answer from the new one, and the mount stays.
	r.broker.Revoke(first.ID, api.RevokeUnmount, "late")
	r.broker.Reported(first.ID, api.EventRevoked)
	r.wantMounted(target, true)

	r.broker.Revoke(second.ID, api.RevokeUnmount, "not fit")
	r.broker.Reported(second.ID, api.EventRevoked)
	r.wantMounted(target, false)
	r.wantNoKey(cmd.Process.Pid, id)
	if cores := limits(t, cmd.Process.Pid, "Max core file size"); !strings.HasPrefix(cores, "0 ") {
		t.Errorf("core dumps are possible: %s", cores)
	}
}

func limits(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func TestEncrypt_killedInTheMiddleStartsAgain(t *testing.T) {
	r := newRig(t)
	// Large enough that making the file system takes a while.
	r.image("data.img", 4<<30)
	r.enrol()
	cmd := r.child()
	d := r.broker.Published("data.img")
	target := filepath.Join(r.dir, "mnt")
	r.broker.Configure(d.ID, "ext4", target, api.AccessReadWrite, 256)
	job := r.broker.Encrypt(d.ID, false)
	r.broker.Wait("the job to write", func() bool { return len(job.Progress) > 0 })
	r.kill(cmd)
	if n := len(job.Progress); job.Progress[n-1].Done {
		t.Skip("the machine made the file system faster than it could be killed")
	}
	r.child()
	progress := r.broker.JobEnd(job)
	if last := progress[len(progress)-1]; !last.Done {
		t.Fatalf("the job taken again ended with %+v", last)
	}
	r.mounted(d.ID)
	r.until(volume.Mounted)
	r.write(filepath.Join(target, "file"), "kept")
	if left, _ := filepath.Glob(filepath.Join(r.o.Config.StateDir, "jobs", "*")); len(left) != 0 {
		t.Errorf("job markers are left: %v", left)
	}
}

// "An agent with one idle volume stays under 40 MiB resident."
func TestAgent_idleWithOneVolumeIsSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector's memory is not the agent's")
	}
	r := newRig(t)
	r.image("data.img", 512<<20)
	r.enrol()
	cmd := r.child()
	id, target := r.encrypted("data.img")
	r.mounted(id)
	t.Logf("resident before any load: %d KiB", resident(t, cmd.Process.Pid))
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() { r.write(filepath.Join(target, "file-"+strconv.Itoa(i)), strings.Repeat("x", 64<<20)) })
	}
	load.Wait()
	t.Logf("resident after writing 256 MiB: %d KiB", resident(t, cmd.Process.Pid))
	var kib int
	r.eventually("the agent to come to rest below 40 MiB", func() bool {
		kib = resident(t, cmd.Process.Pid)
		return kib < 40<<10
	})
	t.Logf("resident: %d KiB", kib)
}

func resident(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatal("no VmRSS")
	return 0
}
