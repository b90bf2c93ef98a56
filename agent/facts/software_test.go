package facts

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keyward/broker/api"
)

// health is what mdatp prints: keys and shapes as Microsoft documents them and as its versions differ.
const health = `ATTENTION: a warning that is no part of the report
{
  "appVersion": "101.25042.0000",
  "definitionsStatus": {"$type": "upToDate"},
  "definitionsUpdated": "Nov 21, 2026 at 11:02:03 PM",
  "definitionsUpdatedMinutesAgo": "60",
  "definitionsVersion": "1.429.201.0",
  "engineVersion": "1.1.25040.2",
  "healthy": true,
  "realTimeProtectionEnabled": {"$type": "managed", "value": true}
}
`

// components is what dsa_query prints; the numbers of patterns differ between machines.
const components = `Component.AM.cap.realtime: true
Component.AM.driverOffline: false
Component.AM.mode: on
Component.AM.scan.Realtime: 1
Component.AM.version.engine.ATSE: 21.600.1005
Component.AM.version.pattern.1.name: Trusted Certificate Authorities Pattern
Component.AM.version.pattern.1.version: 1.00007.00
Component.AM.version.pattern.4.name: Smart Scan Agent Pattern
Component.AM.version.pattern.4.version: 18.489.00
Component.CORE.version: 20.0.1
`

const tmsplx = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE ScanPartition SYSTEM "tmsplx.dtd">
<ScanPartition><Group Name="Scan"><P Name="RealtimeScan" Value="3"/></Group>
<Group Name="ActiveUpdate"><P Name="EngineVersion" Value="12.000.1008"/><P Name="PatternVersion" Value="16.259.00"/></Group></ScanPartition>
`

func TestSoftware_whatEachProductSays(t *testing.T) {
	t.Parallel()
	hourAgo := clock().Add(-time.Hour).UTC().Format(time.RFC3339)
	type says map[api.FactName]string // "-" for a fact that must be missing
	for name, c := range map[string]struct {
		files    map[string]string
		programs map[string]string
		product  string
		want     says
	}{
		"Defender": {programs: map[string]string{"usr/bin/mdatp": `test "$*" = "health --output json" && cat <<'END'` + "\n" + health + "END\n"}, product: api.ProductDefender,
			want: says{api.FactSecurityVersion: "101.25042.0000", api.FactSecurityState: running, api.FactAVEngine: "1.1.25040.2", api.FactAVPattern: "1.429.201.0",
				api.FactAVPatternDate: hourAgo, api.FactAVRealTime: on}},
		"Defender with plain values, unhealthy": {programs: map[string]string{
			"opt/microsoft/mdatp/sbin/wdavdaemonclient": `echo '{"healthy":false,"appVersion":"1.0","definitionsUpdatedMinutesAgo":60,"realTimeProtectionEnabled":false}'` + "\n"},
			product: api.ProductDefender,
			want:    says{api.FactSecurityVersion: "1.0", api.FactSecurityState: impaired, api.FactAVEngine: "-", api.FactAVPattern: "-", api.FactAVPatternDate: hourAgo, api.FactAVRealTime: off}},
		"Defender that does not run": {programs: map[string]string{"usr/bin/mdatp": "echo 'Could not connect to the daemon' >&2; exit 1\n"}, product: api.ProductDefender,
			want: says{api.FactSecurityVersion: "-", api.FactSecurityState: stopped, api.FactAVEngine: "-", api.FactAVRealTime: "-"}},
		"Defender that talks nonsense": {programs: map[string]string{"usr/bin/mdatp": `echo '{"appVersion":"<script>"}'` + "\n"}, product: api.ProductDefender,
			want: says{api.FactSecurityVersion: "-", api.FactSecurityState: impaired}},
		"Deep Security": {programs: map[string]string{"opt/ds_agent/dsa_query": `test "$*" = "-c GetComponentInfo" && cat <<'END'` + "\n" + components + "END\n"}, product: api.ProductDeepSecurity,
			want: says{api.FactSecurityVersion: "20.0.1", api.FactSecurityState: running, api.FactAVEngine: "21.600.1005", api.FactAVPattern: "18.489.00", api.FactAVPatternDate: "-", api.FactAVRealTime: on}},
		"Deep Security without anti-malware": {programs: map[string]string{"opt/ds_agent/dsa_query": "echo 'Component.CORE.version: 20.0.1'; echo 'Component.AM.mode: off'; echo 'Component.AM.driverOffline: true'\n"},
			product: api.ProductDeepSecurity, want: says{api.FactSecurityState: impaired, api.FactAVEngine: "-", api.FactAVPattern: "-", api.FactAVRealTime: off}},
		"Deep Security that is stopped": {files: map[string]string{"opt/ds_agent/ds_agent": ""}, programs: map[string]string{"opt/ds_agent/dsa_query": "exit 1\n"},
			product: api.ProductDeepSecurity, want: says{api.FactSecurityVersion: "-", api.FactSecurityState: stopped}},
		"ServerProtect": {files: map[string]string{splxConfiguration: tmsplx, "proc/77/comm": "vsapiapp\n"}, product: api.ProductServerProtect,
			want: says{api.FactSecurityState: running, api.FactAVEngine: "12.000.1008", api.FactAVPattern: "16.259.00", api.FactAVRealTime: on, api.FactSecurityVersion: "-"}},
		"ServerProtect that is stopped": {files: map[string]string{splxConfiguration: tmsplx}, product: api.ProductServerProtect,
			want: says{api.FactSecurityState: stopped, api.FactAVRealTime: off}},
		"Wazuh": {files: map[string]string{"var/ossec/bin/wazuh-control": "", "var/ossec/VERSION.json": `{"version":"4.12.0","stage":"rc1"}`, "var/ossec/var/run/wazuh-agentd-812.pid": "812\n",
			"proc/812/comm": "wazuh-agentd\n", "var/ossec/var/run/wazuh-agentd.state": "# State file\nstatus='connected'\nlast_keepalive='2026-11-22 01:02:03'\n"},
			product: api.ProductWazuh, want: says{api.FactSecurityVersion: "4.12.0", api.FactSecurityState: running}},
		"Wazuh without its manager": {files: map[string]string{"var/ossec/VERSION.json": `{"version":"4.12.0"}`, "var/ossec/bin/wazuh-agentd": "", "var/ossec/var/run/wazuh-agentd-812.pid": "812\n",
			"proc/812/comm": "wazuh-agentd\n", "var/ossec/var/run/wazuh-agentd.state": "status='pending'\n"}, product: api.ProductWazuh, want: says{api.FactSecurityState: impaired}},
		"Wazuh that was killed": {files: map[string]string{"var/ossec/bin/wazuh-agentd": "", "var/ossec/var/run/wazuh-agentd-812.pid": "812\n", "proc/812/comm": "sshd\n",
			"var/ossec/var/run/wazuh-agentd.state": "status='connected'\n"}, product: api.ProductWazuh, want: says{api.FactSecurityVersion: "-", api.FactSecurityState: stopped}},
		"Wazuh that tells its version itself": {programs: map[string]string{"var/ossec/bin/wazuh-control": `test "$*" = "info -v" && echo v4.7.2` + "\n"}, product: api.ProductWazuh,
			want: says{api.FactSecurityVersion: "4.7.2", api.FactSecurityState: stopped}},
		"Wazuh before 4.2": {files: map[string]string{"etc/ossec-init.conf": "DIRECTORY=\"/var/ossec\"\nNAME=\"Wazuh\"\nVERSION=\"v3.13.1\"\n", "var/ossec/bin/ossec-agentd": "",
			"var/ossec/var/run/ossec-agentd-9.pid": "9", "proc/9/comm": "ossec-agentd\n", "var/ossec/var/run/ossec-agentd.state": "status='connected'\n"},
			product: api.ProductWazuh, want: says{api.FactSecurityVersion: "3.13.1", api.FactSecurityState: running}},
		"OSSEC": {files: map[string]string{"etc/ossec-init.conf": "VERSION=\"v2.5.1\"\n", "var/ossec/bin/ossec-agentd": "", "var/ossec/var/run/ossec-agentd-9.pid": "9", "proc/9/comm": "ossec-agentd\n"},
			product: api.ProductOSSEC, want: says{api.FactSecurityVersion: "2.5.1", api.FactSecurityState: running}},
		"ClamAV without its daemon": {files: map[string]string{"usr/bin/clamscan": ""}, product: api.ProductClamAV,
			want: says{api.FactSecurityVersion: "-", api.FactSecurityState: stopped, api.FactAVEngine: "-", api.FactAVPattern: "-", api.FactAVRealTime: off}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := fixture(t, c.files)
			for path, body := range c.programs {
				program(t, root, path, body)
			}
			e := Collect(context.Background(), Sources{Root: root, Clock: clock}, "")
			if f := of(t, e, api.FactSecuritySoftware, ""); !slices.Equal(f.Values, []string{c.product}) {
				t.Fatalf("installed are %q (%s), want %s", f.Values, f.Missing, c.product)
			}
			for name, want := range c.want {
				f := of(t, e, name, c.product)
				if want == "-" && (len(f.Values) != 0 || f.Missing == "") || want != "-" && !slices.Equal(f.Values, []string{want}) {
					t.Errorf("%s is %q (%s), want %s", name, f.Values, f.Missing, want)
				}
			}
		})
	}
}

func TestSoftware_noneIsAnAnswer(t *testing.T) {
	t.Parallel()
	e := Collect(context.Background(), Sources{Root: t.TempDir(), Clock: clock}, "")
	if f := of(t, e, api.FactSecuritySoftware, ""); len(f.Values) != 0 || f.Missing != "" {
		t.Errorf("%+v", f)
	}
	if i := slices.IndexFunc(e.Facts, func(f api.Fact) bool { return f.Subject != "" }); i >= 0 {
		t.Errorf("a fact of a product that is not there: %+v", e.Facts[i])
	}
}

// Several products are asked at once, and each answers for itself.
func TestSoftware_twoProducts(t *testing.T) {
	t.Parallel()
	root := fixture(t, map[string]string{"etc/ossec-init.conf": "VERSION=\"v2.5.1\"\n", "var/ossec/bin/ossec-agentd": "", splxConfiguration: tmsplx})
	e := Collect(context.Background(), Sources{Root: root, Clock: clock}, "")
	if f := of(t, e, api.FactSecuritySoftware, ""); !slices.Equal(f.Values, []string{api.ProductServerProtect, api.ProductOSSEC}) {
		t.Errorf("%+v", f)
	}
	if f := of(t, e, api.FactSecurityVersion, api.ProductOSSEC); !slices.Equal(f.Values, []string{"2.5.1"}) {
		t.Errorf("%+v", f)
	}
}

func TestClamd_answers(t *testing.T) {
	t.Parallel()
	at := time.Date(2025, 9, 8, 8, 30, 12, 0, time.Local).UTC().Format(time.RFC3339)
	for reply, want := range map[string]struct{ state, engine, pattern, date string }{
		"ClamAV 1.4.6/27400/Mon Sep  8 08:30:12 2025\x00": {running, "1.4.6", "27400", at},
		"ClamAV 1.4.6\x00":                    {running, "1.4.6", "", ""},
		"ClamAV 1.4.6/x/Mon Sep\x00":          {impaired, "1.4.6", "", ""},
		"ClamAV 1.4.6/27400/tomorrow\x00":     {impaired, "1.4.6", "", ""},
		"UNKNOWN COMMAND\x00":                 {impaired, "", "", ""},
		"ClamAV 1.4.6":                        {stopped, "", "", ""}, // cut short
		strings.Repeat("ClamAV 1.4.6 ", 1000): {stopped, "", "", ""},
		"":                                    {stopped, "", "", ""},
	} {
		socket := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			asked := make([]byte, 9)
			if n, _ := conn.Read(asked); string(asked[:n]) == "zVERSION\x00" {
				_, _ = conn.Write([]byte(reply))
			}
		}()
		r := askClamd(context.Background(), Sources{Root: "/", Clock: clock, Configured: Configured{ClamdSocket: socket}})
		l.Close()
		facts := r.facts(context.Background(), Sources{Clock: clock}, api.ProductClamAV)
		for name, value := range map[api.FactName]string{api.FactSecurityState: want.state, api.FactAVEngine: want.engine, api.FactAVPattern: want.pattern, api.FactAVPatternDate: want.date} {
			f := of(t, api.Evidence{Facts: facts}, name, api.ProductClamAV)
			if value == "" && (len(f.Values) != 0 || f.Missing == "") || value != "" && !slices.Equal(f.Values, []string{value}) {
				t.Errorf("%.40q: %s is %q (%s), want %q", reply, name, f.Values, f.Missing, value)
			}
		}
	}
}

func TestBoot_secureBootAndPatchLevel(t *testing.T) {
	t.Parallel()
	const efi = "sys/firmware/efi/efivars/"
	flag := func(v string) string { return "\x06\x00\x00\x00" + v }
	for name, c := range map[string]struct {
		files      map[string]string
		boot, says string
	}{
		"on":                 {map[string]string{efi + "SecureBoot-" + globalVariable: flag("\x01"), efi + "SetupMode-" + globalVariable: flag("\x00")}, "enabled", ""},
		"off":                {map[string]string{efi + "SecureBoot-" + globalVariable: flag("\x00")}, "disabled", ""},
		"setup mode":         {map[string]string{efi + "SecureBoot-" + globalVariable: flag("\x01"), efi + "SetupMode-" + globalVariable: flag("\x01")}, "setup mode", ""},
		"without UEFI":       {map[string]string{"sys/firmware/acpi/x": ""}, "legacy BIOS", ""},
		"not mounted":        {map[string]string{"sys/firmware/efi/fw_vendor": ""}, "", "not mounted"},
		"no sysfs":           {map[string]string{"etc/x": ""}, "", "no such file"},
		"of an odd length":   {map[string]string{efi + "SecureBoot-" + globalVariable: flag("\x01\x01")}, "", "not one byte"},
		"of an odd value":    {map[string]string{efi + "SecureBoot-" + globalVariable: flag("\x07")}, "", "not one byte"},
		"with an odd set-up": {map[string]string{efi + "SecureBoot-" + globalVariable: flag("\x01"), efi + "SetupMode-" + globalVariable: ""}, "", "not one byte"},
	} {
		values, err := secureBoot(context.Background(), Sources{Root: fixture(t, c.files)})
		if c.boot != "" && (err != nil || !slices.Equal(values, []string{c.boot})) || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("secure boot %s: %q, %v; want %q %q", name, values, err, c.boot, c.says)
		}
	}
	for release, want := range map[string]string{
		"ID=debian\nVERSION_ID=\"12\"\n":                                          "12.11",
		"ID=ubuntu\nVERSION_ID=\"22.04\"\nVERSION=\"22.04.5 LTS (Jammy)\"\n":      "22.04.5",
		"ID=rhel\nVERSION_ID=\"9.4\"\nVERSION=\"9.4 (Plow)\"\n":                   "9.4",
		"ID=\"sles\"\nVERSION_ID=\"15.5\"\nVERSION=\"15-SP5\"\n":                  "15.5",
		"ID=ubuntu\nVERSION_ID=\"2.0\"\nVERSION=\"2.04.5 not of this version\"\n": "2.0",
	} {
		values, err := osPatchLevel(context.Background(), Sources{Root: fixture(t, map[string]string{"etc/os-release": release, "etc/debian_version": "12.11\n"})})
		if err != nil || !slices.Equal(values, []string{want}) {
			t.Errorf("%q: %q, %v; want %s", release, values, err, want)
		}
	}
}

func FuzzProducts(f *testing.F) {
	f.Add([]byte(health))
	f.Add([]byte(components))
	f.Add([]byte(tmsplx))
	f.Add([]byte("ClamAV 1.4.6/27400/Mon Sep  8 08:30:12 2025"))
	f.Add([]byte("status='connected'\nVERSION=\"v2.5.1\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		plain := func(values ...string) {
			for _, v := range values {
				if v != "" && !isPlainVersion(v) {
					t.Errorf("%q becomes a version", v)
				}
			}
		}
		for _, read := range []func(*report) error{
			func(r *report) error { return r.readDefender(data, clock()) },
			func(r *report) error { return r.readComponents(string(data)) },
			func(r *report) error { return r.readSPLX(string(data)) },
			func(r *report) error { return r.readClamd(string(data)) },
		} {
			r := report{}
			if read(&r) == nil {
				plain(r.version, r.engine, r.pattern)
			}
		}
		v, _ := ossecVersion(variable(string(data), "VERSION"))
		plain(v)
	})
}

// The folder of the machine is Root: nothing of this machine gets into a test's facts.
func TestSoftware_looksOnlyUnderRoot(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/var/lib/dpkg/status"); err != nil {
		t.Skipf("needs a machine with dpkg: %v", err)
	}
	e := Collect(context.Background(), Sources{Root: t.TempDir(), Clock: clock}, "")
	if f := of(t, e, api.FactOSUpdated, ""); len(f.Values) != 0 {
		t.Errorf("%+v", f)
	}
}
