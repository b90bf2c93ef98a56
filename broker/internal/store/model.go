package store

import (
	"time"

	"keyward/broker/api"
)

// Base is what every row of a tenant's table has. Version counts writes: an Update whose Version is not the stored one
// fails with ErrStale, so two people or two brokers never overwrite each other unseen.
type Base struct {
	ID        string `gorm:"primaryKey"`
	AccountID string
	CreatedAt time.Time
	UpdatedAt time.Time
	Version   int64
}

// Account is a tenant. It is the only table, with the broker's own, that is not read through a tenant scope.
type Account struct {
	ID         string `gorm:"primaryKey"`
	Name       string
	TimeZone   string
	DateFormat string
	// WrappedKey is the account's KEK, wrapped by the root key; KeyGeneration counts its rotations.
	WrappedKey    []byte
	RootKeyID     string
	KeyGeneration int64
	// SecondFactor is "optional" (or empty) or "required"; StepUp asks for a fresh one at approvals and exports.
	SecondFactor string
	StepUp       bool
	// ExportPeople is how many Security Administrators must agree to an export, the one who asks among them; 0 means one.
	ExportPeople int64
	// Checks says when delivered keys are judged again, nil before anybody saved it; CheckNextAt is the next time, nil when it is to be computed.
	// CheckAskedAt is the last, with the challenge that machines answer.
	Checks       *api.CheckSettings `gorm:"serializer:json"`
	CheckNextAt  *time.Time
	CheckAskedAt *time.Time
	CheckNonce   string
	// EarlierKeys are the KEKs of generations before that still wrap something, while a rotation goes on.
	EarlierKeys []EarlierKey `gorm:"serializer:json"`
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Version     int64
}

// EarlierKey is a KEK of an account that is being replaced, wrapped by a root key.
type EarlierKey struct {
	Generation int64  `json:"generation"`
	RootKeyID  string `json:"root_key_id"`
	Wrapped    []byte `json:"wrapped"`
}

// RootKey is a root key that wraps, or wrapped, account keys. It is the broker's own: no tenant's.
type RootKey struct {
	ID string `gorm:"primaryKey"`
	// Provider is a keystore.Provider: what kind of place keeps the key.
	Provider string
	// Active is true for the one that wraps new account keys.
	Active bool
	// RetiredAt is when the last account key was wrapped anew by the one that followed.
	RetiredAt *time.Time
	CreatedAt time.Time
	UpdatedAt time.Time
	Version   int64
}

// RootKeyHolder is a broker that runs, or ran until it fell silent, and the IDs of the root keys that it has.
type RootKeyHolder struct {
	ID        string `gorm:"primaryKey"`
	Host      string
	Holds     []string `gorm:"serializer:json"`
	SeenAt    time.Time
	CreatedAt time.Time
	UpdatedAt time.Time
	Version   int64
}

// User is a person's log-on. PasswordHash is an argon2id PHC string.
type User struct {
	Base
	Name         string
	DisplayName  string
	Email        string
	Role         api.Role
	PasswordHash string
	FailedLogOns int
	LockedUntil  *time.Time
	LastLogOnAt  *time.Time
	// FactorSecret is the TOTP secret, wrapped by the account's key; nil without one. It counts once FactorSince is set.
	FactorSecret []byte
	FactorSince  *time.Time
	// FactorStep is the newest time step whose code was used: no code counts twice.
	FactorStep int64
}

// RecoveryCode stands for one code of a second factor, once; it is deleted when it is used. Only its SHA-256 is stored.
type RecoveryCode struct {
	Base
	UserID   string
	CodeHash []byte
}

// Session is one log-on. Only the SHA-256 of its token is stored.
type Session struct {
	Base
	UserID     string
	TokenHash  []byte
	Address    string
	UserAgent  string
	LastSeenAt time.Time
	ExpiresAt  time.Time
	// Stage is empty once the person is logged on; before that "code" or "enrol" says what is still to be done.
	Stage string
	// FactorAt is when a second factor was last shown in this session.
	FactorAt *time.Time
}

// EnrolToken is an enrolment token; only the SHA-256 of its secret is stored.
type EnrolToken struct {
	Base
	Description string
	SecretHash  []byte
	UsesLeft    int
	ExpiresAt   time.Time
	CreatedBy   string
	CreatedByID string // user ID; empty for the operator
}

// Image is a machine image, or a Native machine's own identity. (account, provider, identity) is unique.
type Image struct {
	Base
	Provider    string
	Identity    string
	Name        string
	Description string
	// Certificate is the SHA-256, in hexadecimal, of the one by which machines of the image enrol; "" when there is none.
	Certificate   string
	CertExpiresAt *time.Time
}

// Instance is an enrolled machine. (account, provider, identity) is unique. CertFingerprint is the SHA-256 of the
// client certificate that is valid for it now; a second enrolment replaces it, and none counts after RevokedAt.
type Instance struct {
	Base
	Provider        string
	Identity        string
	HostName        string
	Location        string
	ImageID         string
	AgentVersion    string
	CertFingerprint []byte
	// FormerCertificate is the SHA-256, in hexadecimal, of the one with which the last renewal was asked for. It counts
	// until it ends, because the answer to a renewal may be lost.
	FormerCertificate string
	CertExpiresAt     time.Time
	RevokedAt         *time.Time
	// KeyHash is the SHA-256, in hexadecimal, of the SubjectPublicKeyInfo of the key that its enrolment bound.
	KeyHash     string
	KeyConflict *api.KeyConflict `gorm:"serializer:json"`
	FromImage   bool             // enrolled by its image's certificate
	// TPM is the machine's TPM after activation, TPMChallenge what is asked of one before. EKHash is the SHA-256, in
	// hexadecimal, of the TPM's endorsement key; (account, EKHash) is unique.
	TPM          *TPM          `gorm:"serializer:json"`
	TPMChallenge *TPMChallenge `gorm:"serializer:json"`
	EKHash       string        `gorm:"column:ek_hash"`
	// CloudIdentity is the cloud instance that the machine's key was bound to at first sight; (account, CloudIdentity) is
	// unique.
	CloudIdentity string
	FirstSeenAt   time.Time
	EnrolledAt    time.Time // when the certificate that counts now was given
	LastSeenAt    *time.Time
	SourceIP      string
	Missing       bool
	// PaceSeconds is how often the machine was told last to report; 0 when it never was.
	PaceSeconds int64
	Evidence    api.Evidence `gorm:"serializer:json"` // of the last heartbeat or request
	EnrolledBy  string       // ID of the user who made the enrolment token
	// RunID, BootID and Generation are the agent's newest run, heard of first at RunSince; FormerRuns those before it.
	RunID      string
	BootID     string
	Generation int64
	RunSince   *time.Time
	FormerRuns []Run `gorm:"serializer:json"`
	// Suspicion says why this identity may belong to two machines; empty when nothing speaks for it. While it stands, no
	// policy gives the machine a key.
	Suspicion   string
	SuspectedAt *time.Time
	// CheckAskedAt is when somebody wanted the machine checked, with the challenge; nil once it has answered.
	CheckAskedAt *time.Time
	CheckNonce   string
}

// Run is one run of a machine's agent.
type Run struct {
	RunID      string    `json:"run_id"`
	BootID     string    `json:"boot_id"`
	Generation int64     `json:"generation"`
	LastSeen   time.Time `json:"last_seen"`
	// Pace is how often it was told to report, in seconds.
	Pace int64 `json:"pace,omitempty"`
}

// DeviceSighting says that a device is in the last inventory of a machine. (device, instance) is unique.
type DeviceSighting struct {
	Base
	DeviceID   string
	InstanceID string
}

// Device is a device of the inventory. (account, provider, identity) is unique.
type Device struct {
	Base
	Provider     string
	Identity     string
	Name         string
	Description  string
	Information  string
	Contents     string
	Size         int64
	Status       api.DeviceStatus
	FormerStatus api.DeviceStatus // the status to return to from Undetected
	StatusDetail string
	Platform     string
	FileSystem   string
	MountPoint   string
	Access       api.Access
	KeyBits      int
	ImageID      string
	PolicyID     string
	InstanceID   string // the machine that published it last
	// WriterID is the machine that was given the key last with the right to write; Writers counts how often that became
	// another one.
	WriterID string
	Writers  int64
	// HomeInstanceID is the machine that encrypted it, or that a person gave a clone's key to: a policy alone gives the
	// key to no other. It is empty when that machine has enrolled again since.
	HomeInstanceID string
	RAIDSetID      string `gorm:"column:raid_set_id"`
	// RAIDIndex is the device's place among the members of its RAID set, from 0.
	RAIDIndex int `gorm:"column:raid_index"`
	// Volume is the authoritative volume record; nil until encrypted.
	Volume *api.VolumeRecord `gorm:"serializer:json"`
	// ConfiguredBy is the ID of the user who last configured it, copied its configuration or ordered its encryption.
	ConfiguredBy string
}

// DeviceKey is a device's DEK, wrapped by the account's KEK with the row's identity as associated data.
type DeviceKey struct {
	Base
	DeviceID string
	Bits     int // AES bits: the wrapped XTS key is twice as long
	// Cipher is the volume's, as its record has it.
	Cipher     string
	Generation int64
	// AccountGeneration is that of the account's KEK that wraps it; 0 where the row does not say.
	AccountGeneration int64
	Wrapped           []byte
	// Pending says that no data is written with it yet: it waits for a job, beside the key that the volume has.
	Pending bool
}

// RAIDSet is a RAID 0 set of devices; a member's key stays with the member.
type RAIDSet struct {
	Base
	Name         string
	Description  string
	Status       api.DeviceStatus
	FormerStatus api.DeviceStatus
	Platform     string
	FileSystem   string
	MountPoint   string
	KeyBits      int
	ImageID      string
	PolicyID     string
}

// TableName is raid_sets.
func (RAIDSet) TableName() string { return "raid_sets" }

// Policy is a policy. Devices name their policy; images are joined by PolicyImage.
type Policy struct {
	Base
	Name                string
	Description         string
	IsDefault           bool
	Rules               []api.Rule `gorm:"serializer:json"`
	OnMatch             api.Action
	OnFailure           api.Action
	ApproveAfterSeconds int64
	LeaseSeconds        int64
	HeartbeatSeconds    int64
	RevokeMode          api.RevokeMode
	ResourcePool        bool
	ApprovalsNeeded     int64
	SeparateApprover    bool
	RequestSeconds      int64
	CheckEnabled        bool
	CheckEveryHeartbeat bool
	OnCheckFailure      api.CheckAction // empty is notify
	PostponeSeconds     int64
	MissingAfterSeconds int64
}

// PolicyImage puts an image into a policy. (policy, image) is unique; ID is random.
type PolicyImage struct {
	Base
	PolicyID string
	ImageID  string
}

// KeyRequest is one request of an instance for a device's key, through its whole life.
type KeyRequest struct {
	Base
	Number     int64 // counts within the account
	DeviceID   string
	InstanceID string
	ImageID    string
	PolicyID   string
	Status     api.KeyStatus
	Integrity  api.Integrity
	Verdict    api.Verdict  `gorm:"serializer:json"`
	Evidence   api.Evidence `gorm:"serializer:json"`
	Observed   []api.Fact   `gorm:"serializer:json"` // what the broker vouched for when it judged; replays need it as it was
	Asked      *Asked       `gorm:"serializer:json"`
	SourceIP   string
	Reason     string
	Nonce      string
	PublicKey  []byte
	DecidedBy  string
	DecidedAt  *time.Time
	// ApproveAt is when a pending request that matched every rule approves itself.
	ApproveAt      *time.Time
	DeliveredAt    *time.Time
	LeaseExpiresAt *time.Time
	RevokeDueAt    *time.Time
	RevokeMode     api.RevokeMode
	Mounted        bool
	EndedAt        *time.Time
	// ApprovalsNeeded and SeparateApprover are what the policy demanded when the request was made: loosening the policy
	// does not loosen what waits.
	ApprovalsNeeded  int64
	SeparateApprover bool
	AssignedBy       string // ID of the user who put the device into the request's policy
	ExpiresAt        *time.Time
	// RequestedDeviceID is the device that the machine asked for, where a resource pool gave it another.
	RequestedDeviceID string
	// WaitsFor is what the broker itself waits for before it judges again: "pool", a free device; "silence", the end of
	// another boot of the machine.
	WaitsFor string
	RunID    string // of the agent that asked
	// StatusAt is when the request came to its status, CheckedAt when its evidence was judged last.
	StatusAt  time.Time
	CheckedAt *time.Time
	// CheckMissedAt is the check whose missing answer people have been told of.
	CheckMissedAt *time.Time
	// RetryUntil is how long a key that was taken or denied is given again when the machine complies.
	RetryUntil *time.Time
	// Accepted are the rules that failed when the key was approved, so that they alone do not take it back.
	Accepted []string `gorm:"serializer:json"`
}

// KeyRequestApproval is one person's approval of a request that needs several. (request, user) is unique.
type KeyRequestApproval struct {
	Base
	RequestID string
	UserID    string
	UserName  string
	Reason    string
	ExpiresAt time.Time
}

// Notice is something that people of an account should know and that nobody has put aside yet.
type Notice struct {
	Base
	Kind       string // the message of a notify effect, for example "integrity-failed"
	RequestID  string
	InstanceID string
	DeviceID   string
	Text       string
	SeenBy     string
	SeenAt     *time.Time
}

// Asked is what a request was asked with, and how that was judged, once a check has put newer evidence in its place.
type Asked struct {
	Evidence  api.Evidence  `json:"evidence"`
	Action    api.Action    `json:"action"`
	Integrity api.Integrity `json:"integrity"`
}

// KeyRequestEvent is one change of a key request's state.
type KeyRequestEvent struct {
	Base
	RequestID  string
	FromStatus api.KeyStatus
	ToStatus   api.KeyStatus
	Event      string
	Actor      string
	Reason     string
}

// Job is work for an agent (kind "encrypt" or "rotate-key") that survives restarts of both sides.
type Job struct {
	Base
	Kind       string
	DeviceID   string
	InstanceID string
	Status     string // "queued", "running", "done", "failed", "cancelled"
	Destroy    bool
	Phase      string
	Percent    int
	Error      string
	ExpiresAt  time.Time
	EndedAt    *time.Time
	// Generation is that of the pending key of a rotation, AskedBy and Reason who wanted it and why.
	Generation int64
	AskedBy    string
	Reason     string
	// Waits is why the machine has not begun, by its own word; WaitsAgent is the version of the agent that said so.
	Waits      string
	WaitsAgent string
}

// Nonce is a challenge that an instance has used, kept until it has ended. Value is unique.
type Nonce struct {
	Base
	InstanceID string
	Value      string
	ExpiresAt  time.Time
}

// IdempotencyRecord keeps the first answer to a POST with an Idempotency-Key for ten minutes. Scope names caller and
// route; (account, scope, key) is unique. Body never holds an unsealed key.
type IdempotencyRecord struct {
	Base
	Scope       string
	Key         string
	RequestHash []byte
	Status      int
	ContentType string
	Body        []byte
	ExpiresAt   time.Time
}

// AuditRecord is one link of an account's hash chain. (account, sequence) is the primary key; triggers forbid update
// and delete.
type AuditRecord struct {
	AccountID string `gorm:"primaryKey"`
	Sequence  int64  `gorm:"primaryKey;autoIncrement:false"`
	At        time.Time
	Category  string
	Event     string
	Actor     string
	Subject   string
	Detail    map[string]string `gorm:"serializer:json"`
	Previous  []byte
	Hash      []byte
}

// AuditTombstone stands for audit records that were deleted. It is never changed and never deleted, and nothing is deleted
// that none stands for.
type AuditTombstone struct {
	AccountID     string `gorm:"primaryKey"`
	LastSequence  int64  `gorm:"primaryKey;autoIncrement:false"`
	FirstSequence int64
	// Since and Until are the times of the first and the last record.
	Since    time.Time
	Until    time.Time
	Previous []byte // the hash before the first record
	Hash     []byte // of the last one
	// Tail are the hashes of the records behind the last complete block, of which the tree keeps no node.
	Tail      []byte
	At        time.Time
	Actor     string
	Reason    string
	KeyID     string
	Signature []byte
}

// AuditCheckpoint is a signature by the broker over the chain's head at Sequence.
type AuditCheckpoint struct {
	AccountID string `gorm:"primaryKey"`
	Sequence  int64  `gorm:"primaryKey;autoIncrement:false"`
	At        time.Time
	Hash      []byte
	KeyID     string
	Signature []byte
	// Root is the root of the tree over the records up to Sequence; empty in checkpoints from before there were trees.
	Root []byte
}

// AuditNode is the root of a complete subtree of the tree over an account's audit records: of 2^Level records, the first
// of which is number Position<<Level + 1. Level is at least 8; nodes below follow from few records.
type AuditNode struct {
	AccountID string `gorm:"primaryKey"`
	Level     int    `gorm:"primaryKey;autoIncrement:false"`
	Position  int64  `gorm:"primaryKey;autoIncrement:false"`
	Hash      []byte
}

// DeepSecuritySettings are an account's connection to a Deep Security Manager; an account has one row or none.
type DeepSecuritySettings struct {
	Base
	Enabled       bool
	Server        string
	Port          int
	Authority     string // PEM
	WrappedAPIKey []byte // by the account's KEK; nil without a key
}

// TableName implements gorm's Tabler: settings have no plural.
func (DeepSecuritySettings) TableName() string { return "deep_security_settings" }
