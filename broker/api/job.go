package api

import "time"

// KeyRotationWrite asks for a device's data to get another key.
type KeyRotationWrite struct {
	Reason string `json:"reason,omitempty" maxLength:"1024"`
}

// KeyRotation is a rotation of a device's key that waits. The volume opens with the key that it has until it is done.
type KeyRotation struct {
	JobID  string `json:"job_id"`
	Status string `json:"status"` // "queued"
	// Generation is that of the key which waits.
	Generation int64     `json:"generation"`
	AskedBy    string    `json:"asked_by"`
	AskedAt    time.Time `json:"asked_at"`
	Reason     string    `json:"reason,omitempty"`
	// Waits is why the machine has not begun, by its own word; empty before it has answered.
	Waits string `json:"waits,omitempty"`
}

// Job is work that was asked of a machine.
type Job struct {
	ID           string     `json:"id"`
	Kind         string     `json:"kind" enum:"encrypt,rotate-key"`
	Status       string     `json:"status" enum:"queued,running,done,failed,cancelled"`
	DeviceID     string     `json:"device_id"`
	DeviceName   string     `json:"device_name,omitempty"` // empty when the device was deleted
	InstanceID   string     `json:"instance_id"`
	InstanceName string     `json:"instance_name,omitempty"`
	Phase        string     `json:"phase,omitempty"`
	Percent      int        `json:"percent"`
	Error        string     `json:"error,omitempty"`
	Waits        string     `json:"waits,omitempty"` // why the machine has not begun, by its own word
	AskedBy      string     `json:"asked_by,omitempty"`
	Reason       string     `json:"reason,omitempty"`
	CreatedAt    time.Time  `json:"created_at"`
	UpdatedAt    time.Time  `json:"updated_at"`
	EndedAt      *time.Time `json:"ended_at,omitempty"`
}
