package keyrequest

import (
	"keyward/broker/api"
	"keyward/broker/internal/machine"
)

// input is what guards look at.
type input struct {
	State
	Ctx
}

type guard = machine.Guard[input]

var (
	policyApproves = machine.When("the policy approves, the rating is Good or Bad, and no person has the last word", func(in input) bool {
		return in.granted() == api.ActionApprove
	})
	policyDenies = machine.When("the policy denies", func(in input) bool { return in.granted() == api.ActionDeny })
	policyWaits  = machine.When("the policy leaves it to a person", func(in input) bool { return in.granted() == api.ActionManual })

	approvesByTime = machine.When("every rule matches and the policy approves after a delay", func(in input) bool {
		return in.Verdict.Integrity == api.IntegrityGood && in.Verdict.ApproveAfterSeconds > 0 && in.PolicyDecides
	})
	withinLease = machine.When("the same machine asks again within the lease of a delivered key, with evidence no worse", func(in input) bool {
		return in.Former != nil && in.Former.Status == api.KeyDelivered && in.PolicyDecides &&
			in.Verdict.Action != api.ActionDeny && assigned(in.Verdict.Integrity) &&
			(in.Verdict.Integrity == api.IntegrityGood || in.Verdict.Integrity == in.Former.Integrity)
	})
	inOnePolicy = machine.When("device and image in the same policy", func(in input) bool { return assigned(in.Integrity) })
	timerDue    = machine.When("an approval time that has passed", func(in input) bool { return in.TimerDue && in.PolicyDecides })
	enough      = machine.When("as many people as the policy needs", func(in input) bool { return in.Enough })
	tooFew      = machine.When("fewer people than the policy needs", func(in input) bool { return !in.Enough })
	ratedGood   = machine.When("integrity Good", func(in input) bool { return in.Integrity == api.IntegrityGood })

	nowGood = machine.When("a verdict of Good", func(in input) bool { return in.Verdict.Integrity == api.IntegrityGood })
	nowBad  = machine.When("a verdict of Bad for more than was accepted", func(in input) bool {
		return in.Verdict.Integrity == api.IntegrityBad && !in.Accepted
	})
	complies = machine.When("a verdict of Good, or Bad for what was accepted", func(in input) bool {
		return in.Verdict.Integrity == api.IntegrityGood || in.Verdict.Integrity == api.IntegrityBad && in.Accepted
	})

	rechecks   = machine.When("scheduled checks that re-grant", func(in input) bool { return in.ScheduledChecks })
	mayGrant   = machine.When("no denial or revocation by a person or quarantine since the last approval by a person", func(in input) bool { return in.PolicyDecides })
	notDenying = machine.When("a policy that does not deny", func(in input) bool { return in.Verdict.Action != api.ActionDeny })

	wasFailed    = machine.When("integrity Failed before", func(in input) bool { return in.Integrity == api.IntegrityFailed })
	notFailedYet = machine.When("integrity not Failed before", func(in input) bool { return in.Integrity != api.IntegrityFailed })
	notifies     = onCheck(CheckNotify)
	revokes      = onCheck(CheckRevoke)
	postpones    = onCheck(CheckPostpone)
)

func onCheck(a CheckAction) guard {
	return machine.When("the action "+string(a), func(in input) bool { return in.OnCheckFailed == a })
}

// granted is what the verdict is worth: "approve" and "deny" need a rating, and a person's word stands above "approve".
func (in input) granted() api.Action {
	rated := in.Verdict.Integrity == api.IntegrityGood || in.Verdict.Integrity == api.IntegrityBad
	switch {
	case rated && in.Verdict.Action == api.ActionDeny:
		return api.ActionDeny
	case rated && in.Verdict.Action == api.ActionApprove && in.PolicyDecides:
		return api.ActionApprove
	}
	return api.ActionManual
}

// assigned says that a rating came from a policy that has both device and image. A policy without rules counts.
func assigned(i api.Integrity) bool {
	switch i {
	case api.IntegrityGood, api.IntegrityBad, api.IntegrityFailed, api.IntegrityUnknownNoRules:
		return true
	}
	return false
}
