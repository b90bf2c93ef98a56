package console

import (
	"context"
	"crypto/ed25519"
	"io"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keyrequest"
	"keyward/broker/internal/policy"
	"keyward/broker/internal/tenant"
)

// Accounts is the account's people, sessions and settings.
type Accounts interface {
	LogOn(ctx context.Context, in api.LogOn, address, userAgent string) (api.LoggedOn, error)
	// Authenticate finds the person of a session token and notes that the session is in use.
	Authenticate(ctx context.Context, token, address string) (tenant.Principal, error)
	// AuthenticateAny is Authenticate for sessions that are not complete too.
	AuthenticateAny(ctx context.Context, token, address string) (tenant.Principal, error)
	LogOff(ctx context.Context, p tenant.Principal) error

	FactorInfo(ctx context.Context, p tenant.Principal) (api.FactorInfo, error)
	StartFactor(ctx context.Context, p tenant.Principal, in api.FactorStart) (api.FactorSetup, error)
	ConfirmFactor(ctx context.Context, p tenant.Principal, in api.FactorCode) (api.RecoveryCodes, error)
	// ShowFactor completes a log-on, or makes the session's second factor fresh until the time that it returns.
	ShowFactor(ctx context.Context, p tenant.Principal, in api.FactorCode) (time.Time, error)
	NewRecoveryCodes(ctx context.Context, p tenant.Principal, in api.FactorCode) (api.RecoveryCodes, error)
	RemoveFactor(ctx context.Context, p tenant.Principal, in api.FactorCode) error
	ResetFactor(ctx context.Context, p tenant.Principal, userID string) error
	FactorSettings(ctx context.Context, p tenant.Principal) (api.FactorSettings, error)
	SetFactorSettings(ctx context.Context, p tenant.Principal, in api.FactorSettings) error

	Account(ctx context.Context, p tenant.Principal) (api.Account, error)
	Users(ctx context.Context, p tenant.Principal) ([]api.User, error)
	User(ctx context.Context, p tenant.Principal, id string) (api.User, error)
	CreateUser(ctx context.Context, p tenant.Principal, in api.UserWrite) (api.User, error)
	UpdateUser(ctx context.Context, p tenant.Principal, id string, in api.UserWrite) (api.User, error)
	DeleteUser(ctx context.Context, p tenant.Principal, id string) error
	Roles(ctx context.Context, p tenant.Principal) ([]api.RoleInfo, error)

	ChangePassword(ctx context.Context, p tenant.Principal, in api.PasswordChange) error
	Sessions(ctx context.Context, p tenant.Principal) ([]api.Session, error)
	EndSession(ctx context.Context, p tenant.Principal, id string) error

	SetTimeSettings(ctx context.Context, p tenant.Principal, in api.TimeSettings) error
	// TimeChoices lists the IANA zones and the date layouts (of package time) that may be set.
	TimeChoices() (zones, layouts []string)

	Tokens(ctx context.Context, p tenant.Principal) ([]api.EnrolmentTokenInfo, error)
	CreateToken(ctx context.Context, p tenant.Principal, in api.EnrolmentTokenWrite) (api.EnrolmentTokenInfo, error)
	DeleteToken(ctx context.Context, p tenant.Principal, id string) error
}

// Inventory is images, instances, devices and RAID sets.
type Inventory interface {
	Images(ctx context.Context, p tenant.Principal) ([]api.Image, error)
	Image(ctx context.Context, p tenant.Principal, id string) (api.Image, error)
	RenameImage(ctx context.Context, p tenant.Principal, id string, in api.ImageWrite) (api.Image, error)
	Instances(ctx context.Context, p tenant.Principal, q inventory.InstanceQuery) ([]api.Instance, int64, error)
	Instance(ctx context.Context, p tenant.Principal, id string) (api.Instance, error)
	RevokeCertificate(ctx context.Context, p tenant.Principal, id string, d api.Decision) error
	AcceptKey(ctx context.Context, p tenant.Principal, id string, d api.Decision) error
	RefuseKey(ctx context.Context, p tenant.Principal, id string, d api.Decision) error
	RevokeImageCertificate(ctx context.Context, p tenant.Principal, id string, d api.Decision) error

	// Devices lists devices and RAID sets; Device finds either.
	Devices(ctx context.Context, p tenant.Principal, q inventory.DeviceQuery) ([]api.Device, int64, error)
	Device(ctx context.Context, p tenant.Principal, id string) (api.Device, error)
	Configure(ctx context.Context, p tenant.Principal, id string, in api.DeviceWrite) error
	Encrypt(ctx context.Context, p tenant.Principal, id string, in api.EncryptWrite) error
	CancelEncryption(ctx context.Context, p tenant.Principal, id string) error
	Unconfigure(ctx context.Context, p tenant.Principal, id string, in api.UnconfigureWrite) error
	DeleteDevice(ctx context.Context, p tenant.Principal, id string) error
	CopyConfiguration(ctx context.Context, p tenant.Principal, id, sourceID string) error
	// RotateKey makes a key that waits beside the one that the volume has, and the job for it.
	RotateKey(ctx context.Context, p tenant.Principal, id string, in api.KeyRotationWrite) error
	CancelRotation(ctx context.Context, p tenant.Principal, id string) error
	// JobList lists jobs, newest first: of one device, or of all.
	JobList(ctx context.Context, p tenant.Principal, deviceID string) ([]api.Job, error)
	// Export writes a zip archive of encrypted keys; nothing is written when it fails.
	Export(ctx context.Context, p tenant.Principal, in api.ExportWrite, w io.Writer) error

	CreateRAIDSet(ctx context.Context, p tenant.Principal, in api.RAIDSetWrite) (api.Device, error)
	UpdateRAIDSet(ctx context.Context, p tenant.Principal, id string, in api.RAIDSetWrite) error
	UnconfigureRAIDSet(ctx context.Context, p tenant.Principal, id string, in api.UnconfigureWrite) error
	DeleteRAIDSet(ctx context.Context, p tenant.Principal, id string) error
}

// Policies is the account's policies.
type Policies interface {
	List(ctx context.Context, p tenant.Principal) ([]api.Policy, error)
	Get(ctx context.Context, p tenant.Principal, id string) (api.Policy, error)
	Create(ctx context.Context, p tenant.Principal, in api.Policy) (api.Policy, error)
	Update(ctx context.Context, p tenant.Principal, id string, in api.Policy) (api.Policy, error)
	Delete(ctx context.Context, p tenant.Principal, ids ...string) error
	Facts() []policy.FactInfo
}

// Previews says what a policy would do if it were saved, and what it would have done.
type Previews interface {
	Policy(ctx context.Context, p tenant.Principal, draft api.Policy) (api.PolicyPreview, error)
	Replay(ctx context.Context, p tenant.Principal, draft api.Policy, days int) (api.PolicyReplay, error)
}

// Requests is the key requests of running instances.
type Requests interface {
	List(ctx context.Context, p tenant.Principal, f keyrequest.Filter) (api.RunningInstances, error)
	Get(ctx context.Context, p tenant.Principal, id string) (api.KeyRequestDetail, error)
	Approve(ctx context.Context, p tenant.Principal, id string, d api.Decision) error
	Deny(ctx context.Context, p tenant.Principal, id string, d api.Decision) error
	Revoke(ctx context.Context, p tenant.Principal, id string, d api.Decision) error
	AssignPolicy(ctx context.Context, p tenant.Principal, id string, in api.PolicyAssignment) error
	Ignore(ctx context.Context, p tenant.Principal, id string, d api.Decision) error

	CheckSchedule(ctx context.Context, p tenant.Principal) (api.CheckSchedule, error)
	SetCheckSettings(ctx context.Context, p tenant.Principal, in api.CheckSettings) error
	// CheckNow asks a machine for fresh evidence, CheckDevice the machine of a device.
	CheckNow(ctx context.Context, p tenant.Principal, instanceID string) (api.CheckAsked, error)
	CheckDevice(ctx context.Context, p tenant.Principal, deviceID string) (api.CheckAsked, error)
	// Notices are what happened by itself and nobody has put aside.
	Notices(ctx context.Context, p tenant.Principal) (api.NoticeList, error)
	Dismiss(ctx context.Context, p tenant.Principal, id string) error
	// Clear takes a person's word that a machine under suspicion is the only one of its identity.
	Clear(ctx context.Context, p tenant.Principal, instanceID string, in api.Clearance) error
}

// Exports are the exports of keys that several people agree on.
type Exports interface {
	List(ctx context.Context, p tenant.Principal) ([]api.KeyExport, error)
	Get(ctx context.Context, p tenant.Principal, id string) (api.KeyExport, error)
	Ask(ctx context.Context, p tenant.Principal, in api.KeyExportWrite) (api.KeyExport, error)
	AskRecoveryKey(ctx context.Context, p tenant.Principal, in api.RecoveryKeyAsk) (api.KeyExport, error)
	Approve(ctx context.Context, p tenant.Principal, id string, d api.Decision) (api.KeyExport, error)
	Deny(ctx context.Context, p tenant.Principal, id string, d api.Decision) (api.KeyExport, error)
	Cancel(ctx context.Context, p tenant.Principal, id string, d api.Decision) (api.KeyExport, error)
	// Fetch writes the archive of an approved export, once; nothing is written when it fails.
	Fetch(ctx context.Context, p tenant.Principal, id string, in api.KeyExportFetch, w io.Writer) error
	// SetRecoveryKey makes the recovery key of an approved export the account's.
	SetRecoveryKey(ctx context.Context, p tenant.Principal, id string) (api.RecoveryKey, error)
	Settings(ctx context.Context, p tenant.Principal) (api.ExportSettings, error)
	SetSettings(ctx context.Context, p tenant.Principal, in api.ExportSettings) error
}

// Recovery is the account's recovery key.
type Recovery interface {
	// Key answers the problem "not-found" where there is none.
	Key(ctx context.Context, p tenant.Principal) (api.RecoveryKey, error)
	SetKey(ctx context.Context, p tenant.Principal, in api.RecoveryKeyWrite) (api.RecoveryKey, error)
	RetireKey(ctx context.Context, p tenant.Principal) error
	Machines(ctx context.Context, p tenant.Principal) ([]api.RecoveryMachine, error)
}

// DeepSecurity is the account's connection to a Deep Security Manager.
type DeepSecurity interface {
	Settings(ctx context.Context, p tenant.Principal) (api.DeepSecuritySettings, error)
	SetSettings(ctx context.Context, p tenant.Principal, in api.DeepSecuritySettingsWrite) error
	// Test asks the manager and changes nothing.
	Test(ctx context.Context, p tenant.Principal, in api.DeepSecuritySettingsWrite) error
}

// Audit is the account's audit log.
type Audit interface {
	Query(ctx context.Context, p tenant.Principal, f audit.Filter) (api.AuditPage, error)
	// ExportCSV and ExportJSONL write what the filter selects, oldest first; paging does not count.
	ExportCSV(ctx context.Context, p tenant.Principal, f audit.Filter, w io.Writer) error
	ExportJSONL(ctx context.Context, p tenant.Principal, f audit.Filter, w io.Writer) error

	Prove(ctx context.Context, p tenant.Principal, q audit.Question) ([]byte, error)
	SignedHead(ctx context.Context, p tenant.Principal) (chain.Checkpoint, error)
	Checkpoints(ctx context.Context, p tenant.Principal, page, size int) (api.AuditCheckpoints, error)
	PublicKey() ed25519.PublicKey
	Archives(ctx context.Context, p tenant.Principal) (api.AuditArchives, error)
	DeleteArchives(ctx context.Context, p tenant.Principal, in api.AuditDelete) error
}
