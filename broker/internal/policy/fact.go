package policy

import (
	"slices"

	"keyward/broker/api"
)

// Type is the data type of a fact. It decides which operators a rule on the fact may use.
type Type string

// The types of facts.
const (
	TypeString    Type = "string"
	TypeEnum      Type = "enum"
	TypeNumberSet Type = "number set"
	TypeVersion   Type = "version"
	TypeAddress   Type = "IP address"
	TypeDate      Type = "date"
)

// FactInfo describes a fact to whoever writes a rule: the console's form and the API's registry.
type FactInfo struct {
	Name api.FactName `json:"name"`
	// Title is the name shown to people.
	Title string `json:"title"`
	Type  Type   `json:"type"`
	// Operators are those a condition on this fact may use, in the order to offer them.
	Operators []api.Operator `json:"operators"`
	// MultipleConditions says whether a rule on this fact may have more than one condition.
	MultipleConditions bool `json:"multiple_conditions"`
	// Values are the possible values of an enum; nil for other types.
	Values  []string `json:"values,omitempty"`
	Example string   `json:"example"`
	Help    string   `json:"help"`
	// Observed is true when only the broker may supply the fact.
	Observed bool `json:"observed"`
}

var (
	textOperators    = []api.Operator{api.OpEqual, api.OpNotEqual, api.OpIn, api.OpStartsWith, api.OpContains, api.OpMatches}
	enumOperators    = []api.Operator{api.OpEqual, api.OpNotEqual}
	setOperators     = []api.Operator{api.OpContains, api.OpLacks, api.OpOnly}
	orderOperators   = []api.Operator{api.OpEqual, api.OpNotEqual, api.OpLess, api.OpLessEqual, api.OpGreater, api.OpGreaterEqual, api.OpBetween}
	addressOperators = []api.Operator{api.OpEqual, api.OpNotEqual, api.OpIn, api.OpBetween, api.OpGreaterEqual, api.OpLessEqual}
	dateOperators    = []api.Operator{api.OpEqual, api.OpLess, api.OpLessEqual, api.OpGreater, api.OpGreaterEqual, api.OpBetween}
	ageOperators     = []api.Operator{api.OpLess, api.OpLessEqual, api.OpGreater, api.OpGreaterEqual, api.OpOlderThan}
)

const (
	dateHelp = "YYYY-MM-DD (the whole day in UTC), an RFC 3339 time, or a time before the judgement such as now-24h or now-7d."
	portHelp = "Port numbers, comma separated. \"contains\" wants all of them, \"does not contain\" none, \"only these\" nothing else; " +
		"the last two also take ranges such as 1..1023."
	versionHelp = "Compared number by number: 9.180 is newer than 9.9, and 1.2 equals 1.2.0. Text after the numbers is ignored, " +
		"except that dev, alpha, beta, pre and rc come before the release."
	addressHelp = "An address, a prefix such as 192.0.2.0/24, a comma separated list of them (in), or low..high (between)."
	regexHelp   = " \"matches\" takes a regular expression (RE2) that must fit the whole value."
)

// registry lists every fact that rules can use, in the order in which forms show them.
var registry = []FactInfo{
	{Name: api.FactAccessType, Title: "Device Access Type", Type: TypeEnum, Operators: enumOperators[:1],
		Values: []string{string(api.AccessReadOnly), string(api.AccessReadWrite)}, Example: "read-only",
		Help: "The access that the machine asks for."},
	{Name: api.FactMountPoint, Title: "Device Mount Point", Type: TypeString, MultipleConditions: true,
		Operators: []api.Operator{api.OpEqual, api.OpNotEqual, api.OpStartsWith, api.OpMatches}, Example: "/mnt/secure",
		Help: "Where the device is mounted if the key is approved: a path or a drive letter." + regexHelp},
	{Name: api.FactGuestOS, Title: "Guest OS Information: OS", Type: TypeEnum, MultipleConditions: true, Operators: enumOperators,
		Values: []string{"linux", "windows"}, Example: "linux", Help: "The operating system that the agent runs on."},
	{Name: api.FactArchitecture, Title: "Guest OS Information: Architecture", Type: TypeEnum, MultipleConditions: true,
		Operators: enumOperators, Values: []string{"32", "64"}, Example: "64", Help: "The word size of the operating system in bits."},
	{Name: api.FactRequestDate, Title: "Key Request Date", Type: TypeDate, MultipleConditions: true, Operators: dateOperators,
		Example: "2026-12-31", Help: "When the broker received the key request. " + dateHelp, Observed: true},
	{Name: api.FactFirstSeen, Title: "Instance First Seen", Type: TypeDate, MultipleConditions: true, Operators: ageOperators,
		Example: "now-30d", Help: "When the broker first heard of the instance. \"older than\" takes seconds. " + dateHelp, Observed: true},
	{Name: api.FactLastSeen, Title: "Instance Last Seen", Type: TypeDate, MultipleConditions: true, Operators: ageOperators,
		Example: "now-24h", Help: "When the broker last heard of the instance before this request; \">= now-24h\" wants a sign of life " +
			"within a day. \"older than\" takes seconds. " + dateHelp, Observed: true},
	{Name: api.FactUserData, Title: "Instance User Data", Type: TypeString, MultipleConditions: true,
		Operators: []api.Operator{api.OpEqual, api.OpContains, api.OpMatches}, Example: "DataKey=MySecret-Key",
		Help: "The data given to the instance when it was started." + regexHelp},
	{Name: api.FactLocation, Title: "Instance Location", Type: TypeString, MultipleConditions: true,
		Operators: []api.Operator{api.OpEqual, api.OpNotEqual, api.OpIn}, Example: "us-east-1c",
		Help: "The zone or site that runs the instance; \"in\" takes a comma separated list."},
	{Name: api.FactTCPPorts, Title: "Network Services (TCP)", Type: TypeNumberSet, MultipleConditions: true, Operators: setOperators,
		Example: "22, 443", Help: "The TCP ports on which the machine listens. " + portHelp},
	{Name: api.FactUDPPorts, Title: "Network Services (UDP)", Type: TypeNumberSet, MultipleConditions: true, Operators: setOperators,
		Example: "68, 123", Help: "The UDP ports on which the machine listens. " + portHelp},
	{Name: api.FactSourceIPv4, Title: "Request Source IP Address (IPv4)", Type: TypeAddress, MultipleConditions: true,
		Operators: addressOperators, Example: "192.168.0.0/16", Help: "The IPv4 address that the key request came from. " + addressHelp, Observed: true},
	{Name: api.FactSourceIPv6, Title: "Request Source IP Address (IPv6)", Type: TypeAddress, MultipleConditions: true,
		Operators: addressOperators, Example: "2001:db8::/32", Help: "The IPv6 address that the key request came from. " + addressHelp, Observed: true},
	{Name: api.FactHostName, Title: "Host Name", Type: TypeString, MultipleConditions: true, Operators: textOperators,
		Example: "db-01.example.org", Help: "The machine's host name, compared exactly." + regexHelp},
	{Name: api.FactOSName, Title: "OS Name", Type: TypeString, MultipleConditions: true, Operators: textOperators,
		Example: "Debian GNU/Linux 12 (bookworm)", Help: "The operating system's full name, compared exactly." + regexHelp},
	{Name: api.FactOSVersion, Title: "OS Version", Type: TypeVersion, MultipleConditions: true, Operators: orderOperators,
		Example: "12.5", Help: "The operating system's version. " + versionHelp},
	{Name: api.FactKernelVersion, Title: "Kernel Version", Type: TypeVersion, MultipleConditions: true, Operators: orderOperators,
		Example: "6.1.0-18", Help: "The running kernel's version. " + versionHelp},
	{Name: api.FactAgentVersion, Title: "Agent Version", Type: TypeVersion, MultipleConditions: true, Operators: orderOperators,
		Example: "1.2.0", Help: "The agent's version. " + versionHelp},
}

// Facts lists every fact that rules can use, in the order to show them. The slice is the caller's.
func Facts() []FactInfo {
	facts := slices.Clone(registry)
	for i := range facts {
		facts[i].Operators = slices.Clone(facts[i].Operators)
		facts[i].Values = slices.Clone(facts[i].Values)
	}
	return facts
}

// lookup finds a fact's description.
func lookup(name api.FactName) (FactInfo, bool) {
	i := slices.IndexFunc(registry, func(f FactInfo) bool { return f.Name == name })
	if i < 0 {
		return FactInfo{}, false
	}
	return registry[i], true
}

// titleOf is a fact's title; a fact that this broker does not know is shown by its name.
func titleOf(name api.FactName) string {
	if info, ok := lookup(name); ok {
		return info.Title
	}
	return string(name)
}
