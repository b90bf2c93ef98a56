package xts

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What is committed must be what the generator writes, or a reader of _asm/ reviews code that does not run.
func TestAssembly_isWhatTheGeneratorWrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	generate := exec.Command("go", "run", ".", "-out", filepath.Join(dir, "xts_amd64.s"),
		"-stubs", filepath.Join(dir, "stubs_amd64.go"), "-pkg", "xts")
	generate.Dir = "_asm"
	if out, err := generate.CombinedOutput(); err != nil {
		t.Fatalf("run the generator: %v\n%s", err, out)
	}
	for _, name := range []string{"xts_amd64.s", "stubs_amd64.go"} {
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(body(want), body(have)) {
			t.Errorf("%s is not what _asm writes now; run go generate", name)
		}
	}
}

// body drops the first line, which holds the generator's arguments.
func body(file []byte) []byte {
	_, rest, _ := bytes.Cut(file, []byte("\n"))
	return rest
}

// A single instruction in legacy SSE encoding among AVX code costs a state transition, up to 20 % on short sectors.
func TestAssembly_hasNoLegacySSE(t *testing.T) {
	t.Parallel()
	code, err := os.ReadFile("xts_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	vectors := 0
	for line := range strings.Lines(string(code)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(line, "\t") {
			continue
		}
		touches := false
		for _, operand := range fields[1:] {
			operand = strings.Trim(operand, ",")
			touches = touches || len(operand) > 1 && strings.ContainsAny(operand[:1], "XYZ") && operand[1] >= '0' && operand[1] <= '9'
		}
		if !touches {
			continue
		}
		vectors++
		if !strings.HasPrefix(fields[0], "V") {
			t.Errorf("legacy encoding: %s", strings.TrimSpace(line))
		}
	}
	if vectors < 1000 {
		t.Fatalf("found only %d vector instructions; the check looks at the wrong file", vectors)
	}
}
