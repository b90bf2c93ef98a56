package api

import "time"

// Paths of the agents' interface. {id} is a request or job ID.
const (
	PathEnrol         = "/agent/v1/enrol"
	PathEnrolInstance = "/agent/v1/enrol-instance"
	PathCertificate   = "/agent/v1/certificate"
	PathTPM           = "/agent/v1/tpm"
	PathTPMActivation = "/agent/v1/tpm/activation"
	PathNonce         = "/agent/v1/nonce"
	PathInventory     = "/agent/v1/inventory"
	PathAgentDevices  = "/agent/v1/devices"
	PathCommands      = "/agent/v1/commands"
	PathHeartbeat     = "/agent/v1/heartbeat"
	PathKeyRequests   = "/agent/v1/key-requests"
	PathKeyRequest    = "/agent/v1/key-requests/{id}"
	PathDelivery      = "/agent/v1/key-requests/{id}/delivery"
	PathRequestEvents = "/agent/v1/key-requests/{id}/events"
	PathJobKey        = "/agent/v1/jobs/{id}/key"
	PathJobProgress   = "/agent/v1/jobs/{id}/progress"
)

// HeaderIdempotencyKey makes a repeated POST return the first answer for ten minutes instead of acting twice.
const HeaderIdempotencyKey = "Idempotency-Key"

// ImageName opens the common name of an image's certificate; the image ID follows. Such a certificate enrols the machines
// that are started from the image, and does nothing else.
const ImageName = "image:"

// EnrolRequest trades an enrolment token, or an image's certificate, for a client certificate. With a token it is the only
// call without a client certificate.
type EnrolRequest struct {
	AccountID string `json:"account_id"`
	// Token is "<token ID>.<secret>" of the enrolment token; empty where an image's certificate stands for it.
	Token string `json:"token"`
	// Template asks for the certificate of the machine's image instead of its own.
	Template bool `json:"template,omitempty"`
	// CSR is a PEM certificate request signed by the machine's own key; subject and extensions are ignored.
	CSR      string       `json:"csr"`
	Provider string       `json:"provider"`
	Instance InstanceInfo `json:"instance"`
	// Time is the machine's clock; more than five minutes of difference is refused with the broker's time.
	Time time.Time `json:"time"`
}

// EnrolResponse is the machine's identity from now on, or with Template its image's: InstanceID is empty then.
type EnrolResponse struct {
	InstanceID  string `json:"instance_id"`
	ImageID     string `json:"image_id,omitempty"`
	AccountID   string `json:"account_id"`
	AccountName string `json:"account_name"`
	// Certificate is the PEM client certificate; CA the PEM chain that both sides trust.
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
	Broker      string `json:"broker"`
}

// RenewRequest asks for another certificate for the key that the machine has.
type RenewRequest struct {
	CSR  string    `json:"csr"`
	Time time.Time `json:"time"`
}

// RenewResponse is a certificate that follows the one of the call, which counts until it ends.
type RenewResponse struct {
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
}

// InstanceInfo describes a machine as its provider plug-in sees it.
type InstanceInfo struct {
	// Identity is unique per machine within a provider: instance ID, or a hash of DMI UUID and machine ID.
	Identity string `json:"identity"`
	HostName string `json:"host_name"`
	Location string `json:"location,omitempty"`
	// ImageIdentity names the image the machine was started from; Native machines are their own image.
	ImageIdentity string `json:"image_identity"`
	ImageName     string `json:"image_name,omitempty"`
	AgentVersion  string `json:"agent_version"`
}

// InventoryReport is the complete list of devices that a machine can see. Devices missing from it become Undetected.
type InventoryReport struct {
	Provider string            `json:"provider"`
	Instance InstanceInfo      `json:"instance"`
	Devices  []InventoryDevice `json:"devices"`
}

// InventoryDevice is a device as found, never the disk that holds the root file system.
type InventoryDevice struct {
	// Identity is stable across restarts and unique within the machine's provider.
	Identity string `json:"identity"`
	Name     string `json:"name"`
	Size     int64  `json:"size"`
	// Information is free text from the plug-in (model, path, bus).
	Information string `json:"information,omitempty"`
	// Contents says in words what the device holds now, "empty" when nothing was found.
	Contents string `json:"contents"`
}

// DeviceList answers an inventory report and GET devices: what the broker has recorded and wants of each device.
type DeviceList struct {
	Devices []AssignedDevice `json:"devices"`
}

// AssignedDevice is a device's configuration and volume record, as far as they exist. Deliveries are bound to a hash of
// its JSON too: the rule of VolumeRecord for new members holds here as well.
type AssignedDevice struct {
	ID         string        `json:"id"`
	Identity   string        `json:"identity"`
	Name       string        `json:"name"`
	Status     DeviceStatus  `json:"status"`
	FileSystem string        `json:"file_system,omitempty"`
	MountPoint string        `json:"mount_point,omitempty"`
	Access     Access        `json:"access,omitempty"`
	KeyBits    int           `json:"key_bits,omitempty"`
	Volume     *VolumeRecord `json:"volume,omitempty"`
	// Writers counts how often the device's key went from one machine that may write to another. A volume that was
	// suspended under another count must not go on: what its file system knows of the device is out of date.
	Writers int64 `json:"writers,omitempty"`
	// Set is the RAID set whose first member the device is. Requests, jobs and reports of a set name that device; its keys
	// are delivered together.
	Set *AssignedSet `json:"set,omitempty"`
	// SetID is the RAID set that the device is a member of. Its other members are in the first one's Set.
	SetID string `json:"set_id,omitempty"`
}

// AssignedSet is a RAID set (RAID 0) of encrypted volumes.
type AssignedSet struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Chunk is how many bytes lie on one member before the next one follows.
	Chunk int64 `json:"chunk"`
	// Members are all of them in the order of their places.
	Members []AssignedMember `json:"members"`
}

// AssignedMember is a device of a RAID set.
type AssignedMember struct {
	ID       string        `json:"id"`
	Identity string        `json:"identity"`
	Name     string        `json:"name"`
	Volume   *VolumeRecord `json:"volume,omitempty"`
}

// VolumeRecord is the authoritative description of an encrypted volume. An agent opens a volume only when its LUKS2
// header says exactly this; it never takes a cipher or an offset from the disk.
//
// Deliveries are bound to a hash of its JSON: the order of its members stays, and a new one is added at the end with
// omitempty, so that agents that do not know it refuse only the volumes that use it.
type VolumeRecord struct {
	UUID             string `json:"uuid"`
	Cipher           string `json:"cipher"`
	KeyBits          int    `json:"key_bits"`
	SectorSize       int    `json:"sector_size"`
	DataOffset       int64  `json:"data_offset"`
	DataSize         int64  `json:"data_size"`
	DigestSalt       []byte `json:"digest_salt"`
	Digest           []byte `json:"digest"`
	DigestIterations int    `json:"digest_iterations"`
	Epoch            uint64 `json:"epoch"`
	HeaderHash       []byte `json:"header_hash"`
	Broker           string `json:"broker"`
	Account          string `json:"account"`
	Device           string `json:"device"`
	// RAID is the volume's place in a stripe, nil for a volume that stands alone.
	RAID *RAIDMember `json:"raid,omitempty"`
}

// The ciphers that a volume record may name, as dm-crypt calls them. New volumes are XTS; ESSIV is that of volumes that
// were imported.
const (
	CipherXTS   = "aes-xts-plain64"
	CipherESSIV = "aes-cbc-essiv:sha256"
)

// RAIDMember is the place of a volume in a stripe (RAID 0) of volumes, each with a header and a key of its own.
type RAIDMember struct {
	// Set is the UUID of the stripe, the same in all its members.
	Set string `json:"set"`
	// Index is the place among Count members, from 0.
	Index int `json:"index"`
	Count int `json:"count"`
	// Chunk is how many bytes lie on one member before the next one follows.
	Chunk int64 `json:"chunk"`
}

// NonceResponse is a challenge for one key request, valid for a short time and once. ConnectionNonce saves fetching one.
type NonceResponse struct {
	Nonce         string    `json:"nonce"`
	ExpireSeconds int64     `json:"expire_seconds"`
	Time          time.Time `json:"time"`
}

// KeyRequest asks for the key of one device.
type KeyRequest struct {
	DeviceID string   `json:"device_id"`
	Nonce    string   `json:"nonce" doc:"fetched from /agent/v1/nonce, or made of the TLS connection that the request comes on: tls1. and the base64url of 16 random bytes and of what the connection exports for them"`
	Evidence Evidence `json:"evidence"`
	// PublicKey is a fresh HPKE public key (MLKEM768-X25519) of this request; the delivery is sealed to it.
	PublicKey []byte    `json:"public_key"`
	Time      time.Time `json:"time"`
	Run       *Run      `json:"run,omitempty"`
	// Deliver wants the key with the answer where nobody has to be waited for. It saves a call, which thousands of
	// machines that boot at once would make.
	Deliver bool `json:"deliver,omitempty"`
}

// Run tells one run of a machine's agent from another. Two runs that are heard in turns are two machines with one
// identity; a generation that goes back is a machine that was restored from an older copy.
type Run struct {
	// ID is random, made when the agent's process starts.
	ID string `json:"id" maxLength:"64"`
	// BootID is the kernel's, one for each boot.
	BootID string `json:"boot_id" maxLength:"64"`
	// Generation counts the agent's starts, kept beside the machine's identity on disk; 0 when it cannot be kept.
	Generation int64 `json:"generation" minimum:"0"`
}

// KeyRequestStatus tells an agent where its request stands and why. GET with ?wait=SECONDS (at most 60) and
// ?after=VERSION holds the answer back until the version differs.
type KeyRequestStatus struct {
	ID string `json:"id"`
	// Number is short and for people: printed on the waiting machine and shown in the console.
	Number int64 `json:"number"`
	// DeviceID is the device that the request is for now. It differs from the one that was asked for where a resource pool
	// gives another: the agent asks for that one, which is kept for it, and leaves the first.
	DeviceID  string    `json:"device_id"`
	Status    KeyStatus `json:"status"`
	Integrity Integrity `json:"integrity"`
	Reason    string    `json:"reason"`
	Version   int64     `json:"version"`
	// HeartbeatSeconds and LeaseSeconds are the policy's.
	HeartbeatSeconds int64 `json:"heartbeat_seconds"`
	LeaseSeconds     int64 `json:"lease_seconds"`
	// RevokeMode is how the policy wants the key given up, also when its lease ends without contact.
	RevokeMode RevokeMode `json:"revoke_mode,omitempty"`
	// WaitsFor says what would move a pending request on: which roles decide, never which people.
	WaitsFor string `json:"waits_for,omitempty"`
	// Failed are the rules that this machine's facts failed, without what the rules want.
	Failed []Shortfall `json:"failed,omitempty"`
	// Delivery is the sealed key, where the request wanted it with its answer and was approved at once. The request is
	// Delivered then.
	Delivery *KeyDelivery `json:"delivery,omitempty"`
}

// Shortfall is a failed rule as the machine itself is told it.
type Shortfall struct {
	// Title names the fact to people, for example "Network Services (TCP)".
	Title string `json:"title"`
	// Actual is the whole value found, or "no data" with the reason.
	Actual string `json:"actual"`
	Grade  Grade  `json:"grade,omitempty"`
}

// DeliveryRequest collects the key of an approved request; it repeats the public key it was asked with.
type DeliveryRequest struct {
	PublicKey []byte `json:"public_key"`
}

// KeyDelivery is a sealed device key, or the keys of all members of a RAID set one after the other. SealedKey is HPKE ciphertext (mode base, MLKEM768-X25519, HKDF-SHA256,
// AES-256-GCM), EncapsulatedKey the encapsulation, and the AAD the bytes of Binding exactly as sent.
type KeyDelivery struct {
	// Binding is canonical JSON of DeliveryBinding; the agent compares every field with what it asked for.
	Binding         []byte         `json:"binding"`
	EncapsulatedKey []byte         `json:"encapsulated_key"`
	SealedKey       []byte         `json:"sealed_key"`
	LeaseSeconds    int64          `json:"lease_seconds"`
	Volume          VolumeRecord   `json:"volume"`
	Device          AssignedDevice `json:"device"`
}

// DeliveryBinding is what a sealed key is bound to.
type DeliveryBinding struct {
	Purpose      string `json:"purpose"` // "key-request" or "encrypt-job"
	AccountID    string `json:"account_id"`
	RequestID    string `json:"request_id"` // or the job ID
	DeviceID     string `json:"device_id"`
	InstanceID   string `json:"instance_id"`
	Nonce        string `json:"nonce"`
	LeaseSeconds int64  `json:"lease_seconds"`
	// VolumeSHA256 is the SHA-256, in lower-case hexadecimal, of the delivery's volume record as Go's encoding/json writes
	// it (for "encrypt-job": of the empty record). So who carries a delivery cannot pair its key with another record.
	VolumeSHA256 string `json:"volume_sha256"`
	// DeviceSHA256 is the same of the delivery's device, so that its mount point and access cannot be exchanged either. A
	// binding without it is of the first version of this protocol, and refused.
	DeviceSHA256 string `json:"device_sha256,omitempty"`
}

// HPKEInfo is the info string of every Keyward HPKE context.
const HPKEInfo = "keyward key delivery v1"

// RequestEvent is what an agent reports of a delivered key.
type RequestEvent struct {
	Event RequestEventName `json:"event"`
	// Detail is one line for people; never key material.
	Detail string `json:"detail,omitempty"`
	// Location is where the volume is mounted now.
	Location string `json:"location,omitempty"`
}

// RequestEventName names what happened to a delivered key on the machine.
type RequestEventName string

// The events of an agent.
const (
	EventMounted   RequestEventName = "mounted"
	EventUnmounted RequestEventName = "unmounted" // key wiped at the machine's own wish: stop, shutdown
	EventRevoked   RequestEventName = "revoked"   // key wiped because the broker asked or the lease ended
	EventSuspended RequestEventName = "suspended" // as revoked, requests wait
	EventFailed    RequestEventName = "failed"    // the volume could not be opened or mounted
)

// Heartbeat reports life, evidence and what is held; the answer renews leases.
type Heartbeat struct {
	// Evidence is of the machine as a whole. Its nonce is that of the check command which it answers, else empty.
	Evidence Evidence `json:"evidence"`
	// Devices are the facts of single devices.
	Devices []DeviceFacts `json:"devices,omitempty"`
	Held    []HeldKey     `json:"held"`
	Time    time.Time     `json:"time"`
	// Check asks for every open request of the machine to be judged by this heartbeat, whatever is scheduled.
	Check bool `json:"check,omitempty"`
	Run   *Run `json:"run,omitempty"`
}

// DeviceFacts are the facts of one device of the machine.
type DeviceFacts struct {
	DeviceID string `json:"device_id"`
	Facts    []Fact `json:"facts"`
}

// HeldKey is a key that the agent holds now.
type HeldKey struct {
	RequestID string `json:"request_id"`
	DeviceID  string `json:"device_id"`
	Mounted   bool   `json:"mounted"`
}

// HeartbeatResponse renews leases and says when to report again. A held key that is not listed in Leases is not
// renewed: its lease runs out.
type HeartbeatResponse struct {
	NextSeconds int64     `json:"next_seconds"`
	Leases      []Lease   `json:"leases"`
	Commands    []Command `json:"commands"`
	Time        time.Time `json:"time"`
	// Checked are the requests that this heartbeat's evidence was judged for, and where they stand now.
	Checked []CheckedKey `json:"checked,omitempty"`
}

// Lease is the remaining life of a delivered key without contact, counted from the receipt of the answer.
type Lease struct {
	RequestID string `json:"request_id"`
	Seconds   int64  `json:"seconds"`
	// Status and Integrity are where the request stands; RevokeAt is when a failed check takes the key, for the reason given.
	Status    KeyStatus  `json:"status,omitempty"`
	Integrity Integrity  `json:"integrity,omitempty"`
	RevokeAt  *time.Time `json:"revoke_at,omitempty"`
	Reason    string     `json:"reason,omitempty"`
}

// CheckedKey is the outcome of a check for one request.
type CheckedKey struct {
	RequestID string    `json:"request_id"`
	DeviceID  string    `json:"device_id"`
	Status    KeyStatus `json:"status"`
	Integrity Integrity `json:"integrity"`
	// Reason is the verdict in one sentence.
	Reason string `json:"reason"`
}

// CommandList answers GET commands?wait=SECONDS: at once when there is something to do.
type CommandList struct {
	Commands []Command `json:"commands"`
}

// CommandKind names what an agent is asked to do.
type CommandKind string

// The commands. They are repeated until the agent's report shows that they were carried out, so they are idempotent.
const (
	CommandEncrypt CommandKind = "encrypt" // JobID, Device
	CommandRevoke  CommandKind = "revoke"  // RequestID, Mode
	CommandRequest CommandKind = "request" // DeviceID: ask for the key (again)
	// CommandRotateKey asks to give a volume's data another key: JobID, DeviceID. An agent that cannot says so with a report
	// whose phase is "waiting".
	CommandRotateKey CommandKind = "rotate-key"
	CommandCheck     CommandKind = "check" // Nonce: send a heartbeat now, with fresh evidence that answers it
)

// Command is one thing an agent is asked to do.
type Command struct {
	Kind      CommandKind     `json:"kind"`
	JobID     string          `json:"job_id,omitempty"`
	RequestID string          `json:"request_id,omitempty"`
	DeviceID  string          `json:"device_id,omitempty"`
	Mode      RevokeMode      `json:"mode,omitempty"`
	Reason    string          `json:"reason,omitempty"`
	Device    *AssignedDevice `json:"device,omitempty"`
	// Destroy is the user's explicit word that what the device holds may be overwritten.
	Destroy bool `json:"destroy,omitempty"`
	// Nonce is the challenge of a check.
	Nonce string `json:"nonce,omitempty"`
}

// JobKeyRequest takes an encrypt job and asks for the new device key, sealed to PublicKey.
type JobKeyRequest struct {
	PublicKey []byte `json:"public_key"`
	Nonce     string `json:"nonce"`
}

// JobProgress reports an encrypt job. Done carries the volume record, of a RAID set those of all members; Failed the reason.
type JobProgress struct {
	Phase   string        `json:"phase"` // "header", "file system", "done", "failed"; "waiting" for a rotation that has not begun
	Percent int           `json:"percent"`
	Done    bool          `json:"done,omitempty"`
	Failed  string        `json:"failed,omitempty"`
	Volume  *VolumeRecord `json:"volume,omitempty"`
	// Members are the records of a RAID set's members in the order of their places; Volume is empty then.
	Members []VolumeRecord `json:"members,omitempty"`
	// Waiting is why a rotation has not begun, with the phase "waiting".
	Waiting string `json:"waiting,omitempty"`
}
