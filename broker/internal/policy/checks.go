package policy

import (
	"fmt"

	"keyward/broker/api"
)

// maxPostpone and maxMissing are the longest grace before a revocation and the longest silence of a machine, in seconds.
const (
	maxPostpone = 30 * 86400
	maxMissing  = 30 * 86400
)

// checkChecks lists what is wrong with what a policy does after delivery.
func checkChecks(p api.Policy) []FieldError {
	var wrong []FieldError
	refuse := func(bad bool, field, format string, args ...any) {
		if bad {
			wrong = append(wrong, FieldError{field, fmt.Sprintf(format, args...)})
		}
	}
	refuse(p.CheckEnabled && len(p.Rules) == 0, "check_enabled", "a policy without rules has nothing to check: add a rule, or leave checks off")
	refuse(p.CheckEveryHeartbeat && !p.CheckEnabled, "check_every_heartbeat", "enable scheduled integrity checking first")
	refuse(p.OnCheckFailure != "" && p.OnCheckFailure != api.CheckNotify && p.OnCheckFailure != api.CheckRevoke, "on_check_failure", "choose notify or revoke")
	refuse(p.PostponeSeconds < 0 || p.PostponeSeconds > maxPostpone, "postpone_seconds", "choose 0 (at once) to %d seconds", maxPostpone)
	refuse(p.PostponeSeconds > 0 && p.OnCheckFailure != api.CheckRevoke, "postpone_seconds", "only a revocation can be postponed: choose 0, or revoke")
	refuse(p.MissingAfterSeconds < 0 || p.MissingAfterSeconds > maxMissing, "missing_after_seconds", "choose 0 (three heartbeats) to %d seconds", maxMissing)
	refuse(p.MissingAfterSeconds > 0 && p.MissingAfterSeconds <= p.HeartbeatSeconds, "missing_after_seconds",
		"a machine that reports every %d seconds must be given longer than that", p.HeartbeatSeconds)
	return wrong
}

// RevokeModeOf is how a policy takes keys back: as it says, and where it leaves that open by suspending if a check may
// give the key back, since suspended programs go on where they were.
func RevokeModeOf(p api.Policy) api.RevokeMode {
	switch {
	case p.RevokeMode != "":
		return p.RevokeMode
	case p.CheckEnabled && p.OnCheckFailure == api.CheckRevoke:
		return api.RevokeSuspend
	}
	return api.RevokeUnmount
}
