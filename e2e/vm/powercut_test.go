package vm

import (
	"context"
	crand "crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
	"keyward/nbdcrypt/nbd"
)

var (
	cuts    = flag.Int("cuts", 20, "how often the power is cut")
	cutSeed = flag.Uint64("cuts.seed", 0, "repeat the choices of a run; 0 means new ones")
)

// freshAfter is how many cuts one file system lives through.
const freshAfter = 10

// cutDisk is the guest's disk: memory with a volatile cache in front, so that a power cut loses what was not flushed, in whole
// sectors of 4096 bytes and any combination. It outlives the machine.
//
// Sectors are whole, because file systems count on that where a device says so, and a volume of 4096-byte sectors says so: ext4
// takes a commit block of which a part arrived for damage and refuses the journal, on whatever disk.
type cutDisk struct {
	medium *blockdev.Memory
	rec    luks2.Record
	secret []byte
}

func newCutDisk(t *testing.T) *cutDisk {
	t.Helper()
	d := &cutDisk{medium: blockdev.NewMemory(luks2.DataOffset + 48<<20), secret: make([]byte, 64)}
	if _, err := crand.Read(d.secret); err != nil {
		t.Fatal(err)
	}
	key := d.key(t)
	defer key.Wipe()
	var err error
	d.rec, err = luks2.Format(d.medium, luks2.Params{Device: "d", Account: "a", Broker: "b", KeyBits: 256}, key)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *cutDisk) key(t *testing.T) *keymem.Key {
	t.Helper()
	key, err := keymem.FromBytes(append([]byte(nil), d.secret...))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// clear decrypts the volume into a file.
func (d *cutDisk) clear(t *testing.T, path string) {
	t.Helper()
	vol, err := nbdcrypt.Open(d.medium, d.rec, d.key(t), nbdcrypt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	// The medium stays open: closing the volume would close it.
	image := make([]byte, vol.Size())
	if _, err := vol.ReadAt(image, 0); err != nil {
		t.Fatal(err)
	}
	if err := vol.Suspend(); err != nil { // wipes the key
		t.Fatal(err)
	}
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
}

// serve shows the disk to qemu at socket until stop, which returns when nothing reaches the disk any more.
func (d *cutDisk) serve(t *testing.T, socket string, dev blockdev.Device) (stop func()) {
	t.Helper()
	server, err := nbd.NewServer(nbd.Options{Exports: []nbd.Export{{Device: dev}}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	return func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := errors.Join(server.Shutdown(ctx), <-done); err != nil {
			t.Fatal(err)
		}
	}
}

// acknowledged is the highest number of each kind that the guest was told is durable.
type acknowledged map[string]int

func (a acknowledged) hear(line string) {
	f := said(line)
	if len(f) != 3 || f[0] != "acked" {
		return
	}
	if n, err := strconv.Atoi(f[2]); err == nil { // a line that was cut off in the middle says too little, never too much
		a[f[1]] = max(a[f[1]], n)
	}
}

// "A writer records what was acknowledged as synced, qemu is killed at a random instant, the disk is opened again: every
// acknowledged record is there and fsck is clean."
func TestPowerCut_everyAcknowledgedWriteIsThere(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine and cuts its power many times")
	}
	for _, tool := range []string{"e2fsck", "debugfs", "mkfs.ext4"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s (e2fsprogs)", tool)
		}
	}
	kernel, err := FindKernel()
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	seed := *cutSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("repeat by -cuts %d -cuts.seed %d", *cuts, seed)
	r := rand.New(rand.NewPCG(seed, 0))

	dir, err := os.MkdirTemp("", "keyward-cut-") // short: a socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	disk := newCutDisk(t)
	orders, err := json.Marshal(map[string]any{"Disk": "/dev/vda", "Record": disk.rec, "Secret": disk.secret})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "disk")
	m := Machine{Kernel: kernel, Init: filepath.Join(dir, "init"), Modules: []string{"nbd"}, Tools: []string{"mkfs.ext4"},
		Files: map[string][]byte{"/cut.json": orders}, Disk: "nbd+unix:///?socket=" + socket, Memory: 512,
		Programs: []Program{{Name: "writer", Path: "/tests/writer", File: filepath.Join(dir, "writer"),
			Args: []string{"-test.v", "-test.run", "TestPowerCut_writer"}, Env: []string{"KEYWARD_POWERCUT=/cut.json"}}}}
	compile(t, m.Init, "build", "keyward/e2e/vm/guest")
	compile(t, filepath.Join(dir, "writer"), "test -c", "keyward/agent/internal/attach")

	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var console strings.Builder
	stop := disk.serve(t, socket, disk.medium)
	s, err := m.freeze(ctx, func(line string) { console.WriteString(line + "\n") })
	stop()
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatalf("%v\nconsole: %s", err, tail(console.String(), 4000))
	}
	defer s.close()
	total := acknowledged{}
	for n := range *cuts {
		folder := fmt.Sprintf("cut-%d", n)
		got := cutOnce(t, s, disk, socket, folder, n%freshAfter == 0, r)
		checkCut(t, disk, dir, folder, got)
		if t.Failed() {
			t.Fatalf("at cut %d of %d", n+1, *cuts)
		}
		for kind, acked := range got {
			total[kind] += acked
		}
		if (n+1)%25 == 0 {
			t.Logf("%d of %d cuts", n+1, *cuts)
		}
	}
	t.Logf("%d cuts, acknowledged and found again: %v", *cuts, total)
}

// cutOnce lets the machine write into folder and takes its power away at a random instant. It returns what the guest had
// been told is durable.
func cutOnce(t *testing.T, s *snapshot, disk *cutDisk, socket, folder string, fresh bool, r *rand.Rand) acknowledged {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cache := blockdev.NewVolatile(disk.medium, 4096)
	stop := disk.serve(t, socket, cache)
	i, err := s.resume(ctx)
	if err != nil {
		t.Fatal(err)
	}
	order := "go " + folder
	if fresh {
		order += " new"
	}
	var console strings.Builder
	got := acknowledged{}
	hear := func(line string) {
		console.WriteString(line + "\n")
		got.hear(line)
	}
	// What is sent before the machine has all its memory back is lost.
	for going := false; !going; {
		_, _ = i.input.Write([]byte(order + "\n")) // a machine that is off says why below
		patience, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		_, err := i.await(patience, hear, "going")
		cancel()
		if going = err == nil; !going && (!errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil) {
			t.Fatalf("%v\nconsole: %s", err, tail(console.String(), 4000))
		}
	}
	if _, err := i.await(ctx, hear, "acked"); err != nil {
		t.Fatalf("%v\nconsole: %s", err, tail(console.String(), 4000))
	}
	wait := time.NewTimer(time.Duration(r.Int64N(int64(1200 * time.Millisecond))))
	for on := true; on; {
		select {
		case line := <-i.lines:
			hear(line)
		case <-wait.C:
			on = false
		}
	}
	// The disk loses its cache first: the server syncs what a client has left unsynced when it goes. Nothing that the guest
	// wrote or flushed since is acknowledged to it.
	if err := cache.Crash(r); err != nil {
		t.Fatal(err)
	}
	if err := i.cut(); err != nil {
		t.Fatalf("%v\nconsole: %s", err, tail(console.String(), 4000))
	}
	for line := range i.lines { // said before the cut, so it counts
		hear(line)
	}
	stop()
	return got
}

// checkCut looks for what was acknowledged, on the host and with other tools than those that wrote it.
func checkCut(t *testing.T, disk *cutDisk, dir, folder string, got acknowledged) {
	t.Helper()
	image, out := filepath.Join(dir, "clear"), filepath.Join(dir, "found")
	disk.clear(t, image)
	if text, err := exec.Command("e2fsck", "-y", "-E", "journal_only", image).CombinedOutput(); err != nil && !changed(err) {
		t.Errorf("replay the journal: %v\n%s", err, text)
	}
	if text, err := exec.Command("e2fsck", "-f", "-n", image).CombinedOutput(); err != nil {
		t.Errorf("the file system is damaged: %v\n%s", err, text)
	}
	if err := errors.Join(os.RemoveAll(out), os.Mkdir(out, 0o700)); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("debugfs", "-R", "rdump /"+folder+" "+out, image).CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, text)
	}
	folder = filepath.Join(out, folder)
	log, err := os.ReadFile(filepath.Join(folder, "log"))
	if err != nil && got["log"] > 0 {
		t.Error(err)
	}
	for n := 1; n <= got["log"]; n++ {
		want := fmt.Sprintf("%08d\n", n)
		if at := (n - 1) * len(want); at+len(want) > len(log) || string(log[at:at+len(want)]) != want {
			t.Fatalf("line %d of the log is lost; %d were acknowledged, %d bytes are there", n, got["log"], len(log))
		}
	}
	for n := 1; n <= got["file"]; n++ {
		data, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("file-%d", n)))
		if err != nil || string(data) != strings.Repeat(fmt.Sprintf("%08d\n", n), n) {
			t.Fatalf("file %d of %d acknowledged ones is lost (%v, %d bytes)", n, got["file"], err, len(data))
		}
	}
	blocks, err := os.ReadFile(filepath.Join(folder, "blocks"))
	if err != nil && got["block"] > 0 {
		t.Error(err)
	}
	for n := max(1, got["block"]-31); n <= got["block"]; n++ { // the newest acknowledged one of each block
		at := n % 32 * 4096
		for i := at; i < at+4096; i += 8 {
			// A later one may have been on its way and have arrived, wholly or in parts.
			if v := binary.LittleEndian.Uint64(blocks[i:]); v < uint64(n) || v%32 != uint64(n%32) {
				t.Fatalf("byte %d of block %d is of write %d; %d was acknowledged", i-at, n%32, v, n)
			}
		}
	}
}

// changed reports that e2fsck ended by saying that it changed the file system (e2fsck(8), exit code 1).
func changed(err error) bool {
	var exit *exec.ExitError
	return errors.As(err, &exit) && exit.ExitCode() == 1
}
