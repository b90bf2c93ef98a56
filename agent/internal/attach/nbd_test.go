package attach

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/blockdev"
)

// These tests need a kernel with nbd; suite e2e/vm runs this package inside one.

func needNBD(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 || !HasNBD(t.Context()) {
		t.Skip("needs root and a kernel with nbd: e2e/vm runs this inside one")
	}
}

func attachNBDForTest(t *testing.T, dev blockdev.Device, o Options) *kernelNBD {
	t.Helper()
	needNBD(t)
	o.Kind = KindNBD
	if o.VolumeUUID == "" {
		o.VolumeUUID = uuid.NewString()
	}
	if o.RuntimeDir == "" {
		o.RuntimeDir = t.TempDir()
	}
	a, err := Attach(context.Background(), dev, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAttachment(t, a, o) })
	return a.(*kernelNBD)
}

func closeAttachment(t *testing.T, a Attachment, o Options) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if n, _ := nbdOf(o.VolumeUUID); n >= 0 {
		t.Errorf("%s was left behind", nbdPath(n))
	}
	if _, err := os.Lstat(runDir(o.RuntimeDir, o.VolumeUUID)); err == nil {
		t.Error("runtime folder was left behind")
	}
}

func TestKernelNBD_isPickedWhereTheKernelHasIt(t *testing.T) {
	needNBD(t)
	o := Options{VolumeUUID: uuid.NewString(), RuntimeDir: t.TempDir()}
	a, err := Attach(context.Background(), newCountingDevice(1<<20), o)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAttachment(t, a, o)
	if a.Kind() != KindNBD || !strings.HasPrefix(a.Path(), "/dev/nbd") {
		t.Errorf("attached as %s at %s", a.Kind(), a.Path())
	}
}

func TestKernelNBD_blockDeviceHasTheVolumesGeometry(t *testing.T) {
	for _, tc := range []struct {
		sector, conns int
		readOnly      bool
	}{{512, 1, false}, {4096, 4, false}, {4096, 2, true}} {
		t.Run(fmt.Sprintf("%d bytes, %d connections, read-only %v", tc.sector, tc.conns, tc.readOnly), func(t *testing.T) {
			id := uuid.NewString()
			dev := newCountingDevice(8 << 20)
			a := attachNBDForTest(t, dev, Options{VolumeUUID: id, SectorSize: tc.sector, Connections: tc.conns, ReadOnly: tc.readOnly})
			for attr, want := range map[string]int64{"size": 8 << 20 / 512, "queue/logical_block_size": int64(tc.sector), "queue/max_sectors_kb": 1024} {
				if got, err := readNumber(nbdSys(a.index, attr)); err != nil || got != want {
					t.Errorf("%s is %d (%v), want %d", attr, got, err, want)
				}
			}
			if ro, err := readNumber(nbdSys(a.index, "ro")); err != nil || (ro != 0) != tc.readOnly {
				t.Errorf("ro is %d (%v)", ro, err)
			}
			if b, err := os.ReadFile(nbdSys(a.index, "backend")); err != nil || strings.TrimSpace(string(b)) != id {
				t.Errorf("backend is %q (%v), want the volume's UUID", b, err)
			}
			if b, err := os.ReadFile(nbdSys(a.index, "queue/write_cache")); !tc.readOnly && (err != nil || strings.TrimSpace(string(b)) != "write back") {
				t.Errorf("write cache is %q (%v): flushes would not be sent", b, err)
			}
			if st, err := readState(a.o.RuntimeDir, id); err != nil || st.Connections != tc.conns {
				t.Errorf("state says %d connections (%v), want %d", st.Connections, err, tc.conns)
			}
		})
	}
}

// fill writes a tree of files and returns their checksums.
func fill(t *testing.T, dir string, files, size int) map[string][32]byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	sums := map[string][32]byte{}
	for i := range files {
		data := make([]byte, 1+rng.IntN(size))
		for j := range data {
			data[j] = byte(rng.Uint32())
		}
		name := fmt.Sprintf("d%d/f%d", i%7, i)
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		sums[name] = sha256.Sum256(data)
	}
	return sums
}

func verify(t *testing.T, dir string, sums map[string][32]byte) {
	t.Helper()
	for name, want := range sums {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if sha256.Sum256(data) != want {
			t.Errorf("%s differs from what was written", name)
		}
	}
}

func fsck(t *testing.T, dev string) {
	t.Helper()
	if out, err := exec.Command("e2fsck", "-f", "-n", dev).CombinedOutput(); err != nil {
		t.Errorf("e2fsck finds the file system damaged: %v\n%s", err, out)
	}
}

func TestKernelNBD_fileSystemKeepsItsFiles(t *testing.T) {
	for _, conns := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d connections", conns), func(t *testing.T) {
			dev := newCountingDevice(96 << 20)
			a := attachNBDForTest(t, dev, Options{Connections: conns})
			mkfs(t, a.Path())
			mp := mountForTest(t, a.Path())
			sums := fill(t, mp, 120, 300<<10)
			before := dev.syncs.Load()
			f, err := os.Open(filepath.Join(mp, "d0/f0"))
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Syncfs(int(f.Fd())); err != nil {
				t.Fatal(err)
			}
			f.Close()
			if dev.syncs.Load() == before {
				t.Error("syncfs did not reach Sync")
			}
			if err := a.Close(); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), mp) {
				t.Errorf("Close of a mounted volume: %v, want ErrBusy naming %s", err, mp)
			}
			unmount(t, mp)
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			// A new device on the same data: nothing may depend on what the kernel still caches.
			b := attachNBDForTest(t, dev, Options{Connections: conns})
			fsck(t, b.Path())
			mp = mountForTest(t, b.Path())
			verify(t, mp, sums)
			unmount(t, mp)
			fsck(t, b.Path())
		})
	}
}

func TestKernelNBD_flushReachesSyncWhicheverConnectionWrote(t *testing.T) {
	dev := newCountingDevice(8 << 20)
	a := attachNBDForTest(t, dev, Options{Connections: 4})
	var wg sync.WaitGroup
	for w := range 8 { // several threads, so that several queues and so connections are used
		f := openDirect(t, a.Path())
		buf := aligned(t, 4096)
		wg.Go(func() {
			for i := range 20 {
				if _, err := f.WriteAt(buf, int64(w*20+i)*4096); err != nil {
					t.Error(err)
					return
				}
				before := dev.syncs.Load()
				if err := f.Sync(); err != nil {
					t.Error(err)
				}
				// Syncs run for everybody, so at least one has ended since.
				if dev.syncs.Load() == before {
					t.Errorf("fsync %d of writer %d returned without a Sync", i, w)
				}
			}
		})
	}
	wg.Wait()
}

func TestKernelNBD_mediumErrorsAreReportedAndTheDeviceLives(t *testing.T) {
	dev := newCountingDevice(1 << 20)
	a := attachNBDForTest(t, dev, Options{})
	f := openDirect(t, a.Path())
	buf := aligned(t, 4096)
	dev.fail.Store(true)
	_, readErr := f.ReadAt(buf, 0)
	_, writeErr := f.WriteAt(buf, 0)
	dev.fail.Store(false)
	if !errors.Is(readErr, unix.EIO) || !errors.Is(writeErr, unix.EIO) {
		t.Errorf("a failing medium gave %v and %v, want EIO", readErr, writeErr)
	}
	if _, err := f.ReadAt(buf, 0); err != nil {
		t.Errorf("after the failure: %v", err)
	}
	f.Close()
}

func TestKernelNBD_discardOnlyWhereAllowed(t *testing.T) {
	for _, allow := range []bool{false, true} {
		t.Run(fmt.Sprint(allow), func(t *testing.T) {
			dev := newCountingDevice(4 << 20)
			a := attachNBDForTest(t, dev, Options{Discard: allow})
			f := openDirect(t, a.Path())
			buf := aligned(t, 1<<20)
			for i := range buf {
				buf[i] = 0xa5
			}
			if _, err := f.WriteAt(buf, 0); err != nil {
				t.Fatal(err)
			}
			rng := [2]uint64{0, 512 << 10}
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, ptr(&rng))
			if allow != (errno == 0) {
				t.Errorf("discard gives %v", errno)
			}
			if gone := dev.Snapshot()[0] != 0xa5; gone != allow {
				t.Errorf("the range was discarded: %v", gone)
			}
			rng = [2]uint64{512 << 10, 256 << 10}
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKZEROOUT, ptr(&rng)); errno != 0 {
				t.Fatal(errno)
			}
			if got := dev.Snapshot(); !bytes.Equal(got[512<<10:768<<10], make([]byte, 256<<10)) || got[768<<10] != 0xa5 {
				t.Error("zeroing did not write zeroes to exactly its range")
			}
			f.Close()
		})
	}
}

// stallDevice holds writes back for as long as it is told.
type stallDevice struct {
	*countingDevice
	stalled atomic.Bool
	waiting atomic.Int64
	release chan struct{}
}

func (d *stallDevice) WriteAt(p []byte, off int64) (int, error) {
	if d.stalled.Load() {
		d.waiting.Add(1)
		<-d.release
	}
	return d.countingDevice.WriteAt(p, off)
}

func TestKernelNBD_requestsThatTookTooLongAreSentAgainInOrder(t *testing.T) {
	dev := &stallDevice{countingDevice: newCountingDevice(8 << 20), release: make(chan struct{})}
	a := attachNBDForTest(t, dev, Options{Connections: 2, Timeout: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	f := openDirect(t, a.Path())
	first, second := aligned(t, 4096), aligned(t, 4096)
	for i := range first {
		first[i], second[i] = 1, 2
	}
	dev.stalled.Store(true)
	done := make(chan error, 1)
	go func() {
		_, err := f.WriteAt(first, 0)
		if err == nil {
			_, err = f.WriteAt(second, 0)
		}
		done <- err
	}()
	// Both connections are given up, one after the other, while the write waits in the device.
	eventually(t, "the write arrives", func() bool { return dev.waiting.Load() > 0 })
	time.Sleep(5 * time.Second)
	dev.stalled.Store(false)
	close(dev.release)
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("write: %v", err)
		}
	case <-time.After(90 * time.Second):
		t.Fatal("the write never ended")
	}
	if got := dev.Snapshot(); !bytes.Equal(got[:4096], second) {
		t.Errorf("the older of two writes won: %d", got[0])
	}
	buf := aligned(t, 4096)
	for i := range 64 { // every connection works again
		if _, err := f.ReadAt(buf, int64(i)*4096); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
}

func TestKernelNBD_agentIsKilledAndReattaches(t *testing.T) {
	needNBD(t)
	for _, conns := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d connections", conns), func(t *testing.T) { crashAndReattach(t, conns) })
	}
}

func crashAndReattach(t *testing.T, conns int) {
	id, dir, image := uuid.NewString(), t.TempDir(), newImage(t, 96<<20)
	agent, dev := startAgent(t, agentSpec{Image: image, UUID: id, Dir: dir, Kind: KindNBD, Connections: conns, Timeout: 2 * time.Second})
	mkfs(t, dev)
	mp := mountForTest(t, dev)
	sums := fill(t, mp, 40, 200<<10)

	// A writer that never stops: every write it sees acknowledged must be there at the end.
	stop := make(chan struct{})
	var acked atomic.Int64
	var writer sync.WaitGroup
	writer.Go(func() {
		f, err := os.Create(filepath.Join(mp, "log"))
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := fmt.Fprintf(f, "%08d\n", i); err != nil {
				t.Errorf("write %d: %v", i, err)
				return
			}
			if err := f.Sync(); err != nil {
				t.Errorf("fsync %d: %v", i, err)
				return
			}
			acked.Store(int64(i + 1))
		}
	})
	eventually(t, "the writer writes", func() bool { return acked.Load() > 3 })
	agent.kill()

	log := slog.New(slog.DiscardHandler)
	left, err := Stale(context.Background(), dir, log)
	if err != nil || len(left) != 1 || !left[0].Reattachable || left[0].Path != dev || len(left[0].Detached) != 0 {
		t.Fatalf("Stale = %+v, %v; want %s to be reattachable", left, err, dev)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	o := Options{VolumeUUID: id, RuntimeDir: dir, Kind: KindNBD, Timeout: 2 * time.Second, Logger: log}
	if _, err := Attach(context.Background(), fileDevice{f}, o); !errors.Is(err, ErrAttached) {
		t.Errorf("Attach of a device that waits for its agent: %v, want ErrAttached", err)
	}
	other := o
	other.VolumeUUID = uuid.NewString()
	if _, err := Reattach(context.Background(), fileDevice{f}, other); !errors.Is(err, ErrNotAttached) {
		t.Errorf("Reattach of another volume: %v, want ErrNotAttached", err)
	}
	if _, err := Reattach(context.Background(), newCountingDevice(1<<20), o); err == nil || errors.Is(err, ErrNotAttached) {
		t.Errorf("Reattach with a volume of another size: %v", err)
	}
	a, err := Reattach(context.Background(), fileDevice{f}, o)
	if err != nil {
		t.Fatal(err)
	}
	if a.Path() != dev {
		t.Errorf("reattached at %s, was at %s", a.Path(), dev)
	}
	at := acked.Load()
	eventually(t, "the writer goes on", func() bool { return acked.Load() > at+5 })
	close(stop)
	writer.Wait()
	unmount(t, mp)
	fsck(t, dev)
	closeAttachment(t, a, o)

	b := attachNBDForTest(t, fileDevice{f}, Options{VolumeUUID: id, RuntimeDir: dir, ReadOnly: true})
	mp = mountReadOnly(t, b.Path())
	verify(t, mp, sums)
	logged, err := os.ReadFile(filepath.Join(mp, "log"))
	if err != nil || int64(len(logged)) < acked.Load()*9 {
		t.Errorf("%d bytes of log (%v) for %d acknowledged writes", len(logged), err, acked.Load())
	}
	for i, line := range strings.Fields(string(logged)) {
		if line != fmt.Sprintf("%08d", i) {
			t.Fatalf("line %d of the log is %q", i, line)
		}
	}
	unmount(t, mp)
}

func mountReadOnly(t *testing.T, dev string) string {
	t.Helper()
	mp := t.TempDir()
	if err := unix.Mount(dev, mp, "ext4", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mp, unix.MNT_DETACH) })
	return mp
}

func TestKernelNBD_dropEndsWhatWaitsForADeadAgent(t *testing.T) {
	needNBD(t)
	id, dir, image := uuid.NewString(), t.TempDir(), newImage(t, 32<<20)
	agent, dev := startAgent(t, agentSpec{Image: image, UUID: id, Dir: dir, Kind: KindNBD, Connections: 2, Timeout: 2 * time.Second})
	f := openDirect(t, dev)
	buf := aligned(t, 4096)
	if _, err := f.WriteAt(buf, 0); err != nil {
		t.Fatal(err)
	}
	left := Leftover{VolumeUUID: id, Kind: KindNBD}
	if err := Drop(context.Background(), dir, left); err == nil {
		t.Error("dropped under a living agent")
	}
	agent.kill()
	read := make(chan error, 1)
	go func() { _, err := f.ReadAt(buf, 0); read <- err }()
	if err := Drop(context.Background(), dir, left); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-read:
		if err == nil {
			t.Error("a read was answered by nobody")
		}
	case <-time.After(60 * time.Second):
		t.Fatal("a read still waits")
	}
	f.Close()
	if _, err := os.Stat(runDir(dir, id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("runtime folder: %v", err)
	}
	eventually(t, "the device is free", func() bool { n, err := nbdOf(id); return err == nil && n < 0 })
}

func TestKernelNBD_abortEndsRequestsThatHang(t *testing.T) {
	dev := &stallDevice{countingDevice: newCountingDevice(1 << 20), release: make(chan struct{})}
	a := attachNBDForTest(t, dev, Options{Connections: 2})
	f := openDirect(t, a.Path())
	buf := aligned(t, 4096)
	dev.stalled.Store(true)
	done := make(chan error, 1)
	go func() { _, err := f.WriteAt(buf, 0); done <- err }()
	eventually(t, "the write arrives", func() bool { return dev.waiting.Load() > 0 })
	if err := a.Abort(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err == nil {
			t.Error("a write that nobody made was acknowledged")
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the write still hangs")
	}
	close(dev.release)
	f.Close()
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), "writes were lost") {
		t.Errorf("Close after Abort: %v, want word of lost writes", err)
	}
}

// TestServeTransmission_flushOnOneConnectionCoversTheOther needs no kernel: it speaks NBD to two connections of one
// attachment. (NBD protocol document: NBD_FLAG_CAN_MULTI_CONN.)
func TestServeTransmission_flushOnOneConnectionCoversTheOther(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(1 << 20)
	a, err := newKernelNBD(dev, Options{Name: "x", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var ends []*os.File
	var done sync.WaitGroup
	for range 2 {
		s, err := newNBDSocket()
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, os.NewFile(uintptr(s.kernel.Swap(-1)), "kernel end"))
		done.Go(func() {
			_ = a.run.server.ServeTransmission(a.run.ctx, s.server, a.export(s))
			s.close()
		})
	}
	request := func(end *os.File, cmd byte, payload []byte) {
		t.Helper()
		h := append([]byte{0x25, 0x60, 0x95, 0x13, 0, 0, 0, cmd}, make([]byte, 16)...)
		h = append(h, 0, 0, byte(len(payload)>>8), byte(len(payload)))
		if _, err := end.Write(append(h, payload...)); err != nil {
			t.Fatal(err)
		}
		reply := make([]byte, 16)
		if _, err := io.ReadFull(end, reply); err != nil || !bytes.Equal(reply[:8], []byte{0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0}) {
			t.Fatalf("reply % x, %v", reply, err)
		}
	}
	const write, flush = 1, 3
	request(ends[0], write, make([]byte, 4096))
	before := dev.syncs.Load()
	request(ends[1], flush, nil)
	if dev.syncs.Load() != before+1 {
		t.Error("FLUSH on a connection that wrote nothing did not sync what the other wrote")
	}
	for _, e := range ends {
		e.Close()
	}
	done.Wait()
}

func TestConnDevice_writeOfADeadConnectionIsNotMade(t *testing.T) {
	t.Parallel()
	dev := newCountingDevice(1 << 20)
	s, err := newNBDSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	d := &connDevice{Device: dev, order: new(writeOrder), dead: s.dead}
	if _, err := d.WriteAt(make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Shutdown(int(s.kernel.Load()), unix.SHUT_RDWR); err != nil { // as the kernel does when it gives up
		t.Fatal(err)
	}
	if _, err := d.WriteAt(make([]byte, 512), 0); !errors.Is(err, errConnectionDead) {
		t.Errorf("write: %v, want errConnectionDead", err)
	}
	if err := d.WriteZeroes(0, 512, false); !errors.Is(err, errConnectionDead) {
		t.Errorf("write zeroes: %v, want errConnectionDead", err)
	}
	if err := d.Discard(0, 512); !errors.Is(err, errConnectionDead) {
		t.Errorf("discard: %v, want errConnectionDead", err)
	}
	if n := dev.writes.Load(); n != 1 {
		t.Errorf("%d writes reached the device, want 1", n)
	}
}
