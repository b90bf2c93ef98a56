package volume

import "fmt"

// State is where a volume's life on this machine stands.
type State string

// The states. A key is held in unlocked, exported, mounted and while leaving them in locking; nowhere else.
const (
	Discovered State = "discovered" // the device is here and the broker knows it
	Requested  State = "requested"  // a key request is being filed
	Waiting    State = "waiting"    // filed; a policy or a person decides
	Unlocked   State = "unlocked"   // the key is here, the volume is being opened
	Exported   State = "exported"   // a block device of the kernel, being checked and mounted
	Mounted    State = "mounted"    // in use
	Locking    State = "locking"    // the key is being given up
	Suspended  State = "suspended"  // key wiped, requests wait
	Locked     State = "locked"     // key wiped, nothing attached
)

// States lists every state in the order of a life.
var States = []State{Discovered, Requested, Waiting, Unlocked, Exported, Mounted, Locking, Suspended, Locked}

// Event is what happened to a volume.
type Event string

// The events.
const (
	Ask        Event = "ask"         // the key is wanted: start, command, a person, contact after an outage
	Renew      Event = "renew"       // the key is wanted although the open request was refused
	Filed      Event = "filed"       // the broker has the request
	NotFiled   Event = "not filed"   // the request did not reach the broker, or it refused it
	Granted    Event = "granted"     // the delivered key is in this machine's memory
	Closed     Event = "closed"      // the request ended for good without a key
	Lapsed     Event = "lapsed"      // the request ended without a verdict; a new one is worth filing
	Opened     Event = "opened"      // verified and attached
	MountDone  Event = "mount done"  // the file system is mounted
	Failed     Event = "failed"      // opening, attaching, checking or mounting failed
	Revoke     Event = "revoke"      // the broker takes the key back: unmount
	Suspend    Event = "suspend"     // the broker takes the key back: hold requests
	LeaseEnd   Event = "lease end"   // no contact for a lease: unmount
	LeasePause Event = "lease pause" // no contact for a lease: hold requests
	Stop       Event = "stop"        // the machine gives the key up by its own wish
	Gone       Event = "gone"        // unmounted, detached, key wiped
	Held       Event = "held"        // suspended, key wiped
	Resumed    Event = "resumed"     // a suspended volume works again
)

// Events lists every event.
var Events = []Event{Ask, Renew, Filed, NotFiled, Granted, Closed, Lapsed, Opened, MountDone, Failed, Revoke, Suspend, LeaseEnd, LeasePause,
	Stop, Gone, Held, Resumed}

// Effect is something to do in the world because of an event.
type Effect string

// The effects. Those marked with events end in one of them.
const (
	FileRequest     Effect = "file request"     // Filed, NotFiled
	AwaitDecision   Effect = "await decision"   // in the background: Granted, Closed
	DropRequest     Effect = "drop request"     // stop waiting for the decision
	RetryLater      Effect = "retry later"      // Ask after a back-off
	Open            Effect = "open"             // Opened, Failed
	Mount           Effect = "mount"            // MountDone, Failed
	Resume          Effect = "resume"           // Resumed, Failed
	GiveUp          Effect = "give up"          // teardown, sync, unmount, detach, wipe: Gone; Held where it stays busy
	Hold            Effect = "hold"             // teardown, freeze, suspend, wipe: Held
	Abandon         Effect = "abandon"          // detach a suspended volume: Gone
	WipeKey         Effect = "wipe key"         // a key that arrived where it is no longer wanted
	ReportMounted   Effect = "report mounted"   // to the broker
	ReportFailed    Effect = "report failed"    // to the broker
	ReportRevoked   Effect = "report revoked"   // to the broker
	ReportSuspended Effect = "report suspended" // to the broker
	ReportUnmounted Effect = "report unmounted" // to the broker
)

// Step is the outcome of one event.
type Step struct {
	Next    State
	Effects []Effect
}

func to(next State, effects ...Effect) Step { return Step{next, effects} }

// table is the machine. What is not in it is refused by Apply; what is meant to change nothing says so with no effects.
// A volume that is being left (Locking) finishes first, so that its only events are ends. Reports follow the effect that
// makes them true.
var table = map[State]map[Event]Step{
	Discovered: {
		Ask:     to(Requested, FileRequest),
		Revoke:  to(Discovered, ReportRevoked),
		Suspend: to(Discovered, ReportRevoked),
		Stop:    to(Discovered),
	},
	Requested: {
		Ask:      to(Requested),
		Filed:    to(Waiting, AwaitDecision),
		NotFiled: to(Locked, RetryLater),
		Revoke:   to(Requested, ReportRevoked),
		Suspend:  to(Requested, ReportRevoked),
		Stop:     to(Locked, DropRequest),
	},
	Waiting: {
		Ask:     to(Waiting),
		Renew:   to(Requested, FileRequest),
		Granted: to(Unlocked, Open),
		Closed:  to(Locked),
		Lapsed:  to(Locked, RetryLater),
		Revoke:  to(Waiting, ReportRevoked),
		Suspend: to(Waiting, ReportRevoked),
		Stop:    to(Locked, DropRequest),
	},
	Unlocked: {
		Ask:        to(Unlocked),
		Opened:     to(Exported, Mount),
		Failed:     to(Locked, DropRequest, ReportFailed),
		Revoke:     to(Locking, GiveUp, ReportRevoked, AwaitDecision),
		Suspend:    to(Locking, GiveUp, ReportRevoked, AwaitDecision),
		LeaseEnd:   to(Locking, GiveUp, ReportRevoked, RetryLater),
		LeasePause: to(Locking, GiveUp, ReportRevoked, RetryLater),
		Stop:       to(Locking, DropRequest, GiveUp, ReportUnmounted),
	},
	Exported: {
		Ask:        to(Exported),
		MountDone:  to(Mounted, ReportMounted),
		Failed:     to(Locking, DropRequest, GiveUp, ReportFailed),
		Revoke:     to(Locking, GiveUp, ReportRevoked, AwaitDecision),
		Suspend:    to(Locking, GiveUp, ReportRevoked, AwaitDecision),
		LeaseEnd:   to(Locking, GiveUp, ReportRevoked, RetryLater),
		LeasePause: to(Locking, GiveUp, ReportRevoked, RetryLater),
		Stop:       to(Locking, DropRequest, GiveUp, ReportUnmounted),
	},
	Mounted: {
		Ask:        to(Mounted),
		Revoke:     to(Locking, GiveUp, ReportRevoked, AwaitDecision),
		Suspend:    to(Locking, Hold, ReportSuspended, AwaitDecision),
		LeaseEnd:   to(Locking, GiveUp, ReportRevoked, RetryLater),
		LeasePause: to(Locking, Hold, ReportSuspended, RetryLater),
		Stop:       to(Locking, DropRequest, GiveUp, ReportUnmounted),
	},
	Locking: {
		Gone: to(Locked),
		Held: to(Suspended),
	},
	Suspended: {
		Ask:        to(Suspended, FileRequest),
		Filed:      to(Suspended, AwaitDecision),
		NotFiled:   to(Suspended, RetryLater),
		Granted:    to(Suspended, Resume),
		Closed:     to(Suspended),
		Lapsed:     to(Suspended, RetryLater),
		Resumed:    to(Mounted, ReportMounted),
		Failed:     to(Suspended, DropRequest, ReportFailed), // a wrong key resumes nothing; the data stays where it is
		Revoke:     to(Suspended, ReportRevoked),
		Suspend:    to(Suspended, ReportSuspended),
		LeaseEnd:   to(Suspended),
		LeasePause: to(Suspended),
		Stop:       to(Locking, DropRequest, Abandon, ReportUnmounted),
	},
	Locked: {
		Ask:        to(Requested, FileRequest),
		Granted:    to(Unlocked, Open), // a revoked request that was approved again
		Closed:     to(Locked),
		Lapsed:     to(Locked, RetryLater),
		Revoke:     to(Locked, ReportRevoked),
		Suspend:    to(Locked, ReportRevoked),
		LeaseEnd:   to(Locked),
		LeasePause: to(Locked),
		Stop:       to(Locked, DropRequest),
	},
}

// Apply says what an event leads to. It has no side effects; an event that cannot happen in a state is an error.
func Apply(s State, e Event) (Step, error) {
	step, ok := table[s][e]
	if !ok {
		return Step{Next: s}, fmt.Errorf("a volume that is %s takes no event %q", s, e)
	}
	return step, nil
}

// HoldsKey reports whether a volume in this state has its key in memory.
func (s State) HoldsKey() bool {
	switch s {
	case Unlocked, Exported, Mounted, Locking:
		return true
	}
	return false
}
