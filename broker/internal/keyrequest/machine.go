package keyrequest

import (
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/machine"
)

// State is what the machine keeps of a key request. The zero State is a request that has not been judged yet.
type State struct {
	Status    api.KeyStatus
	Integrity api.Integrity
}

// Event is something that happens to a key request.
type Event string

// The events.
const (
	EventAsked           Event = "asked"             // by the agent, with the verdict on its evidence
	EventSeconded        Event = "seconded"          // approved by a person, and others are still needed
	EventApproved        Event = "approved"          // by a person, the last who is needed
	EventDenied          Event = "denied"            // by a person
	EventTimer           Event = "timer"             // nobody acted within the policy's delay
	EventPolicyAssigned  Event = "policy-assigned"   // a person moved the device into a policy; a new verdict
	EventReappraised     Event = "re-appraised"      // newer evidence for a waiting request
	EventDelivered       Event = "delivered"         // the sealed key is about to leave
	EventMounted         Event = "mounted"           // reported by the agent
	EventUnmounted       Event = "unmounted"         // the agent gave the key up by itself: stop, shutdown
	EventAgentRevoked    Event = "agent-revoked"     // the agent wiped the key, or suspended: asked to, or its lease ended
	EventFailed          Event = "failed"            // the volume could not be opened or mounted; the agent holds no key
	EventCheckFailed     Event = "check-failed"      // a later appraisal fails
	EventCheckPassed     Event = "check-passed"      // a later appraisal is Good
	EventIgnored         Event = "ignored"           // a person keeps a key whose revocation was pending
	EventDue             Event = "due"               // the grace period of a pending revocation is over
	EventRevokedByPerson Event = "revoked-by-person" // whatever the policy says
	EventQuarantined     Event = "quarantined"       // the machine was quarantined
	EventLeaseEnded      Event = "lease-ended"       // no contact for the whole lease
	EventOverdue         Event = "overdue"           // a revocation is not confirmed in time
	EventCompliesAgain   Event = "complies-again"    // a later appraisal of a revoked or denied request
	EventPeriodOver      Event = "period-over"       // the period for key request attempts
	EventInstanceMissing Event = "instance-missing"  // no heartbeat for too long
	EventExpired         Event = "expired"           // too old
	EventSuperseded      Event = "superseded"        // the same instance asks anew for the same device
	EventCheckOverdue    Event = "check-overdue"     // the machine has not answered a scheduled check
)

// CheckAction is what a policy does when a later appraisal fails.
type CheckAction string

// The actions of scheduled integrity checking.
const (
	CheckNotify   CheckAction = "notify"
	CheckRevoke   CheckAction = "revoke"
	CheckPostpone CheckAction = "postpone"
)

// Ctx are the circumstances of an event. Fields that the event does not need may be left zero; a zero value never
// allows more than a set one.
type Ctx struct {
	// Verdict is the appraisal that came with asked, policy-assigned, re-appraised, check-failed, check-passed and
	// complies-again.
	Verdict api.Verdict
	// Former is, with asked, the state of the same instance's earlier request for the same device while that request's
	// lease still ran; nil otherwise. An agent that crashed gets its key back without a person when the evidence is no
	// worse than it was.
	Former *State
	// PolicyDecides is true when neither a person nor a quarantine has denied or revoked this device's key on this
	// instance since a person last approved it, and the device is at home on the instance or a person has approved its
	// key there. When it is false, neither policy nor timer gives the key.
	PolicyDecides bool
	// TimerDue is true when the request's approval time was set and has passed.
	TimerDue bool
	// Enough is true when this person's approval is the last that the policy needs, with approved.
	Enough bool
	// Accepted is true, with check-failed and check-passed, when every rule that fails now failed too when the key was
	// approved: who approved knew of it.
	Accepted bool
	// OnCheckFailed is the policy's action, needed with check-failed.
	OnCheckFailed CheckAction
	// ScheduledChecks is true when the policy re-grants keys to instances that comply again.
	ScheduledChecks bool
}

// Effect is work that belongs to a change; see the Effect constants, "audit" and "notify".
type Effect = machine.Effect

// The kinds of effects beside "audit" and "notify".
const (
	EffectSealKey       = "seal-key"       // seal the device key to the request's public key
	EffectStartLease    = "start-lease"    // lease end = now + the policy's lease
	EffectStopRenewal   = "stop-renewal"   // heartbeats no longer renew the lease
	EffectEndLease      = "end-lease"      // the key is out no longer
	EffectSendRevoke    = "send-revoke"    // tell the agent, until it confirms
	EffectArmTimer      = "arm-timer"      // approval time = time of the request + the verdict's delay
	EffectDisarmTimer   = "disarm-timer"   // no approval by time
	EffectArmRevoke     = "arm-revoke"     // revoke due time = now + the policy's grace period
	EffectDisarmRevoke  = "disarm-revoke"  // no revocation by time
	EffectMarkMounted   = "mark-mounted"   // and the device goes In-use
	EffectMarkUnmounted = "mark-unmounted" // and the device goes back to Encrypted
	EffectClose         = "close"          // the request is over: set its end
	EffectReopen        = "reopen"         // clear its end
)

// Result is where a request goes and what the caller commits with it, in order.
type Result struct {
	Next    State
	Effects []Effect
}

// Refused is the error of an event that is not possible now.
type Refused = machine.Refused

// Apply is the only place where a key request's state changes. It is pure; the error is a *Refused that says why and
// what to do instead, and then nothing may change.
func Apply(s State, e Event, c Ctx) (Result, error) {
	row, err := table.Find(s.Status, e, input{s, c})
	if err != nil {
		return Result{}, err
	}
	next := State{Status: row.To, Integrity: s.Integrity}
	switch e {
	case EventAsked, EventPolicyAssigned, EventReappraised, EventCheckPassed, EventCompliesAgain:
		next.Integrity = c.Verdict.Integrity
	case EventCheckFailed:
		next.Integrity = api.IntegrityFailed
	}
	return Result{Next: next, Effects: slices.Clone(row.Effects)}, nil
}

// Accepts says whether an event is possible in a status under some circumstances; for offering buttons.
func Accepts(s api.KeyStatus, e Event) bool { return table.Accepts(s, e) }

// LeaseRenewed says whether heartbeats renew the lease of a request in this status.
func LeaseRenewed(s api.KeyStatus) bool { return slices.Contains(holding, s) }

// KeyOut says whether a machine may hold the key of a request in this status.
func KeyOut(s api.KeyStatus) bool { return LeaseRenewed(s) || s == api.KeyRevoking }

// Ended says whether a request in this status is over, as far as the agent's session is concerned.
func Ended(s api.KeyStatus) bool {
	return s == api.KeyDenied || s == api.KeyExpired || s == api.KeyFailure
}

// Table is the machine as a markdown table, for the documentation.
func Table() string { return table.Markdown() }
