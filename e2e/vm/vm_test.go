package vm

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// suites are the test programs that run in the guest. least is how many tests must pass there without being skipped, so
// that a guest that lacks what they need does not pass for one that has it.
var suites = []struct {
	name, pkg, run, skip string
	least                int
}{
	// Left out is what takes long here and proves nothing more about this kernel than the tests under load do.
	{"attach", "keyward/agent/internal/attach", ".", "everyByteGoesThrough|fileSystemKeepsItsFiles|agentIsKilledAndReattaches/1_", 50},
	{"guest", "keyward/e2e/vm/guest", ".", "", 16},
	{"daemon", "keyward/agent/internal/daemon", "TestUpgrade|TestAgent_killed", "", 4},
	{"unlock", "keyward/agent/internal/unlock", "TestOpen_aRAIDSet", "", 2},
	{"stock", "keyward/agent/internal/cli", "TestExportedKey_printedCommandsOpenItWithoutUs", "", 3},
}

// guestRun picks tests in the guest, for whoever works on one.
var guestRun = flag.String("guest.run", "", "run only the guest's tests that match this regular expression")

// compile builds for the guest, which has no libraries to link with. what is "build", or "test -c" for a test program.
func compile(t *testing.T, out, what, pkg string) {
	t.Helper()
	cmd := exec.Command("go", append(strings.Fields(what), "-o", out, pkg)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go %s %s: %v\n%s", what, pkg, err, b)
	}
}

// verdict is a line of go test -v about a test or subtest.
var verdict = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+)`)

func TestGuest(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a virtual machine, which takes a minute")
	}
	kernel, err := FindKernel()
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m := Machine{Kernel: kernel, Init: filepath.Join(dir, "init"),
		Modules: []string{"nbd", "loop", "fuse", "xfs", "dm-mod", "dm-crypt", "aesni-intel", "xts", "ecb", "essiv", "authenc",
			"crc32c_generic", "crc32c-intel", "md-mod", "raid0", "sunrpc", "nfsd", "nfsv4"},
		Tools:   []string{"mkfs.ext4", "e2fsck", "debugfs", "mkfs.xfs", "xfs_repair", "cryptsetup", "dmsetup", "mdadm", "fio"},
		Scratch: 3 << 30}
	compile(t, m.Init, "build", "keyward/e2e/vm/guest")
	for _, s := range suites {
		if *guestRun != "" {
			s.run, s.skip = *guestRun, ""
		}
		file := filepath.Join(dir, s.name)
		compile(t, file, "test -c", s.pkg)
		m.Programs = append(m.Programs, Program{Name: s.name, Path: "/tests/" + s.name, File: file,
			Args: []string{"-test.v", "-test.run", s.run, "-test.skip", s.skip, "-test.timeout", "900s", "-test.parallel", "4"}})
	}
	// Three minutes on a quiet machine; others may need it more urgently.
	patience := 18 * time.Minute
	if end, ok := t.Deadline(); ok {
		patience = min(patience, time.Until(end)-30*time.Second)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := m.Run(ctx, follow(t))
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	t.Logf("first line after %v, off after %v", r.Boot.Round(time.Millisecond), r.Total.Round(time.Millisecond))
	if err != nil {
		t.Errorf("%v\nconsole: %s", err, tail(r.Console, 12000))
	}
	report(t, r)
}

// follow writes the console to the file that KEYWARD_VM_CONSOLE names, for whoever looks into a failure.
func follow(t *testing.T) func(string) {
	t.Helper()
	name := os.Getenv("KEYWARD_VM_CONSOLE")
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return func(line string) { fmt.Fprintln(f, line) }
}

// report shows every test of the guest as a subtest here.
func report(t *testing.T, r Result) {
	passed := map[string]int{}
	current := 0
	lines := strings.Split(r.Console, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, mark+"program") && current < len(suites)-1 {
			current++
			continue
		}
		v := verdict.FindStringSubmatch(line)
		if v == nil {
			continue
		}
		suite := suites[current].name
		if v[1] == "PASS" {
			passed[suite]++
		}
		t.Run(suite+"/"+v[2], func(t *testing.T) {
			switch v[1] {
			case "FAIL":
				t.Errorf("failed in the guest:\n%s", strings.Join(lines[max(0, i-30):min(len(lines), i+30)], "\n"))
			case "SKIP":
				t.Skip("skipped in the guest")
			}
		})
	}
	for _, s := range suites {
		if !r.Passed[s.name] {
			t.Errorf("program %s failed or did not run; console: %s", s.name, tail(r.Console, 6000))
		}
		if passed[s.name] < s.least && *guestRun == "" {
			t.Errorf("%d tests of %s passed in the guest, at least %d are expected", passed[s.name], s.name, s.least)
		}
	}
	for _, l := range r.Leftovers {
		t.Errorf("left behind in the guest: %s", l)
	}
}
