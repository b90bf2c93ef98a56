package keyrequest

import (
	"slices"

	"keyward/broker/api"
	"keyward/broker/internal/machine"
)

const (
	unborn api.KeyStatus = "" // asked for, not judged yet
	stay   api.KeyStatus = "(unchanged)"
)

var (
	do, record, tell = machine.Do, machine.Audit, machine.Notify

	// holding are the statuses in which a machine rightly holds the key and heartbeats renew its lease.
	holding = []api.KeyStatus{api.KeyDelivered, api.KeyRevokePending, api.KeyRevokeIgnored}
	waiting = []api.KeyStatus{api.KeyPending, api.KeyApproved}
	// settled are the statuses without a key outside, in which a late report of the agent changes nothing: by then the
	// same device may be mounted under a newer request.
	settled = []api.KeyStatus{api.KeyApproved, api.KeyRevoked, api.KeyExpired, api.KeyFailure}
)

type (
	row     = machine.Row[api.KeyStatus, Event, input]
	states  = []api.KeyStatus
	guards  = []guard
	effects = []Effect
)

func on(from states, e Event, when guards, to api.KeyStatus, does effects) row {
	return row{From: from, Event: e, When: when, To: to, Effects: does}
}

var (
	gone = effects{do(EffectEndLease), do(EffectMarkUnmounted)}
	take = effects{do(EffectDisarmRevoke), do(EffectStopRenewal), do(EffectSendRevoke)}
)

// table is the key request machine.
var table = machine.Table[api.KeyStatus, Event, input]{
	Subject: "key request",
	Stay:    stay,
	Help:    help,
	Rows: slices.Concat(
		[]row{on(states{unborn}, EventAsked, guards{withinLease}, api.KeyApproved, effects{record("key-request.approved-within-lease")})},
		judged(unborn, EventAsked, nil),
		judged(api.KeyPending, EventPolicyAssigned, effects{record("key-request.policy-assigned")}),
		[]row{on(states{api.KeyPending}, EventReappraised, guards{withinLease}, api.KeyApproved,
			effects{do(EffectDisarmTimer), record("key-request.approved-within-lease")})},
		judged(api.KeyPending, EventReappraised, nil),
		decisions, deliveries, checks, revocations, endings, returns,
	),
}

// judged are the rows of an event that brings a verdict to a request nobody has decided.
func judged(from api.KeyStatus, e Event, first effects) []row {
	var waits effects
	switch {
	case from == unborn:
		waits = effects{record("key-request.pending"), tell("approval-needed")} // later verdicts find people told
	case e == EventReappraised:
		waits = effects{record("key-request.judged-again")}
	}
	return []row{
		on(states{from}, e, guards{policyDenies}, api.KeyDenied,
			slices.Concat(first, effects{do(EffectDisarmTimer), record("key-request.denied-by-policy"), tell("denied-by-policy"), do(EffectClose)})),
		on(states{from}, e, guards{policyApproves}, api.KeyApproved,
			slices.Concat(first, effects{do(EffectDisarmTimer), record("key-request.approved-by-policy"), tell("approved-by-policy")})),
		on(states{from}, e, guards{policyWaits, approvesByTime}, api.KeyPending, slices.Concat(first, effects{do(EffectArmTimer)}, waits)),
		on(states{from}, e, guards{policyWaits}, api.KeyPending, slices.Concat(first, effects{do(EffectDisarmTimer)}, waits)),
	}
}

var decisions = []row{
	on(states{api.KeyPending}, EventSeconded, guards{inOnePolicy, tooFew}, stay, effects{record("key-request.seconded"), tell("approval-needed")}),
	on(states{api.KeyPending}, EventApproved, guards{inOnePolicy, enough}, api.KeyApproved,
		effects{do(EffectDisarmTimer), record("key-request.approved")}),
	on(waiting, EventDenied, nil, api.KeyDenied,
		effects{do(EffectDisarmTimer), record("key-request.denied"), do(EffectClose)}),
	on(states{api.KeyPending}, EventTimer, guards{ratedGood, timerDue}, api.KeyApproved,
		effects{do(EffectDisarmTimer), record("key-request.approved-after-delay"), tell("approved-after-delay")}),
}

var deliveries = []row{
	on(states{api.KeyApproved}, EventDelivered, nil, api.KeyDelivered,
		effects{do(EffectSealKey), do(EffectStartLease), record("key-request.delivered")}),
	on(holding, EventMounted, nil, stay, effects{do(EffectMarkMounted), record("key.mounted")}),
	// The report crossed the revocation on the wire: the agent is told again.
	on(states{api.KeyRevoking}, EventMounted, nil, stay, effects{do(EffectMarkMounted), do(EffectSendRevoke), record("key.mounted")}),
	on(holding, EventUnmounted, nil, api.KeyExpired, slices.Concat(gone, effects{record("key.returned"), do(EffectClose)})),
	on(states{api.KeyRevoking}, EventUnmounted, nil, api.KeyRevoked, slices.Concat(gone, effects{record("key-request.revoked")})),
	on(settled, EventUnmounted, nil, stay, nil),
}

var checks = []row{
	on(states{api.KeyDelivered}, EventCheckFailed, guards{nowBad, notifies, notFailedYet}, stay,
		effects{record("integrity.failed"), tell("integrity-failed")}),
	on(states{api.KeyDelivered}, EventCheckFailed, guards{nowBad, notifies, wasFailed}, stay, nil),
	on(states{api.KeyDelivered}, EventCheckFailed, guards{nowBad, revokes}, api.KeyRevoking,
		slices.Concat(effects{record("integrity.failed"), tell("integrity-failed")}, take)),
	on(states{api.KeyDelivered}, EventCheckFailed, guards{nowBad, postpones}, api.KeyRevokePending,
		effects{record("integrity.failed"), tell("integrity-failed"), do(EffectArmRevoke)}),
	on(states{api.KeyRevokePending, api.KeyRevokeIgnored}, EventCheckFailed, guards{nowBad}, stay, nil),
	on(states{api.KeyApproved}, EventCheckFailed, guards{nowBad, notifies}, stay, nil),
	// Approved on evidence that no longer holds, and the key has not left yet.
	on(states{api.KeyApproved}, EventCheckFailed, guards{nowBad, revokes}, api.KeyPending, effects{record("integrity.failed"), tell("approval-needed")}),
	on(states{api.KeyApproved}, EventCheckFailed, guards{nowBad, postpones}, api.KeyPending, effects{record("integrity.failed"), tell("approval-needed")}),

	on(states{api.KeyDelivered}, EventCheckPassed, guards{complies, wasFailed}, stay, effects{record("integrity.restored")}),
	on(states{api.KeyDelivered, api.KeyApproved}, EventCheckPassed, guards{complies}, stay, nil),
	on(states{api.KeyRevokePending}, EventCheckPassed, guards{complies}, api.KeyDelivered, effects{do(EffectDisarmRevoke), record("integrity.restored")}),
	on(states{api.KeyRevokeIgnored}, EventCheckPassed, guards{complies}, api.KeyDelivered, effects{record("integrity.restored")}),
	// What no answer says is for people to judge; the lease runs on with the machine's heartbeats.
	on(holding, EventCheckOverdue, nil, stay, effects{record("integrity.check-overdue"), tell("check-overdue")}),
	on(states{api.KeyRevokePending}, EventIgnored, nil, api.KeyRevokeIgnored, effects{do(EffectDisarmRevoke), record("key-request.revoke-ignored")}),
	on(states{api.KeyRevokePending}, EventDue, nil, api.KeyRevoking, slices.Concat(take, effects{record("key-request.revoking")})),
}

var revocations = []row{
	on(holding, EventRevokedByPerson, nil, api.KeyRevoking, slices.Concat(take, effects{record("key-request.revoke-asked")})),
	// From here on only a person gives the key back.
	on(states{api.KeyRevoking, api.KeyRevoked}, EventRevokedByPerson, nil, stay, effects{record("key-request.revoke-asked")}),
	on(waiting, EventQuarantined, nil, api.KeyDenied, effects{do(EffectDisarmTimer), record("key-request.quarantined"), do(EffectClose)}),
	on(holding, EventQuarantined, nil, api.KeyRevoking, slices.Concat(take, effects{record("key-request.quarantined")})),
	on(states{api.KeyRevoking, api.KeyRevoked}, EventQuarantined, nil, stay, effects{record("key-request.quarantined")}),

	on(states{api.KeyRevoking}, EventAgentRevoked, nil, api.KeyRevoked, slices.Concat(gone, effects{record("key-request.revoked")})),
	on(holding, EventAgentRevoked, nil, api.KeyRevoked, slices.Concat(gone, effects{do(EffectDisarmRevoke), record("key-request.revoked-by-agent")})),
	on(settled, EventAgentRevoked, nil, stay, effects{record("key.wiped")}),
	on(holding, EventLeaseEnded, nil, api.KeyRevoked, slices.Concat(gone, effects{do(EffectDisarmRevoke), record("key-request.lease-ended"), tell("lease-ended")})),
	on(states{api.KeyRevoking}, EventLeaseEnded, nil, api.KeyRevoked, slices.Concat(gone, effects{record("key-request.lease-ended")})),
	on(states{api.KeyRevoking}, EventOverdue, nil, stay, effects{do(EffectSendRevoke), record("key-request.revoke-overdue"), tell("revoke-overdue")}),
}

var endings = []row{
	on(waiting, EventFailed, nil, api.KeyFailure, effects{do(EffectDisarmTimer), record("key-request.failed"), tell("key-request-failed"), do(EffectClose)}),
	on(holding, EventFailed, nil, api.KeyFailure,
		slices.Concat(gone, effects{do(EffectDisarmRevoke), record("key-request.failed"), tell("key-request-failed"), do(EffectClose)})),
	on(states{api.KeyRevoking}, EventFailed, nil, stay, effects{do(EffectSendRevoke), record("key-request.revoke-failed"), tell("revoke-failed")}),

	on(append(waiting[:2:2], api.KeyRevoked), EventExpired, nil, api.KeyExpired, effects{do(EffectDisarmTimer), record("key-request.expired"), do(EffectClose)}),
	on(append(waiting[:2:2], api.KeyRevoked), EventInstanceMissing, nil, api.KeyExpired, effects{do(EffectDisarmTimer), record("key-request.expired"), do(EffectClose)}),
	// The key stays out until its lease ends; both sides know when.
	on(append(holding[:3:3], api.KeyRevoking), EventInstanceMissing, nil, stay, effects{record("key.machine-missing"), tell("instance-missing")}),
	on(append(waiting[:2:2], api.KeyRevoked), EventSuperseded, nil, api.KeyExpired, effects{do(EffectDisarmTimer), record("key-request.superseded"), do(EffectClose)}),
	on(holding, EventSuperseded, nil, api.KeyExpired, slices.Concat(gone, effects{do(EffectDisarmRevoke), record("key-request.superseded"), do(EffectClose)})),
	on(states{api.KeyRevoking}, EventSuperseded, nil, api.KeyRevoked, slices.Concat(gone, effects{record("key-request.superseded")})),
}

var returns = []row{
	on(states{api.KeyRevoked}, EventCompliesAgain, guards{rechecks, mayGrant, nowGood, notDenying}, api.KeyApproved, effects{record("key-request.approved-again")}),
	on(states{api.KeyDenied}, EventCompliesAgain, guards{rechecks, mayGrant, policyApproves}, api.KeyApproved,
		effects{do(EffectReopen), record("key-request.approved-by-policy"), tell("approved-by-policy")}),
	on(states{api.KeyDenied}, EventCompliesAgain, guards{rechecks, mayGrant, policyWaits, nowGood}, api.KeyPending,
		effects{do(EffectReopen), record("key-request.pending"), tell("approval-needed")}),
	on(states{api.KeyRevoked}, EventPeriodOver, nil, api.KeyExpired, effects{record("key-request.expired"), do(EffectClose)}),
}

// help tells the reader of a refusal what the event is for.
var help = map[Event]string{
	EventAsked:           "a request is judged once; the agent asks anew",
	EventSeconded:        "only a pending request can be approved; assign the device to a policy of the machine's image first if it is in none",
	EventApproved:        "only a pending request can be approved; assign the device to a policy of the machine's image first if it is in none",
	EventDenied:          "deny before delivery; a delivered key is revoked instead",
	EventTimer:           "only a pending request that matched every rule approves itself",
	EventPolicyAssigned:  "only a pending request is judged again",
	EventReappraised:     "only a pending request is judged again",
	EventDelivered:       "only an approved request is delivered, and once; the agent asks anew",
	EventMounted:         "only a delivered key is mounted",
	EventUnmounted:       "only a delivered key is given up",
	EventAgentRevoked:    "only a delivered key is wiped",
	EventFailed:          "the request is over",
	EventCheckFailed:     "checks judge approved and delivered keys",
	EventCheckPassed:     "checks judge approved and delivered keys",
	EventIgnored:         "only a pending revocation can be ignored",
	EventDue:             "only a pending revocation comes due",
	EventRevokedByPerson: "only a delivered key is revoked; deny a request that waits",
	EventQuarantined:     "the request is over",
	EventLeaseEnded:      "only a delivered key has a lease",
	EventOverdue:         "only a revocation under way is overdue",
	EventCompliesAgain:   "only a revoked or denied request of a policy with scheduled checks is granted again",
	EventPeriodOver:      "only a revoked request waits for the period to end",
	EventInstanceMissing: "the request is over",
	EventExpired:         "a delivered key ends with its lease, and the request is not over by itself",
	EventSuperseded:      "the request is over",
	EventCheckOverdue:    "only a delivered key is checked",
}
