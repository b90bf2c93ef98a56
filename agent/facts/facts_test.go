package facts

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// fixture is a machine's folders.
func fixture(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const headline = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func machine(t *testing.T) string {
	return fixture(t, map[string]string{
		"etc/debian_version":            "12.11\n",
		"sys/class/dmi/id/product_uuid": "4c4c4544-0032-4410-8035-b2c04f4b5931\n",
		"sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": "\x06\x00\x00\x00\x01",
		"var/lib/dpkg/info/openssl.list":                                           "/.\n",
		"var/lib/dpkg/status":                                                      "Package: openssl\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.0.11-1~deb12u2\n",
		"etc/os-release":                                                           "# comment\nNAME=Debian\nID=debian\nVERSION_ID=\"12.7\"\nPRETTY_NAME=\"Debian \\\"12\\\" (bookworm)\"\n",
		"proc/sys/kernel/hostname":                                                 "web-1\n",
		"proc/sys/kernel/osrelease":                                                "6.1.0-56-cloud-amd64\n",
		"proc/net/tcp": headline +
			"   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n" + // 22 listening
			"   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n" + // 8080 listening
			"   2: 0100007F:A1B2 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 1 1\n", // a connection
		"proc/net/tcp6": headline +
			"   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1\n" +
			"   1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1\n", // 80
		"proc/net/udp": headline +
			"  10: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2\n" + // 68 bound
			"  11: 0100007F:9999 0100007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 1 2\n", // connected
		"proc/net/udp6": headline,
	})
}

func clock() time.Time { return time.Date(2026, 11, 22, 1, 2, 3, 0, time.FixedZone("CET", 3600)) }

func sources(t *testing.T) Sources {
	return Sources{Root: machine(t), Clock: clock, Machine: "x86_64", AgentVersion: "0.1.0", Location: "rack 7", UserData: "DataKey=MySecretKey",
		Provider: "Native", Device: &Device{MountPoint: "/mnt/secure", ReadOnly: true}}
}

func byName(e api.Evidence) map[api.FactName]api.Fact {
	out := map[api.FactName]api.Fact{}
	for _, f := range e.Facts {
		out[f.Name] = f
	}
	return out
}

func TestCollect_everyFactWithSourceTimeAndGrade(t *testing.T) {
	t.Parallel()
	e := Collect(context.Background(), sources(t), "nonce-1")
	if e.Nonce != "nonce-1" || !e.CollectedAt.Equal(clock()) || e.CollectedAt.Location() != time.UTC {
		t.Errorf("evidence of %v for %q", e.CollectedAt, e.Nonce)
	}
	want := map[api.FactName][]string{
		api.FactGuestOS: {runtime.GOOS}, api.FactArchitecture: {"64"}, api.FactHostName: {"web-1"}, api.FactKernelVersion: {"6.1.0-56-cloud-amd64"},
		api.FactOSVersion: {"12.7"}, api.FactOSName: {`Debian "12" (bookworm)`}, api.FactTCPPorts: {"22", "80", "8080"}, api.FactUDPPorts: {"68"},
		api.FactLocation: {"rack 7"}, api.FactUserData: {"DataKey=MySecretKey"}, api.FactAgentVersion: {"0.1.0"},
		api.FactMountPoint: {"/mnt/secure"}, api.FactAccessType: {ReadOnly}, api.FactSecureBoot: {"enabled"}, api.FactOSPatchLevel: {"12.11"}, api.FactHardwareUUID: {"4c4c4544-0032-4410-8035-b2c04f4b5931"},
		api.FactSecuritySoftware: {},
	}
	got := byName(e)
	want[api.FactOSUpdated] = got[api.FactOSUpdated].Values // the test's own file, just written
	if len(e.Facts) != len(want) || len(got) != len(want) || len(want[api.FactOSUpdated]) != 1 {
		t.Errorf("%d facts of %d names, want %d", len(e.Facts), len(got), len(want))
	}
	for name, values := range want {
		f := got[name]
		if !slices.Equal(f.Values, values) || f.Missing != "" {
			t.Errorf("%s is %q (missing %q), want %q", name, f.Values, f.Missing, values)
		}
		if f.Source == "" || f.Grade != api.GradeSelfReported || !f.At.Equal(clock()) || f.At.Location() != time.UTC {
			t.Errorf("%s has source %q, grade %q, time %v", name, f.Source, f.Grade, f.At)
		}
	}
	if s := got[api.FactLocation].Source; s != "provider Native" {
		t.Errorf("location is from %q", s)
	}
}

func TestCollect_missingFactSaysWhyAndHasNoValue(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		remove []string
		write  map[string]string
		change func(*Sources)
		fact   api.FactName
		why    string
	}{
		{name: "no host name", write: map[string]string{"proc/sys/kernel/hostname": "\n"}, fact: api.FactHostName, why: "empty"},
		{name: "no kernel version", remove: []string{"proc/sys/kernel/osrelease"}, fact: api.FactKernelVersion, why: "no such file"},
		{name: "a machine without SMBIOS", remove: []string{"sys/class/dmi/id/product_uuid"}, fact: api.FactHardwareUUID, why: "no such file"},
		{name: "rolling distribution", write: map[string]string{"etc/os-release": "ID=arch\nPRETTY_NAME=Arch\n"}, fact: api.FactOSVersion, why: "VERSION_ID"},
		{name: "no os-release", remove: []string{"etc/os-release"}, fact: api.FactOSName, why: "no such file"},
		{name: "endless os-release", write: map[string]string{"etc/os-release": strings.Repeat("#", 100_000)}, fact: api.FactOSName, why: "longer"},
		{name: "no TCP table", remove: []string{"proc/net/tcp"}, fact: api.FactTCPPorts, why: "no such file"},
		{name: "broken TCP table", write: map[string]string{"proc/net/tcp6": headline + "garbage\n"}, fact: api.FactTCPPorts, why: "fields"},
		{name: "port that is none", write: map[string]string{"proc/net/udp": headline + "0: 0:FFFFF 0:0 07\n"}, fact: api.FactUDPPorts, why: "port"},
		{name: "no location", change: func(s *Sources) { s.Location = "" }, fact: api.FactLocation, why: "configured"},
		{name: "no user data", change: func(s *Sources) { s.UserData = "" }, fact: api.FactUserData, why: "configured"},
		{name: "no version", change: func(s *Sources) { s.AgentVersion = "" }, fact: api.FactAgentVersion, why: "version"},
		{name: "no mount point", change: func(s *Sources) { s.Device.MountPoint = "" }, fact: api.FactMountPoint, why: "mount point"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := sources(t)
			for _, f := range tc.remove {
				if err := os.Remove(filepath.Join(s.Root, f)); err != nil {
					t.Fatal(err)
				}
			}
			for f, content := range tc.write {
				if err := os.WriteFile(filepath.Join(s.Root, f), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if tc.change != nil {
				tc.change(&s)
			}
			f := byName(Collect(context.Background(), s, ""))[tc.fact]
			if len(f.Values) != 0 || !strings.Contains(f.Missing, tc.why) {
				t.Errorf("%s is %q, missing because %q; want no value and a reason with %q", tc.fact, f.Values, f.Missing, tc.why)
			}
			if f.Values == nil {
				t.Error("values are null in JSON, not an empty list")
			}
		})
	}
}

func TestCollect_variants(t *testing.T) {
	t.Parallel()
	s := sources(t)
	s.Device = &Device{MountPoint: "/x"}
	if f := byName(Collect(context.Background(), s, ""))[api.FactAccessType]; !slices.Equal(f.Values, []string{ReadWrite}) {
		t.Errorf("access is %q", f.Values)
	}
	s.Device = nil
	if f, ok := byName(Collect(context.Background(), s, ""))[api.FactMountPoint]; ok {
		t.Errorf("evidence of the machine alone has a mount point: %+v", f)
	}
	for m, want := range map[string]string{"x86_64": "64", "aarch64": "64", "ppc64le": "64", "s390x": "64", "riscv64": "64", "armv8l": "64", "i686": "32", "armv7l": "32"} {
		s.Machine = m
		if f := byName(Collect(context.Background(), s, ""))[api.FactArchitecture]; !slices.Equal(f.Values, []string{want}) {
			t.Errorf("%s has %q bits, want %s", m, f.Values, want)
		}
	}
	if err := os.Rename(filepath.Join(s.Root, "etc"), filepath.Join(s.Root, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.Root, "usr/lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Root, "usr/lib/os-release"), []byte("VERSION_ID='9.4'\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.Root, "proc/net/tcp6")); err != nil {
		t.Fatal(err)
	}
	got := byName(Collect(context.Background(), s, ""))
	if f := got[api.FactOSVersion]; !slices.Equal(f.Values, []string{"9.4"}) {
		t.Errorf("version from /usr/lib is %q (%s)", f.Values, f.Missing)
	}
	if f := got[api.FactTCPPorts]; !slices.Equal(f.Values, []string{"22", "8080"}) {
		t.Errorf("without IPv6 the ports are %q (%s)", f.Values, f.Missing)
	}
}

func TestCollect_thisMachineSeesAPortThatIsOpenedAndClosed(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads procfs")
	}
	tcp, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp6", "[::1]:0")
	if err != nil {
		t.Skipf("needs IPv6 on loopback: %v", err)
	}
	defer udp.Close()
	tcpPort := strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port)
	udpPort := strconv.Itoa(udp.LocalAddr().(*net.UDPAddr).Port)
	got := byName(Collect(context.Background(), Sources{}, ""))
	if !slices.Contains(got[api.FactTCPPorts].Values, tcpPort) || !slices.Contains(got[api.FactUDPPorts].Values, udpPort) {
		t.Errorf("ports %v and %v lack %s and %s", got[api.FactTCPPorts], got[api.FactUDPPorts], tcpPort, udpPort)
	}
	for _, n := range []api.FactName{api.FactGuestOS, api.FactArchitecture, api.FactHostName, api.FactKernelVersion, api.FactOSName} {
		if len(got[n].Values) != 1 {
			t.Errorf("%s of this machine is %+v", n, got[n])
		}
	}
	tcp.Close()
	if f := byName(Collect(context.Background(), Sources{}, ""))[api.FactTCPPorts]; slices.Contains(f.Values, tcpPort) {
		t.Errorf("closed port %s is still listed", tcpPort)
	}
}

func TestCollect_endedContextGivesNoValues(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, f := range Collect(ctx, sources(t), "").Facts {
		if len(f.Values) != 0 || f.Missing == "" {
			t.Errorf("%s has %q", f.Name, f.Values)
		}
	}
}

func FuzzScanPorts(f *testing.F) {
	f.Add([]byte(headline + "   0: 00000000:0016 00000000:0000 0A 0:0\n"))
	f.Add([]byte(headline + "x"))
	f.Add([]byte("\n: : 0A 0A\n"))
	f.Fuzz(func(t *testing.T, table []byte) {
		found := map[uint16]bool{}
		err := scanPorts(context.Background(), bytes.NewReader(table), stateListen, found)
		if found[0] {
			t.Error("port 0 listens")
		}
		if lines := bytes.Count(table, []byte("\n")) + 1; err == nil && len(found) > lines {
			t.Errorf("%d ports in %d lines", len(found), lines)
		}
	})
}
