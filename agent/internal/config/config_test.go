package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad_laterSourcesWin(t *testing.T) {
	t.Parallel()
	path := file(t, "broker: https://a:1\nlocation: file\nnative:\n  images:\n    - path: /srv/a.img\nscripts:\n  teardown: /root/stop.sh\n")
	c, err := Load(Source{Path: path, Required: true, Environ: []string{"PATH=/bin", "KEYWARD_AGENT_LOCATION=environment",
		"KEYWARD_AGENT_SCRIPTS_TIMEOUT_SECONDS=7", "KEYWARD_AGENT_LOG_LEVEL=debug", "KEYWARD_AGENT_CONFIG=ignored"},
		Flags: map[string]any{"log_level": "warn"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Broker != "https://a:1" || c.Location != "environment" || c.LogLevel != "warn" || c.Scripts.TimeoutSeconds != 7 ||
		c.Scripts.Teardown != "/root/stop.sh" || len(c.Native.Images) != 1 || c.Native.Images[0].Path != "/srv/a.img" ||
		c.StateDir != "/var/lib/keyward-agent" {
		t.Errorf("loaded %+v", c)
	}
}

func TestLoad_jsonIsAcceptedToo(t *testing.T) {
	t.Parallel()
	c, err := Load(Source{Path: file(t, `{"broker": "https://a", "native": {"images": [{"path": "/srv/a.img"}]}}`), Required: true})
	if err != nil || c.Broker != "https://a" || len(c.Native.Images) != 1 {
		t.Errorf("loaded %+v, %v", c, err)
	}
}

func TestLoad_refusesWhatItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		content string
		environ []string
		says    string
	}{
		"a misspelt key":          {content: "brokr: https://a", says: "brokr"},
		"a misspelt inner key":    {content: "scripts: {tear_down: /x}", says: "tear_down"},
		"a key inside a list":     {content: "native: {images: [{file: /x}]}", says: "file"},
		"no YAML":                 {content: "a: b: c", says: "agent.yaml"},
		"a list":                  {content: "- a", says: "agent.yaml"},
		"an unknown variable":     {environ: []string{"KEYWARD_AGENT_BROKR=x"}, says: "KEYWARD_AGENT_BROKR"},
		"plain HTTP":              {content: "broker: http://a", says: "broker"},
		"credentials in a URL":    {content: "broker: https://u:p@a", says: "broker"},
		"a proxy of another kind": {content: "proxy: socks5://secret@a:1", says: "proxy"},
		"a relative path":         {content: "state_dir: x", says: "state_dir"},
		"a relative script":       {content: "scripts: {teardown: x}", says: "teardown"},
		"a relative image":        {content: "native: {images: [{path: x}]}", says: "images[0]"},
		"too many connections":    {content: "connections: 17", says: "connections"},
		"a level":                 {content: "log_level: loud", says: "log_level"},
		"a lease end":             {content: "lease_end: never", says: "lease_end"},
		"a text for a number":     {content: "connections: many", says: "connections"},
	} {
		_, err := Load(Source{Path: file(t, c.content), Required: true, Environ: c.environ})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v does not name %q", name, err, c.says)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error repeats a credential: %v", name, err)
		}
	}
}

func TestLoad_aFileThatOthersCanChangeIsRefused(t *testing.T) {
	t.Parallel()
	path := file(t, "broker: https://a")
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Source{Path: path}); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("error %v", err)
	}
}

func TestLoad_missingFile(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "none.yaml")
	if c, err := Load(Source{Path: missing}); err != nil || c.Provider != "native" {
		t.Errorf("an optional file: %+v, %v", c, err)
	}
	if _, err := Load(Source{Path: missing, Required: true}); err == nil {
		t.Error("a file that was named may not be missing")
	}
}

func TestSave_isReadBackAndPrivate(t *testing.T) {
	t.Parallel()
	c := Default()
	c.Broker, c.Proxy = "https://a", "http://u:p@proxy:3128"
	c.Native.Images = []Image{{Path: "/srv/a.img"}}
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := Save(path, c); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: the proxy's password is in it", info.Mode(), err)
	}
	got, err := Load(Source{Path: path, Required: true})
	if err != nil || got.Broker != c.Broker || got.Proxy != c.Proxy || len(got.Native.Images) != 1 {
		t.Errorf("read back %+v, %v", got, err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("broker: https://a\nscripts: {teardown: /x}")
	f.Add(`{"native": {"images": [{"path": "/a"}]}}`)
	f.Add("a: &a [*a]")
	f.Fuzz(func(t *testing.T, content string) {
		c, err := Load(Source{Path: file(t, content), Required: true})
		if err == nil && c.Validate() != nil {
			t.Errorf("%q was loaded though it is not valid", content)
		}
	})
}

func TestLoad_factsOfTheMachine(t *testing.T) {
	t.Parallel()
	path := file(t, `
facts:
  packages: [openssl, "libc6:i386"]
  files: [/etc/ssh/sshd_config]
  scripts:
    - {name: baseline, path: /usr/local/sbin/baseline, result: number, timeout_seconds: 10}
    - {name: level, path: /usr/local/sbin/level}
  clamd_socket: /run/other.sock
`)
	c, err := Load(Source{Path: path, Required: true, Environ: []string{"KEYWARD_AGENT_FACTS_REFRESH_SECONDS=90"}})
	if err != nil {
		t.Fatal(err)
	}
	f := c.Facts
	if len(f.Packages) != 2 || len(f.Files) != 1 || len(f.Scripts) != 2 || f.Scripts[0].TimeoutSeconds != 10 || f.Scripts[0].Result != "number" ||
		f.ClamdSocket != "/run/other.sock" || f.RefreshSeconds != 90 {
		t.Errorf("loaded %+v", f)
	}
	if c, err := Load(Source{Path: file(t, "broker: https://a"), Required: true}); err != nil || c.Facts.RefreshSeconds != 30 {
		t.Errorf("without facts: %+v, %v", c.Facts, err)
	}
	for name, bad := range map[string]struct{ content, says string }{
		"a package that is none":   {`{packages: ["a b"]}`, "facts.packages[0]"},
		"a package named twice":    {`{packages: [a, a]}`, "twice"},
		"too many packages":        {`{packages: [` + strings.Repeat("a,", 41) + `]}`, "at most 40"},
		"a relative file":          {`{files: [etc/passwd]}`, "facts.files[0]"},
		"a path that climbs":       {`{files: [/etc/../root/x]}`, "facts.files[0]"},
		"a script without path":    {`{scripts: [{name: a}]}`, "facts.scripts[0].path"},
		"a script without name":    {`{scripts: [{path: /x}]}`, "facts.scripts[0].name"},
		"a script's loud name":     {`{scripts: [{name: A B, path: /x}]}`, "facts.scripts[0].name"},
		"a script of another kind": {`{scripts: [{name: a, path: /x, result: json}]}`, "neither text nor number"},
		"a script without end":     {`{scripts: [{name: a, path: /x, timeout_seconds: 600}]}`, "between 1 and 60"},
		"two scripts of one name":  {`{scripts: [{name: a, path: /x}, {name: a, path: /y}]}`, "twice"},
		"a misspelt key":           {`{package: [a]}`, "package"},
		"a relative socket":        {`{clamd_socket: run/x}`, "facts.clamd_socket"},
		"no refresh":               {`{refresh_seconds: 0}`, "facts.refresh_seconds"},
	} {
		if _, err := Load(Source{Path: file(t, "facts: "+bad.content+"\n"), Required: true}); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%s: %v, want %q", name, err, bad.says)
		}
	}
}
