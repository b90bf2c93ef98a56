package sector

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// generators are the commands in _asm, the package they write for and its files.
var generators = []struct {
	command, folder, asm, stubs string
	vectors                     int // amd64: at least so many vector instructions
}{
	{"aeskey", "../aeskey", "aeskey_amd64.s", "stubs_amd64.go", 10},
	{"xts", "../../xts", "xts_amd64.s", "stubs_amd64.go", 1000},
	{"xtsarm64", "../../xts", "xts_arm64.s", "stubs_arm64.go", 0},
	{"essiv", "../../essiv", "essiv_amd64.s", "stubs_amd64.go", 1000},
}

// What is committed must be what the generator writes, or a reader of _asm/ reviews code that does not run.
func TestAssembly_isWhatTheGeneratorWrites(t *testing.T) {
	t.Parallel()
	for _, g := range generators {
		dir := t.TempDir()
		generate := exec.Command("go", "run", "./"+g.command, "-out", filepath.Join(dir, g.asm),
			"-stubs", filepath.Join(dir, g.stubs), "-pkg", filepath.Base(g.folder))
		generate.Dir = "../_asm"
		if out, err := generate.CombinedOutput(); err != nil {
			t.Fatalf("run the generator %s: %v\n%s", g.command, err, out)
		}
		for _, name := range []string{g.asm, g.stubs} {
			want, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			have, err := os.ReadFile(filepath.Join(g.folder, name))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(body(want), body(have)) {
				t.Errorf("%s/%s is not what _asm/%s writes now; run go generate", g.folder, name, g.command)
			}
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
	for _, g := range generators {
		if g.vectors == 0 {
			continue
		}
		code, err := os.ReadFile(filepath.Join(g.folder, g.asm))
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
				t.Errorf("%s, legacy encoding: %s", g.command, strings.TrimSpace(line))
			}
		}
		if vectors < g.vectors {
			t.Errorf("%s: found only %d vector instructions; the check looks at the wrong file", g.command, vectors)
		}
	}
}
