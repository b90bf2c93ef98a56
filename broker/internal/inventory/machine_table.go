package inventory

import (
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/machine"
)

var (
	notRoot      = machine.When("not the root disk", func(in circumstances) bool { return in.NotRoot })
	complete     = machine.When("platform, file system, mount point, key size and image set", func(in circumstances) bool { return in.Complete })
	mayOverwrite = machine.When("an empty device, or the word that what it holds may be destroyed", func(in circumstances) bool { return in.Empty || in.Destroy })
	destroyWord  = machine.When("the word that the key is destroyed for ever", func(in circumstances) bool { return in.Destroy })
	mayLoseKey   = machine.When("no key, or the word that it is destroyed for ever", func(in circumstances) bool { return in.NoKey || in.Destroy })
	single       = machine.When("not a member of a RAID set", func(in circumstances) bool { return in.Single })
	keyIn        = machine.When("no machine that may hold the key", func(in circumstances) bool { return in.KeyIn })
	sourceKey    = machine.When("a source with an encryption key", func(in circumstances) bool { return in.SourceHasKey })
	lastMount    = machine.When("mounted nowhere else", func(in circumstances) bool { return in.LastMount })
	twoMembers   = machine.When("two or more members of one provider and image, in no other set", func(in circumstances) bool { return in.Members })
	allMembers   = machine.When("every member", func(in circumstances) bool { return in.AllMembers })
	noRotation   = machine.When("no rotation that waits", func(in circumstances) bool { return in.NoRotation })
	rotation     = machine.When("a rotation that no machine has begun", func(in circumstances) bool { return in.RotationQueued })
	formerKnown  = machine.When("a former status", func(in circumstances) bool { return in.Former != "" })
)

func wasStatus(s api.DeviceStatus) condition {
	return machine.When("it was "+string(s), func(in circumstances) bool { return in.Former == s })
}

func at(statuses ...api.DeviceStatus) []api.DeviceStatus { return statuses }

func given(conditions ...condition) []condition { return conditions }

func with(effects ...Effect) []Effect { return effects }

func to(from []api.DeviceStatus, e Event, when []condition, next api.DeviceStatus, effects []Effect) arrow {
	return arrow{From: from, Event: e, When: when, To: next, Effects: effects}
}

// present are the statuses in which an absence from the inventory counts: not In-use, where the machine's word stands.
var present = at(api.DeviceNotConfigured, api.DeviceConfigured, api.DeviceEncryptionPending, api.DeviceEncrypting,
	api.DeviceEncryptionError, api.DeviceEncrypted)

// editable are the statuses in which everything may be configured.
var editable = at(api.DeviceNotConfigured, api.DeviceConfigured, api.DeviceEncryptionError)

var deviceTable = statusTable{
	Subject: "device", Stay: unchanged, Help: deviceHelp,
	Rows: slices.Concat([]arrow{
		to(at(absentStatus), Published, given(notRoot), api.DeviceNotConfigured, with(machine.Audit("device.added"))),
		to(at(api.DeviceUndetected), Published, given(formerKnown), formerStatus, with(machine.Audit("device.returned"))),
		to(append(present[:len(present):len(present)], api.DeviceInUse), Published, nil, unchanged, nil),
		to(present, Vanished, nil, api.DeviceUndetected, with(machine.Audit("device.undetected"))),
		to(at(api.DeviceInUse), Vanished, nil, unchanged, with(machine.Do(EffectWarnMissing))),
		to(at(api.DeviceUndetected), Vanished, nil, unchanged, nil),

		to(editable, Configured, given(complete), api.DeviceConfigured, with(machine.Audit("device.configured"))),
		to(at(api.DeviceEncrypted), Configured, given(complete), unchanged, with(machine.Audit("device.configured"))),
		to(at(api.DeviceNotConfigured), ConfigurationCopied, given(single, sourceKey), api.DeviceEncrypted,
			with(machine.Do(EffectCopyKey), machine.Do(EffectMarkUnverified), machine.Audit("device.cloned"))),
		to(at(api.DeviceConfigured), EncryptAsked, given(complete, notRoot, single, mayOverwrite), api.DeviceEncryptionPending,
			with(machine.Do(EffectQueueJob), machine.Audit("device.encrypt-asked"))),
		to(at(api.DeviceConfigured), KeyImported, given(complete, notRoot, single), api.DeviceEncrypted,
			with(machine.Do(EffectTakeKey), machine.Do(EffectStoreVolume), machine.Audit("device.imported"))),
		to(at(api.DeviceEncrypting), Encrypted, nil, api.DeviceEncrypted, encryptedEffects("device")),
		to(at(api.DeviceUndetected), Encrypted, given(wasStatus(api.DeviceEncrypting)), later(api.DeviceUndetected, api.DeviceEncrypted), encryptedEffects("device")),
	}, provisioning(api.DeviceUndetected, "device"), use(api.DeviceUndetected, "device"), []arrow{
		to(at(api.DeviceEncrypted, api.DeviceInUse), RotationAsked, given(single, noRotation), unchanged,
			with(machine.Do(EffectPendKey), machine.Do(EffectQueueJob), machine.Audit("device.key-rotation-asked"))),
		to(at(api.DeviceEncrypted, api.DeviceInUse, api.DeviceUndetected), RotationCancelled, given(rotation), unchanged,
			with(machine.Do(EffectDropPending), machine.Audit("device.key-rotation-cancelled"))),
		to(at(api.DeviceConfigured, api.DeviceEncrypted, api.DeviceEncryptionError), Unconfigured, given(single, keyIn, destroyWord), api.DeviceNotConfigured,
			with(machine.Do(EffectDestroyKey), machine.Do(EffectClearConfig), machine.Audit("device.unconfigured"))),
		to(at(api.DeviceConfigured, api.DeviceEncrypted, api.DeviceEncryptionError), SetUnconfigured, given(keyIn, destroyWord), api.DeviceNotConfigured,
			with(machine.Do(EffectDestroyKey), machine.Do(EffectClearConfig), machine.Audit("device.unconfigured"))),
		to(at(api.DeviceUndetected), SetUnconfigured, given(keyIn, destroyWord), later(api.DeviceUndetected, api.DeviceNotConfigured),
			with(machine.Do(EffectDestroyKey), machine.Do(EffectClearConfig), machine.Audit("device.unconfigured"))),
		to(at(api.DeviceNotConfigured), SetUnconfigured, nil, unchanged, nil),
		to(at(api.DeviceUndetected), Deleted, given(single, keyIn, mayLoseKey), absentStatus,
			with(machine.Do(EffectDestroyKey), machine.Do(EffectRemove), machine.Audit("device.deleted"))),
	}),
}

var raidTable = statusTable{
	Subject: "RAID set", Stay: unchanged, Help: raidHelp,
	Rows: slices.Concat([]arrow{
		to(at(absentStatus), Created, given(twoMembers, complete), api.DeviceConfigured, with(machine.Audit("raid-set.created"))),
		to(present, MemberVanished, nil, api.DeviceMissing, with(machine.Audit("raid-set.member-missing"), machine.Notify("raid-member-missing"))),
		to(at(api.DeviceInUse), MemberVanished, nil, unchanged, with(machine.Do(EffectWarnMissing))),
		to(at(api.DeviceMissing), MemberVanished, nil, unchanged, nil),
		to(at(api.DeviceMissing), MembersBack, given(allMembers, formerKnown), formerStatus, with(machine.Audit("raid-set.complete"))),
		to(at(api.DeviceMissing), MembersBack, nil, unchanged, nil),

		to(editable, Configured, given(complete), api.DeviceConfigured, with(machine.Audit("raid-set.configured"))),
		to(at(api.DeviceConfigured), EncryptAsked, given(complete, notRoot, mayOverwrite), api.DeviceEncryptionPending,
			with(machine.Do(EffectQueueJob), machine.Audit("raid-set.encrypt-asked"))),
		to(at(api.DeviceEncrypting), Encrypted, given(allMembers), api.DeviceEncrypted, encryptedEffects("raid-set")),
		to(at(api.DeviceEncrypting), Encrypted, nil, unchanged, nil),
		to(at(api.DeviceMissing), Encrypted, given(wasStatus(api.DeviceEncrypting), allMembers), later(api.DeviceMissing, api.DeviceEncrypted), encryptedEffects("raid-set")),
		to(at(api.DeviceMissing), Encrypted, given(wasStatus(api.DeviceEncrypting)), unchanged, nil),
	}, provisioning(api.DeviceMissing, "raid-set"), use(api.DeviceMissing, "raid-set"), []arrow{
		to(at(api.DeviceConfigured, api.DeviceEncrypted, api.DeviceEncryptionError), Unconfigured, given(keyIn, destroyWord), api.DeviceNotConfigured,
			with(machine.Do(EffectDestroyKey), machine.Do(EffectClearConfig), machine.Audit("raid-set.unconfigured"))),
		to(at(api.DeviceNotConfigured, api.DeviceMissing), Deleted, given(keyIn, mayLoseKey), absentStatus,
			with(machine.Do(EffectDestroyKey), machine.Do(EffectReleaseMembers), machine.Do(EffectRemove), machine.Audit("raid-set.deleted"))),
	}),
}

func later(lost, next api.DeviceStatus) api.DeviceStatus { return lost + afterwards + next }

func encryptedEffects(subject string) []Effect {
	return with(machine.Do(EffectStoreVolume), machine.Do(EffectEndJob), machine.Audit(subject+".encrypted"), machine.Notify("provisioning-completed"))
}

// provisioning are the rows of an encrypt job. lost is the status of what is gone from the inventory: the job goes on,
// because the machine that does it is the truth and the inventory is advice.
func provisioning(lost api.DeviceStatus, subject string) []arrow {
	failed := with(machine.Do(EffectEndJob), machine.Audit(subject+".encryption-failed"), machine.Notify("provisioning-failed"))
	over := with(machine.Do(EffectCancelJob), machine.Audit(subject+".encryption-wait-over"), machine.Notify("provisioning-idle"))
	cancelled := with(machine.Do(EffectCancelJob), machine.Audit(subject+".encryption-cancelled"))
	pending, encrypting := api.DeviceEncryptionPending, api.DeviceEncrypting
	return []arrow{
		to(at(api.DeviceEncryptionError), RetrySaved, given(complete), api.DeviceConfigured, with(machine.Audit(subject+".configured"))),
		to(at(pending), AgentTookJob, nil, encrypting, with(machine.Do(EffectNewKey), machine.Audit(subject+".encrypting"))),
		to(at(encrypting), AgentTookJob, nil, unchanged, nil), // the agent was restarted and takes the same job and key
		to(at(pending, encrypting), EncryptionFailed, nil, api.DeviceEncryptionError, failed),
		to(at(lost), EncryptionFailed, given(wasStatus(encrypting)), later(lost, api.DeviceEncryptionError), failed),
		to(at(lost), EncryptionFailed, given(wasStatus(pending)), later(lost, api.DeviceEncryptionError), failed),
		to(at(pending), WaitOver, nil, api.DeviceConfigured, over),
		to(at(lost), WaitOver, given(wasStatus(pending)), later(lost, api.DeviceConfigured), over),
		to(at(pending), Cancelled, nil, api.DeviceConfigured, cancelled),
		to(at(lost), Cancelled, given(wasStatus(pending)), later(lost, api.DeviceConfigured), cancelled),
	}
}

// use are the rows of mounting.
func use(lost api.DeviceStatus, subject string) []arrow {
	inUse := with(machine.Do(EffectMarkVerified), machine.Audit(subject+".in-use"))
	return []arrow{
		to(at(api.DeviceEncrypted), Mounted, nil, api.DeviceInUse, inUse),
		to(at(lost), Mounted, given(wasStatus(api.DeviceEncrypted)), api.DeviceInUse, inUse),
		to(at(api.DeviceInUse), Mounted, nil, unchanged, nil),
		to(at(api.DeviceInUse), Unmounted, given(lastMount), api.DeviceEncrypted, with(machine.Audit(subject+".released"))),
		to(at(api.DeviceInUse, api.DeviceEncrypted, lost), Unmounted, nil, unchanged, nil),
	}
}
