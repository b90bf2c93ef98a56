package api

import "time"

// LogOn opens a session. Account is the account's name or ID.
type LogOn struct {
	Account  string `json:"account" minLength:"1" maxLength:"64"`
	User     string `json:"user" minLength:"1" maxLength:"254"`
	Password string `json:"password" minLength:"1" maxLength:"1024"`
	// Code is the second factor, an authenticator's or a recovery code, where the user has one. Without it the session
	// starts in the stage "code".
	Code string `json:"code,omitempty" maxLength:"64"`
}

// Stage is what is still to be done before a session counts.
type Stage string

// The stages of a session.
const (
	StageComplete Stage = ""      // logged on
	StageCode     Stage = "code"  // show the second factor
	StageEnrol    Stage = "enrol" // set a second factor up: the account requires one
)

// LoggedOn is a new session. Token goes into "Authorization: Bearer"; browsers get it as a cookie instead.
type LoggedOn struct {
	Token     string    `json:"token"`
	SessionID string    `json:"session_id"`
	ExpiresAt time.Time `json:"expires_at"`
	User      User      `json:"user"`
	// Stage is empty when the session can be used for everything.
	Stage Stage `json:"stage,omitempty"`
}

// FactorCode shows a second factor: six digits of an authenticator, or a recovery code.
type FactorCode struct {
	Code string `json:"code" minLength:"1" maxLength:"64"`
}

// FactorStart begins the set-up of a second factor. Password is the user's own.
type FactorStart struct {
	Password string `json:"password" maxLength:"1024"`
}

// FactorSetup is what an authenticator needs; it is in this answer only. The factor counts once a code confirms it.
type FactorSetup struct {
	// Secret is base32, URL an otpauth address, Image a PNG picture of the URL as a QR code.
	Secret string `json:"secret"`
	URL    string `json:"url"`
	Image  []byte `json:"image"`
}

// RecoveryCodes each stand for one code of a second factor, once. They are in this answer only.
type RecoveryCodes struct {
	Codes []string `json:"codes"`
}

// FactorInfo is how things stand with one's own second factor.
type FactorInfo struct {
	// Since is when it was set up; nil without one.
	Since *time.Time `json:"since,omitempty"`
	// CodesLeft are unused recovery codes.
	CodesLeft int64 `json:"codes_left"`
	// Required says that the account demands one, StepUp that approvals and exports need a fresh one; FreshUntil is the
	// end of the one shown last.
	Required   bool       `json:"required"`
	StepUp     bool       `json:"step_up"`
	FreshUntil *time.Time `json:"fresh_until,omitempty"`
}

// FactorSettings are the account's wish for second factors.
type FactorSettings struct {
	// SecondFactor is "optional" or "required": then nobody gets further than its set-up without one.
	SecondFactor string `json:"second_factor" enum:"optional,required"`
	// StepUp asks for a second factor of the last five minutes at approvals and exports.
	StepUp bool `json:"step_up"`
}

// Session is one log-on of a user.
type Session struct {
	ID         string    `json:"id"`
	User       string    `json:"user"`
	Address    string    `json:"address"`
	UserAgent  string    `json:"user_agent"`
	CreatedAt  time.Time `json:"created_at"`
	LastSeenAt time.Time `json:"last_seen_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	Current    bool      `json:"current"`
}

// User is a person's log-on in one account, with exactly one role.
type User struct {
	ID          string     `json:"id"`
	Name        string     `json:"name"` // log-on name
	DisplayName string     `json:"display_name,omitempty"`
	Email       string     `json:"email,omitempty"`
	Role        Role       `json:"role"`
	LockedUntil *time.Time `json:"locked_until,omitempty"`
	LastLogOnAt *time.Time `json:"last_log_on_at,omitempty"`
	// SecondFactorSince is when the user set a second factor up.
	SecondFactorSince *time.Time `json:"second_factor_since,omitempty"`
	CreatedAt         time.Time  `json:"created_at"`
}

// UserWrite creates or changes a user. Password is required on creation and optional on change.
type UserWrite struct {
	Name        string `json:"name" minLength:"1" maxLength:"64" pattern:"^[A-Za-z0-9._@+-]+$"`
	DisplayName string `json:"display_name,omitempty" maxLength:"128"`
	Email       string `json:"email,omitempty" maxLength:"254"`
	Role        Role   `json:"role" enum:"account-administrator,security-administrator,data-analyst,auditor,key-approver"`
	Password    string `json:"password,omitempty" maxLength:"1024"`
}

// PasswordChange changes one's own password.
type PasswordChange struct {
	Current string `json:"current" maxLength:"1024"`
	New     string `json:"new" maxLength:"1024"`
}

// RoleInfo is a role, what it may do and how many hold it.
type RoleInfo struct {
	Role         Role     `json:"role"`
	Title        string   `json:"title"`
	Description  string   `json:"description"`
	Capabilities []string `json:"capabilities"`
	Users        int64    `json:"users"`
}

// Account is a tenant as its own people see it.
type Account struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	ServiceURL string `json:"service_url"` // the agents' interface
	// TimeZone is an IANA name; DateFormat a layout from the list that GET time-settings offers.
	TimeZone   string    `json:"time_zone"`
	DateFormat string    `json:"date_format"`
	CreatedAt  time.Time `json:"created_at"`
}

// DeepSecuritySettings are an account's connection to a Deep Security Manager.
type DeepSecuritySettings struct {
	// Enabled: rules on Deep Security facts are used, and the manager is asked.
	Enabled bool `json:"enabled"`
	// Server is a host name or address, Port where the manager's REST interface listens.
	Server string `json:"server"`
	Port   int    `json:"port"`
	// Authority are PEM certificates that the manager's certificate is checked against; empty means the broker's own list.
	Authority string `json:"authority,omitempty"`
	// HasAPIKey says that a key is stored; it is never told.
	HasAPIKey bool `json:"has_api_key"`
	// AnsweredAt is when the manager answered last, Computers how many it knows, Problem why it does not answer now.
	AnsweredAt *time.Time `json:"answered_at,omitempty"`
	Computers  int        `json:"computers,omitempty"`
	Problem    string     `json:"problem,omitempty"`
}

// DeepSecuritySettingsWrite changes or tests the connection.
type DeepSecuritySettingsWrite struct {
	Enabled   bool   `json:"enabled"`
	Server    string `json:"server"`
	Port      int    `json:"port"`
	Authority string `json:"authority,omitempty"`
	// APIKey is empty to keep the stored one, which must be given again for another server.
	APIKey string `json:"api_key,omitempty"`
}

// TimeSettings are the account's zone and format; logs stay in UTC.
type TimeSettings struct {
	TimeZone   string `json:"time_zone" maxLength:"64"`
	DateFormat string `json:"date_format" maxLength:"64"`
}

// EnrolmentTokenWrite asks for an enrolment token.
type EnrolmentTokenWrite struct {
	Description   string `json:"description,omitempty" maxLength:"128"`
	Uses          int    `json:"uses" minimum:"1" maximum:"100000" default:"1"`
	ExpireSeconds int64  `json:"expire_seconds" minimum:"60" maximum:"31536000" default:"86400"`
}

// EnrolmentTokenInfo is an enrolment token; Token, the secret text, is present only in the answer that creates it.
type EnrolmentTokenInfo struct {
	ID          string    `json:"id"`
	Token       string    `json:"token,omitempty"`
	Description string    `json:"description"`
	UsesLeft    int       `json:"uses_left"`
	ExpiresAt   time.Time `json:"expires_at"`
	CreatedBy   string    `json:"created_by"`
	CreatedAt   time.Time `json:"created_at"`
}

// Image is a machine image or a Native machine's identity.
type Image struct {
	ID          string   `json:"id"`
	Identity    string   `json:"identity"`
	Provider    string   `json:"provider"`
	Name        string   `json:"name"`
	Description string   `json:"description,omitempty"`
	PolicyIDs   []string `json:"policy_ids"`
	Instances   int64    `json:"instances"`
	// CertificateExpiresAt is until when machines that are started from the image may enrol by its certificate; nil when
	// it has none.
	CertificateExpiresAt *time.Time `json:"certificate_expires_at,omitempty"`
}

// ImageWrite changes what people may change of an image.
type ImageWrite struct {
	Name        string `json:"name" minLength:"1" maxLength:"64"`
	Description string `json:"description,omitempty" maxLength:"1024"`
}

// Instance is an enrolled machine.
type Instance struct {
	ID           string     `json:"id"`
	Identity     string     `json:"identity"`
	Provider     string     `json:"provider"`
	HostName     string     `json:"host_name"`
	Location     string     `json:"location,omitempty"`
	ImageID      string     `json:"image_id"`
	ImageName    string     `json:"image_name"`
	AgentVersion string     `json:"agent_version"`
	FirstSeenAt  time.Time  `json:"first_seen_at"`
	LastSeenAt   *time.Time `json:"last_seen_at,omitempty"`
	SourceIP     string     `json:"source_ip,omitempty"`
	Missing      bool       `json:"missing"` // no heartbeat for longer than its policy allows
	// Suspicion says why the machine's identity may belong to two machines; no policy gives it a key until a person clears it.
	Suspicion   string     `json:"suspicion,omitempty"`
	SuspectedAt *time.Time `json:"suspected_at,omitempty"`
	Devices     []Device   `json:"devices,omitempty"`
	// FromImage says that it enrolled by its image's certificate and not by a token.
	FromImage            bool         `json:"from_image"`
	CertificateExpiresAt *time.Time   `json:"certificate_expires_at,omitempty"`
	CertificateRevokedAt *time.Time   `json:"certificate_revoked_at,omitempty"`
	KeyConflict          *KeyConflict `json:"key_conflict,omitempty"`
	// TPM is the machine's, once it has shown it.
	TPM *TPMInfo `json:"tpm,omitempty"`
	// CloudIdentity names the cloud instance that the machine's key is bound to: "aws/ACCOUNT/REGION/INSTANCE".
	CloudIdentity string `json:"cloud_identity,omitempty"`
}

// KeyConflict is another key that claims to be a machine whose key is known: a copy of it, or the machine itself after
// its disk was made anew. Only a person can tell.
type KeyConflict struct {
	// KeySHA256 is of the other key's SubjectPublicKeyInfo, lower-case hexadecimal.
	KeySHA256 string    `json:"key_sha256"`
	HostName  string    `json:"host_name"`
	Address   string    `json:"address"`
	At        time.Time `json:"at"` // when it first came
	// Decision is "" while a person has to decide, "accepted" or "refused".
	Decision string `json:"decision,omitempty"`
}

// The decisions of a KeyConflict.
const (
	KeyAccepted = "accepted"
	KeyRefused  = "refused"
)

// Device is a device or RAID set of the inventory.
type Device struct {
	ID          string       `json:"id"`
	Identity    string       `json:"identity"`
	Provider    string       `json:"provider"`
	Name        string       `json:"name"`
	Description string       `json:"description,omitempty"`
	Information string       `json:"information,omitempty"`
	Contents    string       `json:"contents,omitempty"`
	Size        int64        `json:"size"`
	Status      DeviceStatus `json:"status"`
	// StatusDetail explains an error or shows progress, for example "file system, 40 %".
	StatusDetail string    `json:"status_detail,omitempty"`
	Platform     string    `json:"platform,omitempty"` // "linux" or "windows"
	FileSystem   string    `json:"file_system,omitempty"`
	MountPoint   string    `json:"mount_point,omitempty"`
	Access       Access    `json:"access,omitempty"`
	KeyBits      int       `json:"key_bits,omitempty"`
	ImageID      string    `json:"image_id,omitempty"`
	PolicyID     string    `json:"policy_id"`
	PolicyName   string    `json:"policy_name"`
	InstanceID   string    `json:"instance_id,omitempty"` // the machine that sees it
	InstanceName string    `json:"instance_name,omitempty"`
	RAIDSetID    string    `json:"raid_set_id,omitempty"`
	MemberIDs    []string  `json:"member_ids,omitempty"` // of a RAID set
	Key          *KeyInfo  `json:"key,omitempty"`
	Version      int64     `json:"version"`
	UpdatedAt    time.Time `json:"updated_at"`
	// Rotation is the rotation of its key that waits; nil without one.
	Rotation *KeyRotation `json:"rotation,omitempty"`
}

// KeyInfo describes a device key without revealing it.
type KeyInfo struct {
	Cipher     string    `json:"cipher"` // "AES"
	Bits       int       `json:"bits"`
	Mode       string    `json:"mode"` // "XTS"
	Hash       string    `json:"hash"` // of the key digest: "SHA-256"
	Management string    `json:"management"`
	StoredOn   string    `json:"stored_on"`
	VolumeUUID string    `json:"volume_uuid,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
}

// DeviceWrite configures a device. Fields that its status does not allow to change are refused when they differ.
type DeviceWrite struct {
	Name        string `json:"name" minLength:"1" maxLength:"64"`
	Description string `json:"description,omitempty" maxLength:"1024"`
	Platform    string `json:"platform,omitempty" enum:",linux,windows"`
	FileSystem  string `json:"file_system,omitempty" enum:",ext3,ext4,xfs,btrfs,ntfs,fat32"`
	MountPoint  string `json:"mount_point,omitempty" maxLength:"4096"`
	Access      Access `json:"access,omitempty" enum:",read-only,read-write"`
	KeyBits     int    `json:"key_bits,omitempty" enum:"0,128,192,256"`
	ImageID     string `json:"image_id,omitempty"`
	Version     int64  `json:"version"`
}

// EncryptWrite starts encryption of a configured device. Confirm must be the device's name: encryption destroys what
// the device holds. Destroy must be true when its contents are not "empty".
type EncryptWrite struct {
	Confirm string `json:"confirm"`
	Destroy bool   `json:"destroy,omitempty"`
	// WaitSeconds is how long the encryption may wait for its machine to begin; 0 means DefaultEncryptWait.
	WaitSeconds int64 `json:"wait_seconds,omitempty" minimum:"0" maximum:"2592000"`
}

// How long an encryption waits for its machine, in seconds: unless a person says otherwise 12 hours, at most 30 days.
const (
	DefaultEncryptWait = 12 * 3600
	MaxEncryptWait     = 30 * 24 * 3600
)

// UnconfigureWrite destroys a device's key for ever. Confirm must be the device's name.
type UnconfigureWrite struct {
	Confirm string `json:"confirm"`
}

// ExportWrite exports device keys, encrypted under a passphrase.
type ExportWrite struct {
	DeviceIDs  []string `json:"device_ids" minItems:"1" maxItems:"1000"`
	Passphrase string   `json:"passphrase" minLength:"8" maxLength:"1024"`
}

// RAIDSetWrite creates or changes a RAID 0 set.
type RAIDSetWrite struct {
	Name        string   `json:"name" minLength:"1" maxLength:"64"`
	Description string   `json:"description,omitempty" maxLength:"1024"`
	Platform    string   `json:"platform" enum:"linux,windows"`
	FileSystem  string   `json:"file_system" enum:"ext3,ext4,xfs,btrfs,ntfs,fat32"`
	MountPoint  string   `json:"mount_point" maxLength:"4096"`
	KeyBits     int      `json:"key_bits" enum:"128,192,256"`
	ImageID     string   `json:"image_id,omitempty"`
	MemberIDs   []string `json:"member_ids" minItems:"2" maxItems:"64"`
	Version     int64    `json:"version,omitempty"`
}

// RunningInstance is a row of the Running Instances page: one key request.
type RunningInstance struct {
	RequestID    string    `json:"request_id"`
	Number       int64     `json:"number"`
	Status       KeyStatus `json:"status"`
	Integrity    Integrity `json:"integrity"`
	DeviceID     string    `json:"device_id"`
	DeviceName   string    `json:"device_name"`
	ImageID      string    `json:"image_id"`
	ImageName    string    `json:"image_name"`
	InstanceID   string    `json:"instance_id"`
	InstanceName string    `json:"instance_name"`
	Provider     string    `json:"provider"`
	PolicyID     string    `json:"policy_id"`
	PolicyName   string    `json:"policy_name"`
	RequestedAt  time.Time `json:"requested_at"`
	// Since is when the request came to its status.
	Since time.Time `json:"since"`
	// CheckedAt is when evidence was judged last; CheckOverdue is true when a check was asked for and has gone unanswered.
	CheckedAt    *time.Time `json:"checked_at,omitempty"`
	CheckOverdue bool       `json:"check_overdue,omitempty"`
	// RevokeAt is when a failed check takes the key, unless the machine complies again or a person ignores it.
	RevokeAt *time.Time `json:"revoke_at,omitempty"`
	Version  int64      `json:"version"`
}

// RunningInstances is a page of rows with the counters of the page's header.
type RunningInstances struct {
	Rows      []RunningInstance `json:"rows"`
	Total     int64             `json:"total"`
	Instances int64             `json:"instances"`
	Pending   int64             `json:"pending"`
	Approved  int64             `json:"approved"` // Approved or Delivered
}

// KeyRequestDetail is the Key Request page: the request, why it was judged as it was, and its history.
type KeyRequestDetail struct {
	RunningInstance
	Device         Device     `json:"device"`
	Verdict        Verdict    `json:"verdict"`
	Reason         string     `json:"reason"`
	DecidedBy      string     `json:"decided_by,omitempty"`
	DecidedAt      *time.Time `json:"decided_at,omitempty"`
	LeaseExpiresAt *time.Time `json:"lease_expires_at,omitempty"`
	RevokeDueAt    *time.Time `json:"revoke_due_at,omitempty"`
	// RetryUntil is how long a key that a check took, or that the policy denied, is given again when the machine complies.
	RetryUntil *time.Time `json:"retry_until,omitempty"`
	// CheckAskedAt is when the machine was last asked for fresh evidence and has not answered yet.
	CheckAskedAt *time.Time `json:"check_asked_at,omitempty"`
	// LeaseSeconds, HeartbeatSeconds and RevokeMode are the policy's.
	LeaseSeconds     int64             `json:"lease_seconds"`
	HeartbeatSeconds int64             `json:"heartbeat_seconds"`
	RevokeMode       RevokeMode        `json:"revoke_mode"`
	History          []KeyRequestEvent `json:"history"`
	// WaitsFor says what would move a pending request on; empty for others.
	WaitsFor string `json:"waits_for,omitempty"`
	// MayApprove are the people who may approve a pending request now; none while no policy holds device and image.
	MayApprove []Approver `json:"may_approve,omitempty"`
	// ExpiresAt is when a request that waits for people is over.
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	// ApprovalsNeeded people must approve it; Approvals are those who have, whether or not they count any more.
	ApprovalsNeeded int64      `json:"approvals_needed"`
	Approvals       []Approval `json:"approvals"`
	// SeparateApprover says that who enrolled the machine, configured the device or chose the policy may not approve.
	SeparateApprover bool `json:"separate_approver,omitempty"`
	// RequestedDeviceName is the device that the machine asked for, where a resource pool gave it another.
	RequestedDeviceName string `json:"requested_device_name,omitempty"`
}

// Approval is one person's approval of a request.
type Approval struct {
	UserID string    `json:"user_id"`
	User   string    `json:"user"`
	At     time.Time `json:"at"`
	Reason string    `json:"reason,omitempty"`
	// ExpiresAt is when it stops to count, unless the others have approved by then.
	ExpiresAt time.Time `json:"expires_at"`
	// Void says why it does not count: expired, or its person may not approve any more.
	Void string `json:"void,omitempty"`
}

// Approver is a person who may decide on a key request.
type Approver struct {
	UserID      string `json:"user_id"`
	Name        string `json:"name"`
	DisplayName string `json:"display_name,omitempty"`
	Role        Role   `json:"role"`
	// Locked is true while too many wrong passwords keep the person out.
	Locked bool `json:"locked,omitempty"`
}

// KeyRequestEvent is one change of a key request's state.
type KeyRequestEvent struct {
	At     time.Time `json:"at"`
	From   KeyStatus `json:"from,omitempty"`
	To     KeyStatus `json:"to"`
	Event  string    `json:"event"`
	Actor  string    `json:"actor"`
	Reason string    `json:"reason,omitempty"`
}

// Decision is a person's approval, denial or revocation, with the reason that the audit log keeps.
type Decision struct {
	Reason string `json:"reason,omitempty" maxLength:"1024"`
	// Version is the request's version that the person saw; 0 skips the check.
	Version int64 `json:"version,omitempty"`
}

// Clearance is a person's word that a machine under suspicion is the only one of its identity.
type Clearance struct {
	Reason string `json:"reason" minLength:"1" maxLength:"1024"`
}

// PolicyAssignment moves the device of an Unknown request (and, where needed, its image) into a policy.
type PolicyAssignment struct {
	PolicyID string `json:"policy_id"`
}

// AuditRecord is one record of the append-only log.
type AuditRecord struct {
	Sequence int64     `json:"sequence"`
	At       time.Time `json:"at"`
	// Category is "agent", "key", "policy", "user" or "server".
	Category string            `json:"category"`
	Event    string            `json:"event"` // for example "key-request.approved"
	Actor    string            `json:"actor"`
	Subject  string            `json:"subject,omitempty"`
	Detail   map[string]string `json:"detail,omitempty"`
	Previous []byte            `json:"previous"` // hash of the record before
	Hash     []byte            `json:"hash"`
}

// AuditPage is a part of the log, newest first unless asked otherwise.
type AuditPage struct {
	Records []AuditRecord `json:"records"`
	Total   int64         `json:"total"`
}

// Page selects a part of a list. Page counts from 1; Size is 10, 25, 50 or 100.
type Page struct {
	Page int `query:"page" minimum:"1" default:"1"`
	Size int `query:"size" minimum:"1" maximum:"100" default:"25"`
}
