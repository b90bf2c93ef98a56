package config

import (
	"fmt"
	"path/filepath"
	"regexp"
)

// Facts names what the agent tells its broker beside the facts that every machine has. The list is the machine's own: a
// broker cannot ask for more.
type Facts struct {
	// Packages, by name, of which version and state are facts.
	Packages []string `koanf:"packages" yaml:"packages,omitempty"`
	// Files, by absolute path, of which the SHA-256 digest is a fact.
	Files []string `koanf:"files" yaml:"files,omitempty"`
	// Scripts, whose output is a fact.
	Scripts []FactScript `koanf:"scripts" yaml:"scripts,omitempty"`
	// ClamdSocket is where clamd listens; empty looks where Debian and Fedora put it.
	ClamdSocket string `koanf:"clamd_socket" yaml:"clamd_socket,omitempty"`
	// RefreshSeconds is how old what is costly to collect may be on a heartbeat. A key request always collects anew.
	RefreshSeconds int `koanf:"refresh_seconds" yaml:"refresh_seconds,omitempty"`
}

// FactScript is a program whose output is a fact.
type FactScript struct {
	Name string `koanf:"name" yaml:"name"`
	Path string `koanf:"path" yaml:"path"`
	// Result is what it prints: text, which is the default, or number.
	Result string `koanf:"result" yaml:"result,omitempty"`
	// TimeoutSeconds is 5 unless it is set.
	TimeoutSeconds int `koanf:"timeout_seconds" yaml:"timeout_seconds,omitempty"`
}

// Most things that one agent reports, so that its evidence stays a small message.
const (
	maxPackages, maxFiles, maxFactScripts = 40, 40, 16
	maxFactScriptSeconds                  = 60
)

var (
	factScriptName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)
	packageName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+._-]{0,127}(:[a-z0-9-]{1,32})?$`)
)

// wrong lists what is refused, by key.
func (f Facts) wrong() map[string]string {
	out := map[string]string{}
	refuse := func(bad bool, key, format string, args ...any) {
		if bad {
			out[key] = fmt.Sprintf(format, args...)
		}
	}
	refuse(len(f.Packages) > maxPackages, "facts.packages", "has %d names, at most %d are taken", len(f.Packages), maxPackages)
	refuse(len(f.Files) > maxFiles, "facts.files", "has %d paths, at most %d are taken", len(f.Files), maxFiles)
	refuse(len(f.Scripts) > maxFactScripts, "facts.scripts", "has %d scripts, at most %d are taken", len(f.Scripts), maxFactScripts)
	refuse(f.RefreshSeconds < 1 || f.RefreshSeconds > 86400, "facts.refresh_seconds", "%d is not between 1 and 86400", f.RefreshSeconds)
	refuse(f.ClamdSocket != "" && !filepath.IsAbs(f.ClamdSocket), "facts.clamd_socket", "%q must be an absolute path", f.ClamdSocket)
	seen := map[string]bool{}
	twice := func(kind, name, key string) {
		refuse(seen[kind+name], key, "%q is there twice", name)
		seen[kind+name] = true
	}
	for i, name := range f.Packages {
		key := fmt.Sprintf("facts.packages[%d]", i)
		refuse(!packageName.MatchString(name), key, "%q is not a package's name", name)
		twice("package ", name, key)
	}
	for i, path := range f.Files {
		key := fmt.Sprintf("facts.files[%d]", i)
		refuse(!filepath.IsAbs(path) || filepath.Clean(path) != path, key, "%q must be an absolute path without . and ..", path)
		twice("file ", path, key)
	}
	for i, s := range f.Scripts {
		key := fmt.Sprintf("facts.scripts[%d]", i)
		refuse(!factScriptName.MatchString(s.Name), key+".name", "%q must be lower-case letters, digits, - and _", s.Name)
		refuse(!filepath.IsAbs(s.Path), key+".path", "%q must be an absolute path", s.Path)
		refuse(s.Result != "" && s.Result != "text" && s.Result != "number", key+".result", "%q is neither text nor number", s.Result)
		refuse(s.TimeoutSeconds < 0 || s.TimeoutSeconds > maxFactScriptSeconds, key+".timeout_seconds", "%d is not between 1 and %d", s.TimeoutSeconds, maxFactScriptSeconds)
		twice("script ", s.Name, key+".name")
	}
	return out
}
