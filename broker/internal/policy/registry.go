package policy

import (
	"slices"

	"keyward/broker/api"
)

var (
	signedOperators  = []api.Operator{api.OpEqual, api.OpNotEqual, api.OpIn}
	textOperators    = []api.Operator{api.OpEqual, api.OpNotEqual, api.OpIn, api.OpStartsWith, api.OpContains, api.OpMatches}
	enumOperators    = []api.Operator{api.OpEqual, api.OpNotEqual}
	setOperators     = []api.Operator{api.OpContains, api.OpLacks, api.OpOnly}
	orderOperators   = []api.Operator{api.OpEqual, api.OpNotEqual, api.OpLess, api.OpLessEqual, api.OpGreater, api.OpGreaterEqual, api.OpBetween}
	addressOperators = []api.Operator{api.OpEqual, api.OpNotEqual, api.OpIn, api.OpBetween, api.OpGreaterEqual, api.OpLessEqual}
	dateOperators    = []api.Operator{api.OpEqual, api.OpLess, api.OpLessEqual, api.OpGreater, api.OpGreaterEqual, api.OpBetween}
	datedOperators   = append(slices.Clone(dateOperators), api.OpOlderThan)
	digestOperators  = []api.Operator{api.OpEqual, api.OpNotEqual, api.OpIn}
	ageOperators     = []api.Operator{api.OpLess, api.OpLessEqual, api.OpGreater, api.OpGreaterEqual, api.OpOlderThan}
)

const (
	dateHelp = "YYYY-MM-DD (the whole day in UTC), an RFC 3339 time, or a time before the judgement such as now-24h or now-7d."
	portHelp = "Port numbers, comma separated. \"contains\" wants all of them, \"does not contain\" none, \"only these\" nothing else; " +
		"the last two also take ranges such as 1..1023."
	versionHelp = "Compared number by number: 9.180 is newer than 9.9, and 1.2 equals 1.2.0. Text after the numbers is ignored, " +
		"except that dev, alpha, beta, pre and rc come before the release."
	packageHelp = "Compared as the package manager does: 3.0.11-1~deb12u2 is newer than 3.0.11-1~deb12u1. A value without an epoch " +
		"(the number before a colon) leaves the epoch out."
	setHelp     = "Comma separated. \"contains\" wants all of them, \"does not contain\" none, \"only these\" nothing else."
	addressHelp = "An address, a prefix such as 192.0.2.0/24, a comma separated list of them (in), or low..high (between)."
	signedHelp  = " Signed by the provider and bound to the machine's key at first sight; it has no nonce, so it tells who the machine is, not that it is fit. " +
		"\"in\" takes a comma separated list."
	regexHelp = " \"matches\" takes a regular expression (RE2) that must fit the whole value."
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
	{Name: api.FactHardwareUUID, Title: "Hardware UUID", Type: TypeString, MultipleConditions: true, Operators: []api.Operator{api.OpEqual, api.OpNotEqual, api.OpIn},
		Example: "4c4c4544-0032-4410-8035-b2c04f4b5931", Help: "The SMBIOS UUID of the machine, in lower case as Linux shows it; \"in\" takes a comma separated list."},
	{Name: api.FactOSName, Title: "OS Name", Type: TypeString, MultipleConditions: true, Operators: textOperators,
		Example: "Debian GNU/Linux 12 (bookworm)", Help: "The operating system's full name, compared exactly." + regexHelp},
	{Name: api.FactOSVersion, Title: "OS Version", Type: TypeVersion, MultipleConditions: true, Operators: orderOperators,
		Example: "12.5", Help: "The operating system's version. " + versionHelp},
	{Name: api.FactKernelVersion, Title: "Kernel Version", Type: TypeVersion, MultipleConditions: true, Operators: orderOperators,
		Example: "6.1.0-18", Help: "The running kernel's version. " + versionHelp},
	{Name: api.FactAgentVersion, Title: "Agent Version", Type: TypeVersion, MultipleConditions: true, Operators: orderOperators,
		Example: "1.2.0", Help: "The agent's version. " + versionHelp},
	{Name: api.FactOSPatchLevel, Title: "OS Patch Level", Type: TypeVersion, MultipleConditions: true, Operators: orderOperators,
		Example: "12.11", Help: "The operating system's point release or service pack. " + versionHelp},
	{Name: api.FactOSUpdated, Title: "OS Last Updated", Type: TypeDate, MultipleConditions: true, Operators: datedOperators,
		Example: "now-30d", Help: "When a package was last installed or updated. \"older than\" takes seconds. " + dateHelp},
	{Name: api.FactSecureBoot, Title: "Secure Boot", Type: TypeEnum, MultipleConditions: true, Operators: enumOperators,
		Values: []string{"enabled", "disabled", "setup mode", "legacy BIOS"}, Example: "enabled",
		Help: "What the machine's firmware says of UEFI secure boot; \"legacy BIOS\" started without UEFI."},
	{Name: api.FactPackageVersion, Title: "Package Version", Type: TypePackageVersion, Subject: packageSubject, MultipleConditions: true,
		Operators: orderOperators, Example: "3.0.11-1~deb12u2", Help: "The version of an installed package. " + packageHelp},
	{Name: api.FactPackageState, Title: "Package State", Type: TypeEnum, Subject: packageSubject, MultipleConditions: true, Operators: enumOperators,
		Values: []string{"installed", "incomplete", "not installed"}, Example: "not installed", Help: "Whether a package is installed."},
	{Name: api.FactFileSHA256, Title: "File Digest", Type: TypeDigest, Subject: pathSubject, MultipleConditions: true, Operators: digestOperators,
		Example: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		Help:    "The SHA-256 digest of a file's content, 64 hexadecimal digits; \"in\" takes a comma separated list."},
	{Name: api.FactTPMPCR, Title: "TPM PCR", Type: TypeDigest, Subject: pcrSubject, MultipleConditions: true, Operators: digestOperators,
		Example: "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969", Observed: true,
		Help: "What the machine's TPM signed for this request as the value of a platform configuration register, SHA-256 bank; \"in\" takes a comma " +
			"separated list. A rule on it needs a machine with a TPM: without a quote it fails."},
	{Name: api.FactIdentityKey, Title: "Machine Key", Type: TypeEnum, MultipleConditions: true, Operators: enumOperators,
		Values: []string{api.KeyInCertifiedTPM, api.KeyInTPM, api.KeyInSoftware}, Example: api.KeyInCertifiedTPM, Observed: true,
		Help: "Where the key lives by which the machine proves who it is. A \"certified TPM\" is endorsed by a maker that the broker trusts, " +
			"a \"TPM\" was believed at first sight; a key in software can be copied by whoever is root."},
	{Name: api.FactCloudProvider, Title: "Cloud Provider", Type: TypeString, MultipleConditions: true, Operators: signedOperators,
		Example: "aws", Help: "The provider that signed the instance's identity." + signedHelp, Observed: true},
	{Name: api.FactCloudAccount, Title: "Cloud Account", Type: TypeString, MultipleConditions: true, Operators: signedOperators,
		Example: "123456789012", Help: "The account that the instance runs in." + signedHelp, Observed: true},
	{Name: api.FactCloudRegion, Title: "Cloud Region", Type: TypeString, MultipleConditions: true, Operators: signedOperators,
		Example: "eu-central-1", Help: "The region that the instance runs in." + signedHelp, Observed: true},
	{Name: api.FactCloudInstance, Title: "Cloud Instance", Type: TypeString, MultipleConditions: true, Operators: signedOperators,
		Example: "i-0123456789abcdef0", Help: "The instance's ID." + signedHelp, Observed: true},
	{Name: api.FactCloudImage, Title: "Cloud Image", Type: TypeString, MultipleConditions: true, Operators: signedOperators,
		Example: "ami-0123456789abcdef0", Help: "The image that the instance was started from." + signedHelp, Observed: true},
	{Name: api.FactCloudInstanceType, Title: "Cloud Instance Type", Type: TypeString, MultipleConditions: true, Operators: signedOperators,
		Example: "m6i.large", Help: "The instance's type." + signedHelp, Observed: true},
	{Name: api.FactScriptText, Title: "Script Result (Text)", Type: TypeString, Subject: scriptSubject, MultipleConditions: true,
		Operators: textOperators, Example: "compliant", Help: "What a script of the machine printed." + regexHelp},
	{Name: api.FactScriptNumber, Title: "Script Result (Number)", Type: TypeNumber, Subject: scriptSubject, MultipleConditions: true,
		Operators: orderOperators, Example: "0", Help: "The number that a script of the machine printed, such as 17 or -2.5; \"between\" takes low..high."},
	{Name: api.FactSecuritySoftware, Title: "Security Softwares", Type: TypeSet, MultipleConditions: true, Operators: setOperators,
		Values: products, Example: api.ProductDeepSecurity, Help: "The security products that are installed. " + setHelp},
	{Name: api.FactSecurityVersion, Title: "Security Software Version", Type: TypeVersion, Subject: productSubject, MultipleConditions: true,
		Operators: orderOperators, Example: "4.7.2", Help: "The version of a product's agent. " + versionHelp},
	{Name: api.FactSecurityState, Title: "Security Software State", Type: TypeEnum, Subject: productSubject, MultipleConditions: true,
		Operators: enumOperators, Values: []string{"running", "impaired", "stopped"}, Example: "running",
		Help: "Whether a product is at work; \"impaired\" runs, but without contact to its manager or with a fault that it reports itself."},
	{Name: api.FactAVEngine, Title: "Virus Scan Engine Version", Type: TypeVersion, Subject: scannerSubject, MultipleConditions: true,
		Operators: orderOperators, Example: "9.180.1104", Help: "The version of a virus scanner's engine. " + versionHelp},
	{Name: api.FactAVPattern, Title: "Virus Scan Pattern Version", Type: TypeVersion, Subject: scannerSubject, MultipleConditions: true,
		Operators: orderOperators, Example: "7.753.00", Help: "The version of a virus scanner's patterns (signatures). " + versionHelp},
	{Name: api.FactAVPatternDate, Title: "Virus Scan Pattern Date", Type: TypeDate, Subject: scannerSubject, MultipleConditions: true,
		Operators: datedOperators, Example: "now-3d", Help: "When a virus scanner's patterns were made or, where it does not tell, last updated. \"older than\" takes seconds. " + dateHelp},
	{Name: api.FactAVRealTime, Title: "Virus Scan in Real Time", Type: TypeEnum, Subject: scannerSubject, MultipleConditions: true,
		Operators: enumOperators, Values: []string{"on", "off"}, Example: "on", Help: "Whether a virus scanner looks at files as they are used."},
	{Name: api.FactDSMStatus, Title: "Deep Security Status", Type: TypeEnum, MultipleConditions: true, Operators: enumOperators,
		Values: []string{"green", "yellow", "red", "grey"}, Example: "green", Observed: true,
		Help: "How the Deep Security Manager shows the machine: green is managed and well, grey has no agent that reports."},
	deepSecurity(api.FactDSMAntiMalware, "Anti-Malware"), deepSecurity(api.FactDSMWebReputation, "Web Reputation"),
	deepSecurity(api.FactDSMFirewall, "Firewall"), deepSecurity(api.FactDSMIntrusionPrevention, "DPI"),
	deepSecurity(api.FactDSMIntegrityMonitoring, "Integrity Monitoring"), deepSecurity(api.FactDSMLogInspection, "Log Inspection"),
	{Name: api.FactExpression, Title: "Expression", Type: TypeExpression, MultipleConditions: true, Operators: []api.Operator{api.OpHolds},
		Example: `facts.guest_os == "linux" && !(80 in facts.listening_tcp_ports)`, Help: expressionHelp},
}

// deepSecurity describes the fact about one module of Deep Security.
func deepSecurity(name api.FactName, module string) FactInfo {
	return FactInfo{Name: name, Title: "Deep Security Status: " + module, Type: TypeEnum, MultipleConditions: true, Operators: enumOperators,
		Values: []string{"on", "off", "warning", "error", "not-capable"}, Example: "on", Observed: true,
		Help: "What the Deep Security Manager says of the module; \"on\" is switched on and at work."}
}
