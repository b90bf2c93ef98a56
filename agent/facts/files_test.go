package facts

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"keyward/broker/api"
)

func TestDigester_equalsTheStandardLibrary(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data")
		data = bytes.Repeat(data, rapid.IntRange(1, 40).Draw(t, "times"))
		cut := rapid.IntRange(0, len(data)).Draw(t, "cut")
		h := digesterFor(false)()
		h.Write(data[:cut])
		h.Write(data[cut:])
		if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
			t.Fatalf("%d bytes: %x, want %x", len(data), h.Sum(nil), want)
		}
	})
}

func TestDigester_fipsModeTakesTheStandardLibrary(t *testing.T) {
	t.Parallel()
	if got, want := reflect.TypeOf(digesterFor(true)()), reflect.TypeOf(sha256.New()); got != want {
		t.Errorf("in FIPS mode a %s hashes, want %s", got, want)
	}
}

func TestFiles_digestOrReason(t *testing.T) {
	t.Parallel()
	root := fixture(t, map[string]string{"etc/motd": "hello\n"})
	if err := os.Mkdir(filepath.Join(root, "etc/folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(root, "etc/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("hello\n"))
	s := Sources{Root: root, Clock: clock, Configured: Configured{Files: []string{"/etc/motd", "/etc/none", "/etc/folder", "/etc/pipe"}}}
	e := Collect(context.Background(), s, "n")
	if f := of(t, e, api.FactFileSHA256, "/etc/motd"); !slices.Equal(f.Values, []string{hex.EncodeToString(sum[:])}) || f.Grade != api.GradeSelfReported {
		t.Errorf("%+v", f)
	}
	for path, why := range map[string]string{"/etc/none": "no such file", "/etc/folder": "not a regular file", "/etc/pipe": "not a regular file"} {
		if f := of(t, e, api.FactFileSHA256, path); len(f.Values) != 0 || !strings.Contains(f.Missing, why) {
			t.Errorf("%s: %+v, want %q", path, f, why)
		}
	}
}

func TestScripts_resultOrReason(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c := Configured{}
	add := func(name, body string, number bool) {
		program(t, root, "opt/"+name, body)
		c.Scripts = append(c.Scripts, Script{Name: name, Path: "/opt/" + name, Number: number, Timeout: commandTime})
	}
	add("text", "echo '  CIS level 2 '\n", false)
	add("lines", "printf 'a\\nb\\n'\n", false)
	add("number", "echo -2.50\n", true)
	add("word", "echo many\n", true)
	add("exponent", "echo 1e9\n", true)
	add("silent", "exit 0\n", false)
	add("binary", "printf '\\001\\377'\n", false)
	add("colourful", "printf '\\033[31mred\\377' >&2; exit 4\n", false)
	add("failing", "echo fine; echo no disk >&2; exit 4\n", false)
	add("open", "echo x\n", false)
	if err := os.Chmod(filepath.Join(root, "opt/open"), 0o777); err != nil {
		t.Fatal(err)
	}
	c.Scripts = append(c.Scripts, Script{Name: "absent", Path: "/opt/absent", Timeout: commandTime})
	e := Collect(context.Background(), Sources{Root: root, Clock: clock, Configured: c}, "")
	for name, want := range map[string]string{"text": "CIS level 2", "lines": "a\nb"} {
		if f := of(t, e, api.FactScriptText, name); !slices.Equal(f.Values, []string{want}) || f.Source != "script /opt/"+name {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if f := of(t, e, api.FactScriptNumber, "number"); !slices.Equal(f.Values, []string{"-2.50"}) {
		t.Errorf("%+v", f)
	}
	for name, why := range map[string]string{"silent": "printed nothing", "binary": "no plain text", "failing": "exit status 4 no disk", "colourful": "exit status 4 ?[31mred?",
		"open": "chmod go-w", "absent": "no such file"} {
		if f := of(t, e, api.FactScriptText, name); len(f.Values) != 0 || !strings.Contains(f.Missing, why) {
			t.Errorf("%s: %+v, want %q", name, f, why)
		}
	}
	for _, name := range []string{"word", "exponent"} {
		if f := of(t, e, api.FactScriptNumber, name); len(f.Values) != 0 || !strings.Contains(f.Missing, "no number") {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func FuzzScriptResult(f *testing.F) {
	f.Add("17\n", true)
	f.Add("text", false)
	f.Fuzz(func(t *testing.T, out string, number bool) {
		if values, err := (Script{Number: number}).result(out); err == nil && (len(values) != 1 || values[0] == "") {
			t.Errorf("%q gives %q", out, values)
		}
	})
}
