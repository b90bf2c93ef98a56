// Package facts collects what a machine can say of itself, one collector per fact, as evidence for a policy (RFC 9334).
// Everything here is self-reported: the grade says so beside every value. A fact that cannot be collected says why, and a
// rule on it fails.
//
// Packages, files and scripts are collected only when the machine's own configuration names them: the broker never tells
// an agent what to read or run, so that whoever holds the broker gains no look into its machines.
package facts

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"keyward/broker/api"
)

// Access types of a device, the values of api.FactAccessType.
const (
	ReadOnly  = "read-only"
	ReadWrite = "read-write"
)

// Sources are what the collectors read.
type Sources struct {
	// Root is the folder that holds etc, usr and proc; empty means /.
	Root string
	// Clock gives the time of each fact; nil means time.Now.
	Clock func() time.Time
	// Machine is the machine word of uname(2), such as "x86_64"; empty asks the kernel.
	Machine string
	// AgentVersion is the version of this agent, dotted.
	AgentVersion string
	// Location and UserData are what the provider said of the instance, Provider its name.
	Location, UserData, Provider string
	// Device is the device that a key is asked for; nil where the evidence is of the machine alone.
	Device *Device
	// Configured names what is collected beside the facts that every machine has.
	Configured Configured
	// Memory keeps what is costly to collect; nil collects everything each time.
	Memory *Memory
	// Fresh takes nothing from the memory. Evidence for a nonce is always fresh.
	Fresh bool
}

// Configured names packages, files and scripts to collect facts of.
type Configured struct {
	Packages []string
	Files    []string
	Scripts  []Script
	// ClamdSocket is where clamd listens; empty means where distributions put it.
	ClamdSocket string
}

// Device is what the agent will do with a device, or does.
type Device struct {
	MountPoint string
	ReadOnly   bool
}

func (s Sources) path(elem ...string) string {
	root := s.Root
	if root == "" {
		root = "/"
	}
	return filepath.Join(append([]string{root}, elem...)...)
}

// collector reads one fact. It returns no values and a nil error for an empty set.
type collector struct {
	name    api.FactName
	source  string
	collect func(context.Context, Sources) ([]string, error)
}

// collectors of the machine, in the order in which they appear in the evidence.
var collectors = []collector{
	{api.FactGuestOS, "agent build", guestOS},
	{api.FactArchitecture, "uname machine", architecture},
	{api.FactHostName, "procfs sys/kernel/hostname", hostName},
	{api.FactKernelVersion, "procfs sys/kernel/osrelease", kernelVersion},
	{api.FactOSVersion, "os-release VERSION_ID", osVersion},
	{api.FactOSName, "os-release PRETTY_NAME", osName},
	{api.FactTCPPorts, "procfs net/tcp, tcp6", tcpPorts},
	{api.FactUDPPorts, "procfs net/udp, udp6", udpPorts},
	{api.FactLocation, "provider", location},
	{api.FactUserData, "provider", userData},
	{api.FactAgentVersion, "agent build", agentVersion},
	{api.FactOSPatchLevel, "os-release, debian_version", osPatchLevel},
	{api.FactSecureBoot, "efivarfs SecureBoot", secureBoot},
	{api.FactHardwareUUID, "DMI product_uuid", hardwareUUID},
}

// deviceCollectors are those of one device.
var deviceCollectors = []collector{
	{api.FactMountPoint, "agent configuration", mountPoint},
	{api.FactAccessType, "agent configuration", accessType},
}

// Collect runs every collector and returns the evidence for the broker's nonce, which is empty on heartbeats. It always
// returns one fact per collector, and per package, file and script that is configured.
func Collect(ctx context.Context, src Sources, nonce string) api.Evidence {
	if src.Clock == nil {
		src.Clock = time.Now
	}
	src.Fresh = src.Fresh || nonce != ""
	ev := api.Evidence{Nonce: nonce, Facts: gather(ctx, src, groups(src))}
	ev.CollectedAt = src.Clock().UTC()
	return ev
}

// OfDevice collects what can be said of one device, src.Device.
func OfDevice(ctx context.Context, src Sources) []api.Fact {
	if src.Clock == nil {
		src.Clock = time.Now
	}
	out := make([]api.Fact, 0, len(deviceCollectors))
	for _, c := range deviceCollectors {
		values, err := c.collect(ctx, src)
		out = append(out, src.fact(ctx, c.name, "", c.source, values, err))
	}
	return out
}

// plainFacts are those of one collector each, all cheap.
func plainFacts(ctx context.Context, src Sources) []api.Fact {
	all := collectors
	if src.Device != nil {
		all = append(all[:len(all):len(all)], deviceCollectors...)
	}
	out := make([]api.Fact, 0, len(all))
	for _, c := range all {
		source := c.source
		if source == "provider" && src.Provider != "" {
			source = "provider " + src.Provider
		}
		values, err := c.collect(ctx, src)
		out = append(out, src.fact(ctx, c.name, "", source, values, err))
	}
	return out
}

// fact puts a collector's result into the form of the wire. A fact that was cut short has no value.
func (s Sources) fact(ctx context.Context, name api.FactName, subject, source string, values []string, err error) api.Fact {
	f := api.Fact{Name: name, Subject: subject, Values: []string{}, Source: source, Grade: api.GradeSelfReported, At: s.Clock().UTC()}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil && slices.ContainsFunc(values, func(v string) bool { return len(v) > mostValue || v != plain(v) }) {
		err = errors.New("the value is no plain text, or too long")
	}
	if err != nil {
		f.Missing = plain(err.Error())
		f.Missing = strings.ToValidUTF8(f.Missing[:min(len(f.Missing), mostReason)], "")
	} else if values != nil {
		f.Values = values
	}
	return f
}

// The longest value that a broker takes, and the longest reason worth reading, bytes.
const (
	mostValue  = 16 << 10
	mostReason = 1 << 10
)

// plain replaces what a broker refuses in a text. One odd byte in what a program says must not void all evidence.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

var errNotConfigured = errors.New("the provider does not give it and it is not configured")

// scalar is a fact of one value that must not be empty.
func scalar(v string, whenEmpty error) ([]string, error) {
	if v == "" {
		return nil, whenEmpty
	}
	return []string{v}, nil
}

func location(_ context.Context, s Sources) ([]string, error) {
	return scalar(s.Location, errNotConfigured)
}
func userData(_ context.Context, s Sources) ([]string, error) {
	return scalar(s.UserData, errNotConfigured)
}

func agentVersion(_ context.Context, s Sources) ([]string, error) {
	return scalar(s.AgentVersion, errors.New("this agent was built without a version"))
}

func mountPoint(_ context.Context, s Sources) ([]string, error) {
	return scalar(s.Device.MountPoint, errors.New("the device has no mount point; configure one"))
}

func accessType(_ context.Context, s Sources) ([]string, error) {
	if s.Device.ReadOnly {
		return []string{ReadOnly}, nil
	}
	return []string{ReadWrite}, nil
}
