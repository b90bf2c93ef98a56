package api

import "time"

// Outcome is what a policy would do with a device on a machine.
type Outcome string

// The outcomes. A machine that holds the key keeps it or loses it when it is checked; any other is judged as if it asked.
const (
	OutcomeApproved     Outcome = "approved"
	OutcomeWaits        Outcome = "waits"         // for a person, or for the policy's delay
	OutcomeDenied       Outcome = "denied"        //
	OutcomeKeeps        Outcome = "keeps"         // its key
	OutcomeRevoked      Outcome = "revoked"       // when it is checked, at once
	OutcomeRevokedLater Outcome = "revoked-later" // when it is checked, after the policy's grace
	OutcomeUnknown      Outcome = "unknown"       // nothing is known of the machine to judge by
)

// OutcomeCounts counts devices on machines, or requests, by outcome.
type OutcomeCounts struct {
	Approved int64 `json:"approved"`
	Waits    int64 `json:"waits"`
	Denied   int64 `json:"denied"`
	Keeps    int64 `json:"keeps"`
	Revoked  int64 `json:"revoked"` // at once or after the grace
	Unknown  int64 `json:"unknown"`
}

// Add counts one more of an outcome.
func (c *OutcomeCounts) Add(o Outcome) {
	switch o {
	case OutcomeApproved:
		c.Approved++
	case OutcomeWaits:
		c.Waits++
	case OutcomeDenied:
		c.Denied++
	case OutcomeKeeps:
		c.Keeps++
	case OutcomeRevoked, OutcomeRevokedLater:
		c.Revoked++
	default:
		c.Unknown++
	}
}

// PolicyPreview says what a policy would do with the devices that it would hold, or would let go, if it were saved.
// Nothing happens by saving alone: who holds a key keeps it until it is checked.
type PolicyPreview struct {
	At time.Time `json:"at"`
	// Before counts by the policies as they are, After as they would be, over the same devices on the same machines.
	Before OutcomeCounts `json:"before"`
	After  OutcomeCounts `json:"after"`
	// Changed counts those whose outcome would differ.
	Changed int64 `json:"changed"`
	// Rows lists those whose outcome would differ, then the others, at most 200; Omitted counts the rest.
	Rows    []PreviewRow `json:"rows"`
	Omitted int64        `json:"omitted"`
	// Unseen counts devices that were not looked at because the time was over; 0 when the preview is whole.
	Unseen int64 `json:"unseen"`
}

// PreviewRow is a device on a machine.
type PreviewRow struct {
	DeviceID     string `json:"device_id"`
	DeviceName   string `json:"device_name"`
	InstanceID   string `json:"instance_id"`
	InstanceName string `json:"instance_name"`
	// RequestID, Number and Status are of the machine's newest request for the device; empty when it never asked.
	RequestID string    `json:"request_id,omitempty"`
	Number    int64     `json:"number,omitempty"`
	Status    KeyStatus `json:"status,omitempty"`
	// FactsAt is when the machine reported what was judged; nil when nothing is known of it.
	FactsAt *time.Time `json:"facts_at,omitempty"`
	// Missing is true when the machine has not reported for longer than its policy allows.
	Missing bool     `json:"missing,omitempty"`
	Before  Judgment `json:"before"`
	After   Judgment `json:"after"`
}

// Judgment is what one policy would do, and why.
type Judgment struct {
	Policy    string    `json:"policy"` // its name
	Outcome   Outcome   `json:"outcome"`
	Integrity Integrity `json:"integrity,omitempty"`
	Reason    string    `json:"reason"`
	// Failed are the rules that decide: those that fail.
	Failed []Finding `json:"failed,omitempty"`
}

// PolicyReplay says what a policy would have done with the requests that were asked before.
type PolicyReplay struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// Requests counts those that were judged: of the devices that the policy holds now or would hold.
	Requests int64 `json:"requests"`
	// Then counts what the policies did when they were asked, Now what this policy would have done.
	Then      OutcomeCounts `json:"then"`
	Now       OutcomeCounts `json:"now"`
	Different int64         `json:"different"`
	// Rows lists differences, newest first, at most 200; Omitted counts the rest.
	Rows    []ReplayRow `json:"rows"`
	Omitted int64       `json:"omitted"`
	// Unseen is true when the time was over before the oldest requests were looked at: then From is where it ended.
	Unseen bool `json:"unseen,omitempty"`
}

// ReplayRow is a request with which the policy would have done something else.
type ReplayRow struct {
	RequestID    string    `json:"request_id"`
	Number       int64     `json:"number"`
	At           time.Time `json:"at"`
	DeviceName   string    `json:"device_name"`
	InstanceName string    `json:"instance_name"`
	Then         Outcome   `json:"then"`
	// Decision is what a person did afterwards, for example "approved by kim"; empty when nobody did anything.
	Decision string   `json:"decision,omitempty"`
	Now      Judgment `json:"now"`
}
