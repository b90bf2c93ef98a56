package facts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"keyward/broker/api"
)

// Values of api.FactPackageState.
const (
	installed    = "installed"
	incomplete   = "incomplete"
	notInstalled = "not installed"
)

const (
	commandTime   = 20 * time.Second
	commandOutput = 4 << 20
	maxStatusLine = 1 << 20
)

// pkg is what a package manager knows of a package. There may be several versions: architectures, kernels.
type pkg struct {
	versions []string
	broken   bool
}

func packageFacts(ctx context.Context, s Sources) []api.Fact {
	found, source, err := s.packages(ctx)
	var out []api.Fact
	for _, name := range s.Configured.Packages {
		p := found[name]
		state, version, missing := notInstalled, p.versions, err
		switch {
		case err != nil:
		case p.broken:
			state, missing = incomplete, fmt.Errorf("package %s is not completely installed", name)
		case len(p.versions) > 0:
			state = installed
		default:
			missing = fmt.Errorf("package %s is not installed", name)
		}
		out = append(out, s.fact(ctx, api.FactPackageVersion, name, source, version, missing),
			s.fact(ctx, api.FactPackageState, name, source, []string{state}, err))
	}
	return out
}

// packages asks the machine's package manager about the configured packages.
func (s Sources) packages(ctx context.Context) (map[string]pkg, string, error) {
	f, err := os.Open(s.path("var/lib/dpkg/status"))
	if err == nil {
		defer f.Close()
		found, err := scanStatus(ctx, f, s.Configured.Packages)
		return found, "dpkg status", err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, "dpkg status", err
	}
	rpm := s.path("usr/bin/rpm")
	if _, err := os.Stat(rpm); err != nil {
		return nil, "package manager", errors.New("the machine has neither dpkg nor rpm")
	}
	found := map[string]pkg{}
	for _, name := range s.Configured.Packages {
		// rpm fails for a package that is not installed, and names no other way to tell; -qa fails for none.
		out, err := output(ctx, commandTime, commandOutput, rpm, "-qa", "--qf", `%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n`, name)
		if err != nil {
			return nil, "rpm -qa", err
		}
		versions := strings.Fields(string(out))
		for i, v := range versions {
			versions[i] = strings.TrimPrefix(v, "0:")
		}
		found[name] = pkg{versions: slices.Compact(versions)}
	}
	return found, "rpm -qa", nil
}

// scanStatus reads dpkg's database: paragraphs of fields, of which only the first lines matter here. A name may end in
// ":architecture".
func scanStatus(ctx context.Context, r io.Reader, names []string) (map[string]pkg, error) {
	found := map[string]pkg{}
	var name, status, version, architecture string
	end := func() {
		for _, key := range []string{name, name + ":" + architecture} {
			if name == "" || !slices.Contains(names, key) {
				continue
			}
			p := found[key]
			switch words := strings.Fields(status); {
			case len(words) == 3 && (words[2] == "config-files" || words[2] == "not-installed"):
			case len(words) != 3 || version == "":
				p.broken = true
			case words[2] == "installed" || strings.HasPrefix(words[2], "triggers-"):
				if !slices.Contains(p.versions, version) {
					p.versions = append(p.versions, version)
				}
			default:
				p.broken = true
			}
			found[key] = p
		}
		name, status, version, architecture = "", "", "", ""
	}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxStatusLine)
	for n := 0; sc.Scan(); n++ {
		if n%8192 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		line := sc.Bytes()
		if len(bytes.TrimSpace(line)) == 0 {
			end()
			continue
		}
		field, value, ok := strings.Cut(string(line), ":")
		if !ok || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(field) {
		case "package":
			name = value
		case "status":
			status = value
		case "version":
			version = value
		case "architecture":
			architecture = value
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("dpkg status: %w", err)
	}
	end()
	return found, nil
}

// updatedFacts say when the machine was last changed by its package manager.
func updatedFacts(ctx context.Context, s Sources) []api.Fact {
	at, source, err := s.updated(ctx)
	var values []string
	if err == nil {
		values = []string{at.UTC().Format(time.RFC3339)}
	}
	return []api.Fact{s.fact(ctx, api.FactOSUpdated, "", source, values, err)}
}

func (s Sources) updated(ctx context.Context) (newest time.Time, source string, err error) {
	entries, err := os.ReadDir(s.path("var/lib/dpkg/info"))
	if err == nil {
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".list") { // written whenever a package is unpacked
				continue
			}
			if info, err := e.Info(); err == nil && info.ModTime().After(newest) {
				newest = info.ModTime()
			}
		}
		if newest.IsZero() {
			err = errors.New("dpkg lists no package")
		}
		return newest, "dpkg info", err
	}
	rpm := s.path("usr/bin/rpm")
	if _, errRPM := os.Stat(rpm); errRPM != nil {
		return newest, "package manager", errors.New("the machine has neither dpkg nor rpm")
	}
	out, err := output(ctx, commandTime, commandOutput, rpm, "-qa", "--qf", `%{INSTALLTIME}\n`)
	if err != nil {
		return newest, "rpm -qa", err
	}
	for word := range strings.FieldsSeq(string(out)) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return newest, "rpm -qa", fmt.Errorf("rpm printed %.40q for a time", word)
		}
		if at := time.Unix(n, 0); at.After(newest) {
			newest = at
		}
	}
	if newest.IsZero() {
		err = errors.New("rpm lists no package")
	}
	return newest, "rpm -qa", err
}
