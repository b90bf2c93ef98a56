package facts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"keyward/broker/api"
)

// Both products live in one folder: Wazuh is the successor, and says so in its program names.
const (
	ossecRun  = "var/ossec/var/run"
	ossecInit = "var/ossec/etc/ossec-init.conf"
)

var wazuh = product{
	name: api.ProductWazuh,
	installed: func(s Sources) bool {
		return s.anyFile("var/ossec/bin/wazuh-control", "var/ossec/bin/wazuh-agentd") || isWazuh(initValue(s, "NAME"))
	},
	examine: askWazuh,
}

var ossec = product{
	name: api.ProductOSSEC,
	installed: func(s Sources) bool {
		return s.anyFile("var/ossec/bin/ossec-control", "var/ossec/bin/ossec-agentd") && !wazuh.installed(s)
	},
	examine: func(_ context.Context, s Sources) report {
		r := report{source: "ossec-init.conf", state: stopped}
		if s.alive(ossecRun, "ossec-agentd") || s.alive(ossecRun, "ossec-analysisd") {
			r.state = running
		}
		r.version, r.err = ossecVersion(initValue(s, "VERSION"))
		return r
	},
}

func isWazuh(name string) bool { return strings.EqualFold(name, "wazuh") }

// initValue reads a variable of ossec-init.conf, which is where versions before 4.2 of Wazuh, and OSSEC, have theirs.
func initValue(s Sources, key string) string {
	for _, path := range []string{ossecInit, "etc/ossec-init.conf"} {
		if text, err := read(s.path(path)); err == nil {
			return variable(text, key)
		}
	}
	return ""
}

// variable finds KEY="value" among lines of a shell's assignments.
func variable(text, key string) string {
	for l := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(l), "="); ok && name == key {
			return unquote(value)
		}
	}
	return ""
}

// ossecVersion takes the v off, as in v4.7.2.
func ossecVersion(text string) (string, error) {
	v := strings.TrimPrefix(strings.TrimSpace(text), "v")
	if !isPlainVersion(v) {
		return "", fmt.Errorf("%.60q is no version", text)
	}
	return v, nil
}

func askWazuh(ctx context.Context, s Sources) report {
	r := report{source: "wazuh-agentd.state", state: stopped}
	r.version, r.err = wazuhVersion(ctx, s)
	switch {
	case s.alive(ossecRun, "wazuh-analysisd"): // a manager has none above it
		r.state = running
	case s.alive(ossecRun, "wazuh-agentd"), s.alive(ossecRun, "ossec-agentd"):
		r.state = impaired
		for _, file := range []string{"wazuh-agentd.state", "ossec-agentd.state"} {
			if text, err := read(s.path(ossecRun, file)); err == nil && variable(text, "status") == "connected" {
				r.state = running
			}
		}
	}
	return r
}

func wazuhVersion(ctx context.Context, s Sources) (string, error) {
	if text, err := read(s.path("var/ossec/VERSION.json")); err == nil {
		var v struct {
			Version string `json:"version"`
		}
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return "", fmt.Errorf("VERSION.json: %w", err)
		}
		return ossecVersion(v.Version)
	}
	if text := initValue(s, "VERSION"); text != "" {
		return ossecVersion(text)
	}
	if !s.anyFile("var/ossec/bin/wazuh-control") {
		return "", errors.New("neither VERSION.json nor ossec-init.conf nor wazuh-control is there")
	}
	out, err := output(ctx, commandTime, 4096, s.path("var/ossec/bin/wazuh-control"), "info", "-v")
	if err != nil {
		return "", err
	}
	return ossecVersion(string(out))
}
