// Package provider is the one interface behind which all places where a machine can run look the same: what the instance
// is, where it runs, and which devices it could encrypt. Native is the provider of physical hosts and of virtual machines
// whose cloud is not asked.
package provider

import "context"

// Provider answers for the machine that the agent runs on.
type Provider interface {
	// Name is the identifier used on the command line and shown in the console: "Native".
	Name() string
	// Instance describes this machine.
	Instance(ctx context.Context) (Instance, error)
	// Devices lists what could be encrypted, in a stable order. It never contains the disk that the system stands on. A
	// device that is listed once and then missing is undetected, so an error is returned rather than a partial list.
	Devices(ctx context.Context) ([]Device, error)
}

// Instance is the identity of a machine with its provider.
type Instance struct {
	// ID is the same for as long as the machine is the same.
	ID string
	// ImageID is what machines made from one image share. A native machine is its own image: the same as ID.
	ImageID string
	// HostName of the running system.
	HostName string
	// Location in the provider's words, "" where there is none.
	Location string
	// UserData that was given to the machine by its owner.
	UserData string
}

// DeviceKind says what a Device is.
type DeviceKind string

// The kinds.
const (
	KindDisk  DeviceKind = "disk"  // a whole block device
	KindImage DeviceKind = "image" // a regular file used as a raw disk
)

// Device is something that could hold an encrypted volume.
type Device struct {
	// ID is stable: it is what the broker's record of the device is tied to.
	ID string
	// StableID reports whether ID stays with the medium. Otherwise it stays with the slot or name only.
	StableID bool
	Name     string // for people: "sdb", "data.img"
	Path     string // to open
	Kind     DeviceKind
	Size     int64 // bytes
	// Description is free text: model and serial number, or the image's folder.
	Description string
	ReadOnly    bool
	// InUse says who uses the device now, "" when nobody does.
	InUse string
	// Empty is true only when everything that was looked at is zero. Contents says what it holds in words.
	Empty    bool
	Contents string
}
