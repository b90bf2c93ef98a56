// Package control is the agent's local door: a unix socket in a folder that only root can enter, over which the command
// line asks a running agent. One request and one answer, each a line of JSON; then the connection is closed.
package control

import (
	"time"

	"keyward/agent/internal/harden"
	"keyward/agent/volume"
)

// Op names what is asked.
type Op string

// The operations.
const (
	OpStatus  Op = "status"
	OpPublish Op = "publish-inventory"
	OpRequest Op = "request" // Device: ask the broker for the key
	OpLock    Op = "lock"    // Device: unmount and wipe the key
	OpCheck   Op = "check"   // have the broker judge this machine now
	OpStop    Op = "stop"    // unmount everything and end the agent
	OpUpgrade Op = "upgrade" // Program: go on as another program; without an answer if that succeeds
)

// Request is one line from the command line.
type Request struct {
	Op     Op     `json:"op"`
	Device string `json:"device,omitempty"` // ID, name or path
	// Program is the path of the program to go on as, empty for the one that runs.
	Program string `json:"program,omitempty"`
}

// Answer is one line back. Error is empty on success.
type Answer struct {
	Error  string  `json:"error,omitempty"`
	Text   string  `json:"text,omitempty"`
	Status *Status `json:"status,omitempty"`
}

// Status is the documented form of `keyward-agent status --json` (docs/operations/agent.md). Fields are added, never
// renamed or removed.
type Status struct {
	Version  string    `json:"version"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Provider string    `json:"provider"`
	// Protection of the machine's private key.
	KeyGrade         string            `json:"identity_key"`
	InstanceID       string            `json:"instance_id"`
	AccountID        string            `json:"account_id"`
	AccountName      string            `json:"account_name"`
	CertificateUntil time.Time         `json:"certificate_until"`
	Broker           Broker            `json:"broker"`
	Volumes          []volume.Snapshot `json:"volumes"`
	Jobs             []Job             `json:"jobs"`
	// Devices are the devices of this machine that were published, whatever became of them.
	Devices   []Device         `json:"devices"`
	Hardening []harden.Measure `json:"hardening"`
}

// Broker is the link to the broker.
type Broker struct {
	URL  string `json:"url"`
	Name string `json:"name,omitempty"`
	// Connected says whether the last call succeeded; Error is why not.
	Connected   bool       `json:"connected"`
	LastContact *time.Time `json:"last_contact,omitempty"`
	Error       string     `json:"error,omitempty"`
	// HeartbeatSeconds is the pace that the broker asked for.
	HeartbeatSeconds int64 `json:"heartbeat_seconds"`
}

// Job is an encrypt job that runs or ended since the agent started.
type Job struct {
	ID       string `json:"id"`
	DeviceID string `json:"device_id"`
	Device   string `json:"device"`
	Phase    string `json:"phase"`
	Percent  int    `json:"percent"`
	Error    string `json:"error,omitempty"`
}

// Device is a published device.
type Device struct {
	ID       string `json:"id,omitempty"`
	Identity string `json:"identity"`
	Name     string `json:"name"`
	Path     string `json:"path"`
	Size     int64  `json:"size"`
	Contents string `json:"contents"`
	Status   string `json:"status,omitempty"` // the broker's word
	// FileSystem, MountPoint and Access as configured at the broker.
	FileSystem string `json:"file_system,omitempty"`
	MountPoint string `json:"mount_point,omitempty"`
	Access     string `json:"access,omitempty"`
	KeyBits    int    `json:"key_bits,omitempty"`
}
