// Package imports tests who may import whom: the rules of the house in ARCHITECTURE.md, checked against the compiler's
// own view of the packages, tests included.
package imports

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "keyward"

// listed is the part of `go list -json` that the rules need.
type listed struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	command := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	command.Dir = "../.."
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	decoder := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("parse go list: %v", err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module+"/")
		all = append(all, p)
	}
	if len(all) < 20 {
		t.Fatalf("go list found only %d packages; the rules would be checked against nothing", len(all))
	}
	return all
}

func under(path string, rooms ...string) bool {
	for _, room := range rooms {
		if path == room || strings.HasPrefix(path, room+"/") {
			return true
		}
	}
	return false
}

// rule is one line of the house: packages under Of may, of our own packages, import only those under Only, and must
// never import those under Never.
type rule struct {
	name  string
	of    []string
	only  []string
	never []string
}

var rules = []rule{
	{"the data plane stands alone", []string{"nbdcrypt"}, []string{"nbdcrypt"}, nil},
	{"rbac stands alone", []string{"rbac"}, []string{"rbac"}, nil},
	{"ui stands alone", []string{"ui"}, []string{"ui"}, nil},
	{"the wire types stand alone", []string{"broker/api"}, []string{"broker/api"}, nil},
	{"the broker knows no agent and no data plane", []string{"broker"}, []string{"broker", "rbac", "ui"}, nil},
	{"the client knows only the wire types", []string{"broker/client"}, []string{"broker/client", "broker/api"}, nil},
	{"the agent sees of the broker only the wire types and the client", []string{"agent"},
		[]string{"agent", "nbdcrypt", "broker/api", "broker/client"}, nil},
	{"the volume service shares the agent's outer rooms only", []string{"winvol"},
		[]string{"winvol", "nbdcrypt", "broker/api", "broker/client", "agent/provider", "agent/facts", "agent/identity", "agent/volume"}, nil},
	{"appraisal is pure", []string{"broker/internal/policy"}, []string{"broker/internal/policy", "broker/api"}, nil},
	{"services know no HTTP", []string{"broker/internal/tenant", "broker/internal/account", "broker/internal/inventory",
		"broker/internal/policy", "broker/internal/policyset", "broker/internal/policyfile", "broker/internal/preview", "broker/internal/keyrequest", "broker/internal/keystore",
		"broker/internal/audit", "broker/internal/job", "broker/internal/store", "broker/internal/keyring", "broker/internal/rootkey",
		"broker/internal/kmip", "broker/internal/backup"},
		nil, []string{"broker/internal/httpapi", "broker/internal/console", "broker/internal/server"}},
}

func TestImports_houseRules(t *testing.T) {
	for _, p := range packages(t) {
		for _, r := range rules {
			if !under(p.ImportPath, r.of...) {
				continue
			}
			for _, imported := range p.Imports {
				if !under(imported, module) {
					continue
				}
				own := strings.TrimPrefix(imported, module+"/")
				if r.only != nil && !under(own, r.only...) {
					t.Errorf("%s imports %s, but %s: only %v", p.ImportPath, own, r.name, r.only)
				}
				if under(own, r.never...) {
					t.Errorf("%s imports %s, but %s", p.ImportPath, own, r.name)
				}
			}
		}
	}
}

func TestImports_nobodyImportsBenchOrSuites(t *testing.T) {
	for _, p := range packages(t) {
		if under(p.ImportPath, "bench", "e2e") {
			continue
		}
		for _, imported := range p.Imports {
			if under(imported, module+"/bench", module+"/e2e") {
				t.Errorf("%s imports %s: programs must not depend on benchmarks and suites", p.ImportPath, imported)
			}
		}
	}
}

// owners are the rooms that alone may import an outside package, by import-path prefix.
var owners = map[string][]string{
	"github.com/casbin/casbin": {"rbac"},
	"gorm.io":                  {"broker/internal/store"},

	"modernc.org/sqlite":                  {"broker/internal/store"},
	"github.com/jackc/pgx":                {"broker/internal/store"},
	"github.com/pressly/goose":            {"broker/internal/store"},
	"github.com/gofiber/fiber":            {"broker/internal/server", "broker/internal/httpapi", "broker/internal/console"},
	"github.com/danielgtaylor/huma":       {"broker/internal/server", "broker/internal/httpapi"},
	"github.com/hanwen/go-fuse":           {"agent/internal/attach"},
	"github.com/mdlayher/genetlink":       {"agent/internal/attach"},
	"github.com/klauspost/cpuid":          {"nbdcrypt/xts", "nbdcrypt/essiv", "bench"},
	"github.com/pojntfx/go-nbd":           {"nbdcrypt/nbd", "bench"},
	"github.com/minio/sha256-simd":        {"agent/facts"},
	"cel.dev/cel-go":                      {"broker/internal/policy"},
	"github.com/prometheus/client_golang": {"broker/internal"},
	"github.com/spf13/cobra":              {"broker/internal/cli", "agent/internal/cli", "winvol"},
	"github.com/knadh/koanf":              {"broker/internal/cli", "agent/internal/config", "winvol"},
	"github.com/coreos/go-systemd":        {"broker/internal/server", "agent/internal/daemon"},
	"github.com/chromedp":                 {"e2e/browser"},
	"github.com/rogpeppe/go-internal":     {"broker/internal/cli", "agent/internal/cli"},
	"github.com/schollz/progressbar":      {"agent/internal/cli", "broker/internal/cli", "e2e/demo"},
	"golang.org/x/crypto/xts":             {"nbdcrypt", "bench", "e2e"},
	"golang.org/x/crypto/argon2":          {"broker/internal/account", "broker/internal/keystore", "broker/client", "nbdcrypt/luks2", "agent/internal/cli"},
	"github.com/miekg/pkcs11":             {"broker/internal/rootkey"},
	"filippo.io/age":                      {"broker/internal/backup"},
	"github.com/moby/sys/mountinfo":       {"agent/internal/mount", "agent/internal/attach", "agent/internal/discover"},
	"github.com/prometheus/procfs":        {"agent/facts"},
	"github.com/google/go-tpm":            {"agent/identity/tpm", "broker/internal/attest", "e2e/lab"},
	"github.com/smallstep/pkcs7":          {"broker/internal/attest", "e2e/lab"},
}

func TestImports_oneOwnerPerOutsidePackage(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range append(append(append([]string{}, p.Imports...), p.TestImports...), p.XTestImports...) {
			for prefix, rooms := range owners {
				if under(imported, prefix) && !under(p.ImportPath, rooms...) {
					t.Errorf("%s imports %s, which belongs to %v", p.ImportPath, imported, rooms)
				}
			}
		}
	}
}
