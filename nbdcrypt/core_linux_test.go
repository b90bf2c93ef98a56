package nbdcrypt

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/internal/sector/sectortest"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/keymem/memsearch"
	"keyward/nbdcrypt/luks2"
)

// What a process with a volume holds when its memory is taken.
const (
	stageEnv    = "KEYWARD_TEST_STAGE"
	cipherEnv   = "KEYWARD_TEST_CIPHER"
	stageOpen   = "open"
	stageGone   = "suspended"
	stageClosed = "closed"
	canaryLen   = 32
)

// Neither the volume key nor any round key is in a dump of the process: not by gdb, not by the kernel when it aborts;
// not while the volume is open, and not in the live memory either once it is suspended or closed.
func TestCoreDump_holdsNoKey(t *testing.T) {
	if os.Getenv(stageEnv) != "" {
		holdVolume()
	}
	for _, cipher := range []string{luks2.CipherXTS, luks2.CipherESSIV} {
		for _, stage := range []string{stageOpen, stageGone, stageClosed} {
			t.Run(cipher+" "+stage, func(t *testing.T) { dumpAt(t, cipher, stage) })
		}
	}
}

func dumpAt(t *testing.T, cipher, stage string) {
	raw, canary := make([]byte, 64), make([]byte, canaryLen)
	if cipher == luks2.CipherESSIV {
		raw = raw[:32]
	}
	rand.Read(raw)
	rand.Read(canary)
	patterns := sectortest.RoundKeys(t, raw[:32])
	if cipher == luks2.CipherXTS {
		patterns = append(patterns, sectortest.RoundKeys(t, raw[32:])...)
	}
	there := memsearch.NewPattern(canary)

	folder := t.TempDir()
	child := exec.Command(os.Args[0], "-test.run=^TestCoreDump_holdsNoKey$", "-test.count=1")
	child.Dir = folder
	child.Env = append(os.Environ(), stageEnv+"="+stage, cipherEnv+"="+cipher, "GOTRACEBACK=crash")
	child.Stdin = bytes.NewReader(append(append([]byte(nil), canary...), raw...))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready ") {
		t.Fatalf("the child says %q: %v", line, err)
	}
	hidden := strings.TrimSpace(line) == "ready "+keymem.MemfdSecret
	pid := child.Process.Pid

	if hidden || stage != stageOpen {
		if found, err := memsearch.Search(pid, there); err != nil {
			t.Logf("the live memory is not searched: %v", err)
		} else if len(found) == 0 {
			t.Error("the search does not find in live memory what is there")
		}
		if found, err := memsearch.Search(pid, patterns...); err == nil && len(found) > 0 {
			t.Errorf("live memory holds a round key: %q", found)
		}
	}
	if gcore, err := exec.LookPath("gcore"); err != nil {
		t.Log("no gcore: apt-get install gdb")
	} else if text, err := exec.Command(gcore, "-o", filepath.Join(folder, "gdb"), fmt.Sprint(pid)).CombinedOutput(); err != nil {
		t.Errorf("gcore: %v\n%s", err, text)
	} else {
		searchCore(t, filepath.Join(folder, fmt.Sprintf("gdb.%d", pid)), there, patterns)
	}
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil || bytes.ContainsAny(pattern, "|/") {
		t.Skipf("the kernel's core dumps go to %q, out of this test's reach", bytes.TrimSpace(pattern))
	}
	if err := child.Process.Signal(unix.SIGABRT); err != nil {
		t.Fatal(err)
	}
	err = child.Wait()
	if status, ok := child.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.CoreDump() {
		t.Fatalf("the child left no core dump: %v", err)
	}
	cores, _ := filepath.Glob(filepath.Join(folder, strings.TrimSpace(string(pattern))+"*"))
	if len(cores) != 1 {
		t.Fatalf("core dumps %q by the pattern %q", cores, pattern)
	}
	searchCore(t, cores[0], there, patterns)
}

// searchCore checks that a dump holds what is in ordinary memory, and no round key.
func searchCore(t *testing.T, path string, there memsearch.Pattern, keys []memsearch.Pattern) {
	t.Helper()
	if found, err := memsearch.SearchFile(path, there); err != nil || !found {
		t.Errorf("%s: what is in ordinary memory is not found (%v): the search would find no key either", filepath.Base(path), err)
	}
	if found, err := memsearch.SearchFile(path, keys...); err != nil || found {
		t.Errorf("%s: holds a round key (%v)", filepath.Base(path), err)
	}
}

// holdVolume is the child: it brings a volume to a stage and waits for its end. The agent forbids dumps; here they are
// allowed on purpose.
func holdVolume() {
	fail := func(err error) {
		if err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
	}
	fail(unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}))
	fail(unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	canary := make([]byte, canaryLen)
	_, err := io.ReadFull(os.Stdin, canary)
	fail(err)
	p := luks2.Params{Device: "d", Account: "a", Broker: "b", Cipher: os.Getenv(cipherEnv), KeyBits: 256}
	raw := make([]byte, luks2.Record{Cipher: p.Cipher, KeyBits: 256}.KeyLen())
	_, err = io.ReadFull(os.Stdin, raw)
	fail(err)
	key, err := keymem.FromBytes(raw)
	fail(err)
	dev := blockdev.NewMemory(luks2.DataOffset + payload)
	rec, err := luks2.Format(dev, p, key)
	fail(err)
	spare, err := key.Clone()
	fail(err)
	v, err := Open(dev, rec, key, Options{})
	fail(err)
	work := func() {
		for start := time.Now(); time.Since(start) < 50*time.Millisecond; {
			fail(v.WriteZeroes(0, payload, false))
			_, err := v.ReadAt(make([]byte, 100_000), 77)
			fail(err)
		}
	}
	work()
	protection := v.Protection()
	fail(v.Suspend())
	fail(v.Resume(spare))
	work()
	switch os.Getenv(stageEnv) {
	case stageGone:
		fail(v.Suspend())
	case stageClosed:
		fail(v.Close())
	case stageOpen:
		// A signal may have caught the cipher at work; the agent runs without those. Wiping any key clears its traces.
		other, err := keymem.New(1)
		fail(err)
		other.Wipe()
	}
	fmt.Println("ready", protection)
	time.Sleep(time.Hour)
	fmt.Println(canary, v.Status())
}
