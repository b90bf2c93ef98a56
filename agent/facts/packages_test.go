package facts

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// of finds the fact of a subject.
func of(t *testing.T, e api.Evidence, name api.FactName, subject string) api.Fact {
	t.Helper()
	i := slices.IndexFunc(e.Facts, func(f api.Fact) bool { return f.Name == name && f.Subject == subject })
	if i < 0 {
		t.Fatalf("no fact %s of %q in %+v", name, subject, e.Facts)
	}
	return e.Facts[i]
}

const status = `Package: openssl
Status: install ok installed
Priority: optional
Architecture: amd64
Version: 3.0.11-1~deb12u2
Description: Secure Sockets Layer toolkit
 Version: 9.9.9
 .
 Package: not-a-package

Package: telnetd
Status: deinstall ok config-files
Architecture: amd64
Version: 0.17-44

Package: halfway
Status: install reinstreq half-installed
Architecture: all
Version: 1.0-1

Package: waiting
Status: install ok triggers-pending
Architecture: all
Version: 2:1.0-1

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.36-8
`

func TestPackages_ofDpkg(t *testing.T) {
	t.Parallel()
	s := Sources{Root: fixture(t, map[string]string{"var/lib/dpkg/status": status}), Clock: clock,
		Configured: Configured{Packages: []string{"openssl", "telnetd", "halfway", "waiting", "libc6", "libc6:i386", "nginx", "not-a-package"}}}
	e := Collect(context.Background(), s, "")
	for name, want := range map[string]struct {
		state    string
		versions []string
		missing  string
	}{
		"openssl":       {installed, []string{"3.0.11-1~deb12u2"}, ""},
		"telnetd":       {notInstalled, nil, "not installed"},
		"halfway":       {incomplete, nil, "not completely installed"},
		"waiting":       {installed, []string{"2:1.0-1"}, ""},
		"libc6":         {installed, []string{"2.36-9", "2.36-8"}, ""},
		"libc6:i386":    {installed, []string{"2.36-8"}, ""},
		"nginx":         {notInstalled, nil, "not installed"},
		"not-a-package": {notInstalled, nil, "not installed"},
	} {
		state, version := of(t, e, api.FactPackageState, name), of(t, e, api.FactPackageVersion, name)
		if !slices.Equal(state.Values, []string{want.state}) || state.Missing != "" || state.Source != "dpkg status" {
			t.Errorf("%s: state %+v, want %s", name, state, want.state)
		}
		if !slices.Equal(version.Values, want.versions) || (want.missing == "") != (version.Missing == "") || !strings.Contains(version.Missing, want.missing) {
			t.Errorf("%s: version %+v, want %v %q", name, version, want.versions, want.missing)
		}
	}
}

func program(t *testing.T, root, path, body string) {
	t.Helper()
	full := filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestPackages_ofRPM(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	program(t, root, "usr/bin/rpm", `
test "$1 $2" = "-qa --qf" || exit 9
case "$3 $4" in
"%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n openssl-libs") echo 1:3.0.7-27.el9 ;;
"%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n kernel") echo 0:5.14.0-427.el9; echo 0:5.14.0-503.el9 ;;
"%{INSTALLTIME}\n ") echo 1763000000; echo 1764000000; echo 1700000000 ;;
esac
`)
	e := Collect(context.Background(), Sources{Root: root, Clock: clock, Configured: Configured{Packages: []string{"openssl-libs", "kernel", "nginx"}}}, "")
	if f := of(t, e, api.FactPackageVersion, "openssl-libs"); !slices.Equal(f.Values, []string{"1:3.0.7-27.el9"}) || f.Source != "rpm -qa" {
		t.Errorf("%+v", f)
	}
	if f := of(t, e, api.FactPackageVersion, "kernel"); !slices.Equal(f.Values, []string{"5.14.0-427.el9", "5.14.0-503.el9"}) {
		t.Errorf("%+v", f)
	}
	if f := of(t, e, api.FactPackageState, "nginx"); !slices.Equal(f.Values, []string{notInstalled}) {
		t.Errorf("%+v", f)
	}
	if f := of(t, e, api.FactOSUpdated, ""); !slices.Equal(f.Values, []string{time.Unix(1764000000, 0).UTC().Format(time.RFC3339)}) {
		t.Errorf("%+v", f)
	}
	none := Collect(context.Background(), Sources{Root: t.TempDir(), Clock: clock, Configured: Configured{Packages: []string{"openssl"}}}, "")
	if f := of(t, none, api.FactPackageState, "openssl"); len(f.Values) != 0 || !strings.Contains(f.Missing, "neither dpkg nor rpm") {
		t.Errorf("without a package manager: %+v", f)
	}
}

// This machine's own dpkg is the judge.
func TestPackages_ofThisMachine(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/var/lib/dpkg/status"); err != nil {
		t.Skipf("needs dpkg: %v", err)
	}
	out, err := output(t.Context(), time.Minute, 4096, "/usr/bin/dpkg-query", "-W", "-f", "${Version}", "base-files")
	if err != nil {
		t.Skipf("needs dpkg-query: %v", err)
	}
	e := Collect(context.Background(), Sources{Configured: Configured{Packages: []string{"base-files"}}}, "")
	if f := of(t, e, api.FactPackageVersion, "base-files"); !slices.Equal(f.Values, []string{string(out)}) {
		t.Errorf("base-files is %+v, dpkg-query says %s", f, out)
	}
	if f := of(t, e, api.FactOSUpdated, ""); len(f.Values) != 1 {
		t.Errorf("last update: %+v", f)
	}
}

func FuzzScanStatus(f *testing.F) {
	f.Add([]byte(status))
	f.Add([]byte("Package: a\nStatus: x\n\n\n:\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := scanStatus(context.Background(), strings.NewReader(string(data)), []string{"openssl", "libc6:i386"})
		if err == nil && len(found) > 2 {
			t.Errorf("found %v", found)
		}
	})
}
