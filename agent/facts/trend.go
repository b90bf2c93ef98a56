package facts

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"

	"keyward/broker/api"
)

const dsaQuery = "opt/ds_agent/dsa_query"

// deepSecurity is the agent of Deep Security and of Workload Security.
var deepSecurity = product{
	name:      api.ProductDeepSecurity,
	installed: func(s Sources) bool { return s.anyFile("opt/ds_agent/ds_agent", dsaQuery) },
	examine: func(ctx context.Context, s Sources) report {
		r := report{scanner: true, source: "dsa_query GetComponentInfo"}
		out, err := output(ctx, commandTime, 1<<20, s.path(dsaQuery), "-c", "GetComponentInfo")
		if err == nil {
			err = r.readComponents(string(out))
		}
		r.err = err
		return r
	},
}

// readComponents reads lines "Component.MODULE.key: value". Patterns are numbered, in an order that differs between
// machines, each with a name.
func (r *report) readComponents(text string) error {
	c := map[string]string{}
	for l := range strings.Lines(text) {
		if key, value, ok := strings.Cut(l, ":"); ok {
			c[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	r.version = c["Component.CORE.version"]
	if r.version == "" && c["Component.AM.mode"] == "" {
		return errors.New("dsa_query named no component")
	}
	r.state = running
	if c["Component.AM.driverOffline"] == "true" {
		r.state = impaired
	}
	for _, engine := range []string{"VSAPI", "ATSE"} {
		if r.engine == "" {
			r.engine = c["Component.AM.version.engine."+engine]
		}
	}
	r.pattern = c["Component.AM.version.pattern.VSAPI"]
	for _, want := range []string{"Virus Pattern", "Smart Scan Agent Pattern"} {
		for key, name := range c {
			number, ok := strings.CutSuffix(key, ".name")
			if ok && r.pattern == "" && name == want && strings.HasPrefix(key, "Component.AM.version.pattern.") {
				r.pattern = c[number+".version"]
			}
		}
	}
	switch scan := c["Component.AM.scan.Realtime"]; {
	case c["Component.AM.mode"] == "on" && scan != "" && scan != "0":
		r.realTime = on
	case c["Component.AM.mode"] != "":
		r.realTime = off
	}
	for _, v := range []*string{&r.version, &r.engine, &r.pattern} {
		if !isPlainVersion(*v) {
			*v = ""
		}
	}
	return nil
}

const splxConfiguration = "opt/TrendMicro/SProtectLinux/tmsplx.xml"

// serverProtect is ServerProtect for Linux, whose configuration file also holds what it has loaded (Administrator's
// Guide, "Understanding the ServerProtect Configuration File").
var serverProtect = product{
	name:      api.ProductServerProtect,
	installed: func(s Sources) bool { return s.anyFile(splxConfiguration) },
	examine: func(_ context.Context, s Sources) report {
		r := report{scanner: true, source: "tmsplx.xml", state: stopped}
		if s.process("splxmain", "vsapiapp") {
			r.state = running
		}
		text, err := readMost(s.path(splxConfiguration), 1<<20)
		if err == nil {
			err = r.readSPLX(text)
		}
		r.err = err
		return r
	},
}

// readSPLX reads the elements <P Name="..." Value="..."/>.
func (r *report) readSPLX(text string) error {
	values := map[string]string{}
	decoder := xml.NewDecoder(strings.NewReader(text))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("tmsplx.xml: %w", err)
		}
		element, ok := token.(xml.StartElement)
		if !ok || element.Name.Local != "P" {
			continue
		}
		var name, value string
		for _, a := range element.Attr {
			switch a.Name.Local {
			case "Name":
				name = a.Value
			case "Value":
				value = a.Value
			}
		}
		values[name] = value
	}
	for from, to := range map[string]*string{"EngineVersion": &r.engine, "PatternVersion": &r.pattern} {
		if v := values[from]; isPlainVersion(v) {
			*to = v
		}
	}
	switch values["RealtimeScan"] {
	case "":
	case "0":
		r.realTime = off
	default:
		r.realTime = on
	}
	if r.state == stopped {
		r.realTime = off
	}
	return nil
}
