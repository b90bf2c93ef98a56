package inventory

import (
	"errors"
	"math"
	"slices"

	"keyward/broker/api"
)

// Actions says what a person may do with a device or RAID set in a status. The machine may still refuse for other
// reasons (see Ctx); what is false here is refused always.
type Actions struct {
	CanEditName    bool // name and description
	CanEditMount   bool // mount point and access
	CanEditKeyBits bool // and file system: before encryption only
	CanConfigure   bool
	CanEncrypt     bool
	CanCancel      bool
	CanExport      bool
	CanUnconfigure bool
	CanDelete      bool
	CanRemapImage  bool
	CanCopyFrom    bool // its configuration to another device
	CanCopyTo      bool // another device's configuration to it
	CanRotateKey   bool // unless a rotation waits already
}

// Allowed says what a person may do with a device.
func Allowed(s api.DeviceStatus) Actions {
	a := allowedIn(deviceTable, s)
	a.CanCopyFrom = a.CanExport
	return a
}

// AllowedRAID says what a person may do with a RAID set.
func AllowedRAID(s api.DeviceStatus) Actions { return allowedIn(raidTable, s) }

func allowedIn(t statusTable, s api.DeviceStatus) Actions {
	configure := t.Accepts(s, Configured)
	return Actions{
		CanEditName:    s != absentStatus,
		CanEditMount:   configure,
		CanEditKeyBits: configure && slices.Contains(editable, s),
		CanConfigure:   configure,
		CanEncrypt:     t.Accepts(s, EncryptAsked),
		CanCancel:      s == api.DeviceEncryptionPending,
		CanExport:      s == api.DeviceEncrypted || s == api.DeviceInUse,
		CanUnconfigure: t.Accepts(s, Unconfigured),
		CanDelete:      t.Accepts(s, Deleted),
		// An image is first chosen by configuring; changing it later needs a device that nobody uses.
		CanRemapImage: s == api.DeviceEncrypted,
		CanCopyTo:     t.Accepts(s, ConfigurationCopied),
		CanRotateKey:  t.Accepts(s, RotationAsked),
	}
}

// RAIDSize is the size in bytes of a RAID 0 set: its smallest member times the number of members.
func RAIDSize(members []int64) (int64, error) {
	if len(members) < 2 {
		return 0, errors.New("a RAID set needs at least two members: choose another device")
	}
	smallest := slices.Min(members)
	if smallest <= 0 || smallest > math.MaxInt64/int64(len(members)) {
		return 0, errors.New("a member's size is not usable: publish the inventory of its machine again")
	}
	return smallest * int64(len(members)), nil
}
