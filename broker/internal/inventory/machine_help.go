package inventory

import "maps"

// deviceHelp tells the reader of a refusal what the event is for.
var deviceHelp = map[Event]string{
	Published:           "the root disk is never listed",
	Configured:          "configure before encryption; of an encrypted device name, mount point and image can change once it is not in use",
	RetrySaved:          "only an encryption error is tried again",
	EncryptAsked:        "configure the device first; a member is encrypted with its RAID set",
	AgentTookJob:        "no encryption was asked for, or it was cancelled",
	Encrypted:           "no encryption is under way",
	EncryptionFailed:    "no encryption is under way",
	WaitOver:            "only an encryption that no agent has begun can be given up; one that has begun must finish",
	Cancelled:           "only an encryption that no agent has begun can be cancelled; one that has begun must finish",
	Mounted:             "only an encrypted device is mounted",
	Unmounted:           "only an encrypted device is mounted",
	Unconfigured:        "let encryption finish, stop the agent or revoke the key, and unconfigure a member with its RAID set",
	ConfigurationCopied: "only a device that is not configured takes the configuration of its source",
	KeyImported:         "configure the device first; a volume is imported while it is Configured",
	SetUnconfigured:     "let encryption finish, and stop the agent or revoke the keys of the set",
	RotationAsked:       "the key of an encrypted device is replaced, one rotation at a time; of a RAID set none is in this release",
	RotationCancelled:   "only a rotation that no machine has begun can be cancelled",
	Deleted:             "stop the agent, remove the device from its machine, publish the inventory, then delete it; a member leaves its RAID set first",
}

var raidHelp = func() map[Event]string {
	help := maps.Clone(deviceHelp)
	help[Created] = "choose two or more free devices of one provider and image"
	help[MemberVanished] = "the set does not exist"
	help[MembersBack] = "no member is missing"
	help[Configured] = "a set can be changed while it is Not configured, Configured or Encryption error"
	help[EncryptAsked] = "configure the set first"
	help[Unconfigured] = "let encryption finish, and stop the agent or revoke the keys"
	help[Deleted] = "unconfigure the set first; a set with missing members can be deleted as it is"
	return help
}()
