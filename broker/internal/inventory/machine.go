package inventory

import (
	"slices"
	"strings"

	"keyward/broker/api"
	"keyward/broker/internal/machine"
)

// State is what the machines keep of a device or RAID set. The zero State is one that is not in the inventory.
type State struct {
	Status api.DeviceStatus
	// Former is the status to return to, while Status is Undetected or Device Missing; empty otherwise.
	Former api.DeviceStatus
}

// Event is something that happens to a device or a RAID set.
type Event string

// The events. Created, MemberVanished and MembersBack belong to RAID sets; Published, Vanished,
// ConfigurationCopied, KeyImported and SetUnconfigured to devices. What happens to a set happens to its members too.
const (
	Published           Event = "published"          // a machine's inventory lists the device
	Vanished            Event = "vanished"           // it lists the device no longer
	Configured          Event = "configured"         // a person saved platform, file system, mount point, image
	RetrySaved          Event = "retry-save"         // a person saved after an encryption error, to try again
	EncryptAsked        Event = "encrypt-asked"      // by a person
	AgentTookJob        Event = "agent-took-job"     // the agent collects the new key
	Encrypted           Event = "encrypted"          // the agent finished, with the volume record
	EncryptionFailed    Event = "encryption-failed"  // the agent gave up, with the reason
	WaitOver            Event = "wait-over"          // no agent took the job in time
	Cancelled           Event = "cancel"             // a person changed their mind
	Mounted             Event = "mounted"            // a machine mounted it
	Unmounted           Event = "unmounted"          // stopped, revoked, or the lease is over
	Unconfigured        Event = "unconfigure"        // a person destroys the key
	ConfigurationCopied Event = "copy-configuration" // of the device that this one is a clone of
	KeyImported         Event = "key-imported"       // its machine handed over the key of a volume that was there before
	SetUnconfigured     Event = "set-unconfigured"   // a person destroys the keys of the RAID set that the device is in
	RotationAsked       Event = "rotate-key"         // a person wants the data under a new key
	RotationCancelled   Event = "cancel-rotation"    // a person changed their mind
	Deleted             Event = "delete"             // a person removes it from the inventory
	Created             Event = "created"            // a person made a RAID set
	MemberVanished      Event = "member-vanished"    // a member became Undetected
	MembersBack         Event = "members-back"       // a member was seen again
)

// Ctx are the circumstances of an event. Fields that the event does not need may be left zero; a zero value never
// allows more than a set one.
type Ctx struct {
	// NotRoot: the device is not the disk of its machine's root file system.
	NotRoot bool
	// Complete: platform, file system, mount point, key size and image are set and valid.
	Complete bool
	// Empty: by its machine's word the device, or every member, holds nothing.
	Empty bool
	// Destroy: a person gave the explicit word (the device's name) that what is lost may be lost.
	Destroy bool
	// Single: the device is in no RAID set, or the event comes from its set.
	Single bool
	// KeyIn: no machine may hold the key: no key request of the device is approved or has its key out.
	KeyIn bool
	// NoKey: there is no key that the event would destroy.
	NoKey bool
	// SourceHasKey: the device to copy from has a key and a volume record.
	SourceHasKey bool
	// LastMount: no other machine has it mounted.
	LastMount bool
	// Members: the set has at least two members, of one provider and image and in no other set.
	Members bool
	// NoRotation: no rotation of the device's key waits; RotationQueued: one waits, and no machine has begun it.
	NoRotation, RotationQueued bool
	// AllMembers: every member has reached what the event says: encrypted, or back in the inventory.
	AllMembers bool
}

// Effect is work that belongs to a change; see the Effect constants, "audit" and "notify".
type Effect = machine.Effect

// The kinds of effects beside "audit" and "notify".
const (
	EffectQueueJob       = "queue-job"           // for the machine that sees the device, or all members of a set
	EffectEndJob         = "end-job"             // done or failed
	EffectCancelJob      = "cancel-job"          // no agent took it
	EffectNewKey         = "new-key"             // generate, wrap and store a device key, before it is sealed to the agent
	EffectStoreVolume    = "store-volume"        // the agent's volume record becomes authoritative
	EffectDestroyKey     = "destroy-key"         // for ever; a set: the members' keys
	EffectClearConfig    = "clear-configuration" // and the volume record
	EffectCopyKey        = "copy-key"            // key and volume record of the source, wrapped for this device
	EffectTakeKey        = "take-key"            // that its machine handed over becomes the device's next one
	EffectPendKey        = "pend-key"            // generate, wrap and store a key that waits beside the one the volume has
	EffectDropPending    = "drop-pending-key"    // for ever: nothing is written with it; its job is cancelled
	EffectMarkUnverified = "mark-unverified"     // say so until an agent has opened the volume
	EffectMarkVerified   = "mark-verified"       // an agent has opened it
	EffectWarnMissing    = "warn-missing"        // say that the inventory lacks a device that is in use
	EffectReleaseMembers = "release-members"     // members of a set become individual devices again
	EffectRemove         = "remove"              // delete the row
)

// Result is where a device goes and what the caller commits with it, in order.
type Result struct {
	Next    State
	Effects []Effect
}

// Refused is the error of an event that is not possible now.
type Refused = machine.Refused

// Apply is the only place where a device's status changes. It is pure; the error is a *Refused that says why and what
// to do instead, and then nothing may change. A zero Result.Next means that the device leaves the inventory.
func Apply(s State, e Event, c Ctx) (Result, error) { return apply(deviceTable, s, e, c) }

// ApplyRAID is Apply for RAID sets.
func ApplyRAID(s State, e Event, c Ctx) (Result, error) { return apply(raidTable, s, e, c) }

// Table is the device machine as a markdown table, for the documentation.
func Table() string { return deviceTable.Markdown() }

// RAIDTable is the RAID machine as a markdown table, for the documentation.
func RAIDTable() string { return raidTable.Markdown() }

// circumstances is what guards look at.
type circumstances struct {
	State
	Ctx
}

type (
	statusTable = machine.Table[api.DeviceStatus, Event, circumstances]
	arrow       = machine.Row[api.DeviceStatus, Event, circumstances]
	condition   = machine.Guard[circumstances]
)

// Targets that are not statuses.
const (
	unchanged    api.DeviceStatus = "(unchanged)"
	formerStatus api.DeviceStatus = "(former status)"
	absentStatus api.DeviceStatus = "" // not in the inventory

	// afterwards marks the target of a device that stays lost while what it returns to changes.
	afterwards = ", afterwards "
)

func apply(t statusTable, s State, e Event, c Ctx) (Result, error) {
	row, err := t.Find(s.Status, e, circumstances{s, c})
	if err != nil {
		return Result{}, err
	}
	next := State{Status: row.To}
	lost, later, isLater := strings.Cut(string(row.To), afterwards)
	switch {
	case row.To == formerStatus:
		next.Status = s.Former
	case isLater:
		next = State{api.DeviceStatus(lost), api.DeviceStatus(later)}
	case row.To == s.Status: // lost and reported lost again: what it returns to must not be forgotten
		next.Former = s.Former
	case row.To == api.DeviceUndetected || row.To == api.DeviceMissing:
		next.Former = s.Status
	}
	return Result{Next: next, Effects: slices.Clone(row.Effects)}, nil
}
