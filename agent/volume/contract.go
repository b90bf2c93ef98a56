// Package volume is the life of one encrypted volume on one machine: from a device that was found, over the broker's
// decision, to a mounted file system, and back without the key. The rules are a pure table (machine.go); what they ask
// for is done through the small interfaces of this file, so that every path can be tested without a broker or a disk.
package volume

import (
	"context"
	"errors"
	"time"

	"keyward/broker/api"
	"keyward/nbdcrypt/keymem"
)

// ErrRequestGone is returned by a Request that the broker no longer knows or has ended: only a new one can help.
var ErrRequestGone = errors.New("the broker has ended this key request")

// Courier files key requests with the broker.
type Courier interface {
	// File collects evidence and files a request for the device. It returns when the broker has answered, with what the
	// broker said of it.
	File(ctx context.Context, deviceID string) (Request, api.KeyRequestStatus, error)
}

// Request is one filed key request.
type Request interface {
	ID() string
	// Status asks where the request stands. With a version other than zero the broker holds the answer back until the
	// request's version differs or about a minute has passed.
	Status(ctx context.Context, after int64) (api.KeyRequestStatus, error)
	// Collect takes the key of an approved request, or the one that came with the answer to it. The caller owns the Grant.
	Collect(ctx context.Context) (*Grant, error)
	// Report tells the broker what happened to the key. It does not block: what cannot be sent now is sent later.
	Report(api.RequestEvent)
	// Forget drops the private key that deliveries of this request are sealed to.
	Forget()
}

// Grant is a delivered key with what the broker says about the volume.
type Grant struct {
	// Key is owned by whoever holds the Grant; opening a volume hands it over. For a RAID set (Device.Set) it is the keys of
	// all members, one after the other.
	Key *keymem.Key
	// LeaseEnd is when the key must be gone unless it is renewed, on the Boottime clock. It counts from the moment the
	// delivery was asked for, so that a slow answer shortens it.
	LeaseEnd time.Duration
	Device   api.AssignedDevice
	Volume   api.VolumeRecord
}

// Platform opens volumes on this machine.
type Platform interface {
	// Open verifies the header on the disk against the grant's record and makes the volume a block device. It takes the
	// key over: on error the key has been wiped.
	Open(ctx context.Context, disk string, g *Grant) (Export, error)
}

// Export is an open volume. Its methods are not called concurrently.
type Export interface {
	Info() Info
	// Mount checks and mounts the file system.
	Mount(ctx context.Context) error
	// GiveUp ends the use of the volume and wipes the key, always. held is true if the volume could not be unmounted and
	// was suspended instead. detail is one line for people.
	GiveUp(ctx context.Context, why string) (held bool, detail string)
	// Hold makes the file system consistent, lets requests wait and wipes the key, always.
	Hold(ctx context.Context, why string) (detail string)
	// Resume gives a held volume its key back. It takes the key over: on error the key has been wiped.
	Resume(ctx context.Context, g *Grant) error
	// Abandon detaches a held volume: requests that waited fail.
	Abandon(ctx context.Context) (detail string)
}

// Info describes an open volume to people.
type Info struct {
	Kind          string `json:"export_kind"`    // how the kernel reaches it
	BlockDevice   string `json:"block_device"`   // for example /dev/nbd0
	MountPoint    string `json:"mount_point"`    // empty while not mounted
	Access        string `json:"access"`         // read-only or read-write
	KeyProtection string `json:"key_protection"` // where the key lies
}

// Snapshot is what a volume looks like from outside at one moment.
type Snapshot struct {
	DeviceID string `json:"device_id"`
	Name     string `json:"name"`
	Disk     string `json:"disk"`
	State    State  `json:"state"`
	// Why is one sentence on why the volume is in this state: what it waits for, what went wrong, who took the key.
	Why string `json:"why,omitempty"`
	Info
	RequestID     string        `json:"request_id,omitempty"`
	RequestNumber int64         `json:"request_number,omitempty"`
	RequestStatus api.KeyStatus `json:"request_status,omitempty"`
	Integrity     api.Integrity `json:"integrity,omitempty"`
	// WaitsFor says who or what would move a waiting request on; FailedRules which rules this machine failed.
	WaitsFor    string          `json:"waits_for,omitempty"`
	FailedRules []api.Shortfall `json:"failed_rules,omitempty"`
	// RevokeAt is when a failed check takes the key, Warning what failed.
	RevokeAt *time.Time `json:"revoke_at,omitempty"`
	Warning  string     `json:"warning,omitempty"`
	// LeaseSeconds is how long the key lives without contact from now on; zero without a key.
	LeaseSeconds int64     `json:"lease_seconds"`
	Since        time.Time `json:"since"`
}
