package xts

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The arm64 kernel runs the same tests as the others, on an emulated processor.
func TestARM64_kernelUnderQemu(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || runtime.GOARCH == "arm64" {
		t.Skip("an emulated arm64 is tested on Linux on another processor")
	}
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("no emulator for arm64: apt-get install qemu-user-static")
	}
	binary := filepath.Join(t.TempDir(), "xts.test")
	build := exec.Command("go", "test", "-c", "-o", binary, ".")
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build for arm64: %v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), qemu, binary, "-test.v", "-test.short", "-test.run",
		"^(TestKernels_|TestSelfTest_|TestVectors_published|TestEncryptSectors_(agreesWithXCrypto|panics))")
	// The emulator loses signals to threads, and a program that waits for its own preemption then stands still.
	run.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "GOGC=off")
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("tests on arm64: %v\n%s", err, out)
	}
	for _, name := range []string{"TestKernels_armv8IsUsed", "TestVectors_publishedOnesAgree", "TestEncryptSectors_agreesWithXCrypto"} {
		if !strings.Contains(string(out), "--- PASS: "+name) {
			t.Errorf("%s did not run:\n%s", name, out)
		}
	}
}
