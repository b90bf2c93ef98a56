package api

// KeyStatus is the state of a key request, by the names that scripts of the succeeded product know.
type KeyStatus string

// The states of a key request; see the key request machine in docs/agent-protocol.md.
const (
	KeyPending       KeyStatus = "Pending"
	KeyApproved      KeyStatus = "Approved"
	KeyDelivered     KeyStatus = "Delivered"
	KeyDenied        KeyStatus = "Denied"
	KeyRevokePending KeyStatus = "Revoke_Pending"
	KeyRevokeIgnored KeyStatus = "Revoke_Ignored"
	KeyRevoking      KeyStatus = "Revoking"
	KeyRevoked       KeyStatus = "Revoked"
	KeyExpired       KeyStatus = "Expired"
	KeyFailure       KeyStatus = "Failure"
)

// Integrity is the rating shown beside a key request.
type Integrity string

// The ratings. The Unknown family keeps the reason why nothing could be judged.
const (
	IntegrityGood             Integrity = "Good"
	IntegrityBad              Integrity = "Bad"
	IntegrityFailed           Integrity = "Failed" // a later check no longer matches the policy
	IntegrityUnknownDevPolicy Integrity = "Unknown_DevPolicy"
	IntegrityUnknownImgPolicy Integrity = "Unknown_ImgPolicy"
	IntegrityUnknownMismatch  Integrity = "Unknown_DevImgPolicy"
	IntegrityUnknownNoRules   Integrity = "Unknown_NoRules"
)

// DeviceStatus is the state of a device or RAID set in the inventory.
type DeviceStatus string

// The states of a device; DeviceMissing belongs to RAID sets only, DeviceUndetected to single devices only.
const (
	DeviceNotConfigured     DeviceStatus = "Not configured"
	DeviceConfigured        DeviceStatus = "Configured"
	DeviceEncryptionPending DeviceStatus = "Encryption pending"
	DeviceEncrypting        DeviceStatus = "Encrypting"
	DeviceEncryptionError   DeviceStatus = "Encryption error"
	DeviceEncrypted         DeviceStatus = "Encrypted"
	DeviceInUse             DeviceStatus = "In-use"
	DeviceUndetected        DeviceStatus = "Undetected"
	DeviceMissing           DeviceStatus = "Device Missing"
)

// Role is one of the five administrator roles; a user has exactly one.
type Role string

// The five roles, by their names in role tables and wire messages.
const (
	RoleAccountAdmin  Role = "account-administrator"
	RoleSecurityAdmin Role = "security-administrator"
	RoleDataAnalyst   Role = "data-analyst"
	RoleAuditor       Role = "auditor"
	RoleKeyApprover   Role = "key-approver"
)

// Action is what a policy does with a request.
type Action string

// The actions of a policy's two outcomes.
const (
	ActionApprove Action = "approve"
	ActionManual  Action = "manual"
	ActionDeny    Action = "deny"
)

// CheckAction is what a policy does when a later check fails.
type CheckAction string

// The actions of integrity checks after delivery.
const (
	CheckNotify CheckAction = "notify"
	CheckRevoke CheckAction = "revoke"
)

// RevokeMode says how an agent gives a key up.
type RevokeMode string

// The modes: unmount ends the mount; suspend holds all requests, with the key wiped, until the key is granted again.
const (
	RevokeUnmount RevokeMode = "unmount"
	RevokeSuspend RevokeMode = "suspend"
)

// Access is how a volume may be used.
type Access string

// The access types.
const (
	AccessReadOnly  Access = "read-only"
	AccessReadWrite Access = "read-write"
)
