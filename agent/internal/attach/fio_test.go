package attach

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fioLoad is fio writing at random and reading back what it wrote, until it is told to stop.
type fioLoad struct {
	t   *testing.T
	cmd *exec.Cmd
	out bytes.Buffer
}

// fio starts a load on a file in dir that lasts for the given time. It stops at the first byte that differs and at the
// first error, which its result then says.
func fio(t *testing.T, dir string, lasts time.Duration) *fioLoad {
	t.Helper()
	path, err := exec.LookPath("fio")
	if err != nil {
		t.Skip("needs fio")
	}
	l := &fioLoad{t: t}
	l.cmd = exec.Command(path, "--name=load", "--directory="+dir, "--size=16m", "--rw=randwrite", "--bsrange=4k-128k", "--bs_unaligned=0",
		"--blockalign=4k", "--direct=1", "--ioengine=libaio", "--iodepth=8", "--fsync=32", "--verify=crc32c", "--verify_fatal=1",
		"--verify_backlog=128", "--time_based", fmt.Sprintf("--runtime=%d", int(lasts.Seconds())), "--randrepeat=0")
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.out
	l.cmd.Dir = t.TempDir() // where it keeps the state of the verification
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.cmd.Process.Kill(); _ = l.cmd.Wait() })
	return l
}

// running fails the test when the load has ended early, for example by an error.
func (l *fioLoad) running() {
	l.t.Helper()
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, l.cmd.Process.Pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if err != nil || info.Signo == int32(syscall.SIGCHLD) {
		l.wait()
		l.t.Fatalf("fio ended before it should: %s", &l.out)
	}
}

// wait returns when the load has ended without an error.
func (l *fioLoad) wait() {
	l.t.Helper()
	if err := l.cmd.Wait(); err != nil {
		l.t.Fatalf("fio: %v\n%s", err, &l.out)
	}
	if !strings.Contains(l.out.String(), "err= 0") {
		l.t.Fatalf("fio: %s", &l.out)
	}
}

// kernelLog is what the kernel says from now on.
type kernelLog struct {
	t *testing.T
	f *os.File
}

func followKernelLog(t *testing.T) *kernelLog {
	t.Helper()
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "/dev/kmsg")
	t.Cleanup(func() { f.Close() })
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		t.Fatal(err)
	}
	return &kernelLog{t, f}
}

// never fails the test when the kernel has said one of the words.
func (k *kernelLog) never(words ...string) {
	k.t.Helper()
	buf := make([]byte, 8192)
	for {
		n, err := unix.Read(int(k.f.Fd()), buf) // one record a call
		if err == unix.EPIPE {
			continue // some were overwritten
		}
		if err != nil || n <= 0 {
			return
		}
		for _, w := range words {
			if strings.Contains(string(buf[:n]), w) {
				k.t.Errorf("the kernel says: %s", buf[:n])
			}
		}
	}
}

// ioErrors are words of the kernel that no file system of ours may cause.
var ioErrors = []string{"I/O error", "EXT4-fs error", "metadata I/O error", "Aborting journal", "lost async page write", "lost sync page write"}
