// Package api holds the wire types of both broker interfaces: the agents' protocol under /agent/v1 and the people's
// interface under /api/v1. It has no logic beyond naming things, and imports nothing else of Keyward, so that broker,
// agent, volume service and tests share one vocabulary.
//
// Conventions: times are RFC 3339 in UTC, durations are whole seconds and end in _seconds, sizes are bytes, byte
// strings are standard base64, identifiers are opaque strings.
package api

import "time"

// Grade says who vouches for a fact (RFC 9334: the endorsement behind a claim). Grades order from weak to strong.
type Grade string

// The grades, weakest first.
const (
	// GradeSelfReported is the word of the machine that is being judged.
	GradeSelfReported Grade = "self-reported"
	// GradeAPIConfirmed was read by the broker itself from a system other than the machine.
	GradeAPIConfirmed Grade = "api-confirmed"
	// GradeCloudSigned carries a provider's signature.
	GradeCloudSigned Grade = "cloud-signed"
	// GradeHardwareSigned carries a signature of the machine's TPM or TEE over this request's nonce.
	GradeHardwareSigned Grade = "hardware-signed"
	// GradeBrokerObserved was seen by the broker itself: arrival time, source address, its own records.
	GradeBrokerObserved Grade = "broker-observed"
)

// FactName names one collected value. The set is open: an agent may send names that a broker does not know yet.
type FactName string

// The facts that rules can use. Those marked "broker" are added by the broker and refused when an agent sends them.
const (
	FactGuestOS       FactName = "guest_os"            // "linux" or "windows"
	FactArchitecture  FactName = "guest_architecture"  // "64" or "32" (bits)
	FactHostName      FactName = "host_name"           // string
	FactKernelVersion FactName = "kernel_version"      // version
	FactOSVersion     FactName = "os_version"          // version, VERSION_ID of os-release
	FactOSName        FactName = "os_name"             // string, PRETTY_NAME of os-release
	FactTCPPorts      FactName = "listening_tcp_ports" // set of numbers
	FactUDPPorts      FactName = "listening_udp_ports" // set of numbers
	FactMountPoint    FactName = "device_mount_point"  // string
	FactAccessType    FactName = "device_access_type"  // "read-only" or "read-write"
	FactLocation      FactName = "instance_location"   // string
	FactUserData      FactName = "instance_user_data"  // string
	FactAgentVersion  FactName = "agent_version"       // version
	FactRequestDate   FactName = "key_request_date"    // date, broker
	FactSourceIPv4    FactName = "source_ipv4"         // IP address, broker
	FactSourceIPv6    FactName = "source_ipv6"         // IP address, broker
	FactFirstSeen     FactName = "instance_first_seen" // date, broker
	FactLastSeen      FactName = "instance_last_seen"  // date, broker

	FactSecureBoot   FactName = "secure_boot"    // "enabled", "disabled", "setup mode" or "legacy BIOS"
	FactOSPatchLevel FactName = "os_patch_level" // version: point release or service pack
	FactHardwareUUID FactName = "hardware_uuid"  // string, the SMBIOS one
	FactOSUpdated    FactName = "os_updated"     // date of the newest installation or update of a package

	FactIdentityKey FactName = "identity_key" // "certified TPM", "TPM" or "software", broker: where the machine's key lives

	FactCloudProvider     FactName = "cloud_provider"      // string, broker, as all of these: "aws"
	FactCloudAccount      FactName = "cloud_account"       // string
	FactCloudRegion       FactName = "cloud_region"        // string
	FactCloudInstance     FactName = "cloud_instance"      // string
	FactCloudImage        FactName = "cloud_image"         // string
	FactCloudInstanceType FactName = "cloud_instance_type" // string

	FactSecuritySoftware FactName = "security_software" // set of strings: the products below that are installed
)

// Facts that there are several of, one for each subject.
const (
	FactPackageVersion FactName = "package_version" // version as packages count; subject: name of the package
	FactPackageState   FactName = "package_state"   // "installed", "incomplete" or "not installed"; subject: name of the package
	FactTPMPCR         FactName = "tpm_pcr"         // digest in hexadecimal, broker; subject: number of the PCR, SHA-256 bank
	FactFileSHA256     FactName = "file_sha256"     // digest in hexadecimal; subject: absolute path
	FactScriptText     FactName = "script_text"     // string; subject: name of the script in the agent's configuration
	FactScriptNumber   FactName = "script_number"   // number; subject: the same

	FactSecurityVersion FactName = "security_version"   // version; subject: product
	FactSecurityState   FactName = "security_state"     // "running", "impaired" or "stopped"; subject: product
	FactAVEngine        FactName = "av_engine_version"  // version; subject: product
	FactAVPattern       FactName = "av_pattern_version" // version; subject: product
	FactAVPatternDate   FactName = "av_pattern_date"    // date; subject: product
	FactAVRealTime      FactName = "av_real_time"       // "on" or "off"; subject: product
)

// The values of FactIdentityKey, strongest first.
const (
	KeyInCertifiedTPM = "certified TPM" // its endorsement certificate leads to one of the broker's TPM roots
	KeyInTPM          = "TPM"           // its endorsement key was pinned at first sight
	KeyInSoftware     = "software"      // a file of root, mode 0600
)

// Security products that agents know: subjects of the security_ and av_ facts, and the values of FactSecuritySoftware.
const (
	ProductClamAV        = "ClamAV"
	ProductDefender      = "Microsoft Defender"
	ProductDeepSecurity  = "Deep Security"
	ProductServerProtect = "ServerProtect"
	ProductWazuh         = "Wazuh"
	ProductOSSEC         = "OSSEC"
)

// What a Deep Security Manager says of a machine; read by the broker itself.
const (
	FactDSMStatus              FactName = "deep_security_status"               // "green", "yellow", "red" or "grey"
	FactDSMAntiMalware         FactName = "deep_security_anti_malware"         // "on", "off", "warning", "error" or "not-capable", as all below
	FactDSMWebReputation       FactName = "deep_security_web_reputation"       //
	FactDSMFirewall            FactName = "deep_security_firewall"             //
	FactDSMIntrusionPrevention FactName = "deep_security_intrusion_prevention" //
	FactDSMIntegrityMonitoring FactName = "deep_security_integrity_monitoring" //
	FactDSMLogInspection       FactName = "deep_security_log_inspection"       //
)

// Fact is one collected value with its origin. A fact that could not be collected has no values and says why in
// Missing; a rule on it fails.
type Fact struct {
	Name FactName `json:"name"`
	// Subject says of what the fact is, where there are several of its kind: a package, a path, a product.
	Subject string `json:"subject,omitempty"`
	// Values in text form; one element for a scalar, any number for a set. Versions dotted, dates RFC 3339.
	Values []string `json:"values"`
	// Source says in a few words where the value was read, for example "procfs net/tcp".
	Source  string    `json:"source"`
	Grade   Grade     `json:"grade"`
	At      time.Time `json:"at"`
	Missing string    `json:"missing,omitempty"`
}

// Evidence is what a machine says of itself for one key request or heartbeat (RFC 9334).
type Evidence struct {
	// Nonce is the broker's challenge that this evidence answers; empty on heartbeats.
	Nonce       string    `json:"nonce,omitempty"`
	CollectedAt time.Time `json:"collected_at"`
	Facts       []Fact    `json:"facts"`
	// TPM is the TPM's word, and Cloud the provider's, where there are any.
	TPM   *TPMEvidence   `json:"tpm,omitempty"`
	Cloud *CloudDocument `json:"cloud,omitempty"`
	// Verified are the facts that the broker found to be signed, or read from a system that knows the machine; Unused are
	// those whose source a person has switched off, with the reason. What an agent writes into either is dropped.
	Verified []Fact              `json:"verified,omitempty"`
	Unused   map[FactName]string `json:"unused,omitempty"`
}
