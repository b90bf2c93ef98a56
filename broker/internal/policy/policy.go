// Package policy judges evidence by a policy's rules (RFC 9334: appraisal). It is pure: the clock, the store and the
// network are the caller's, so the same evidence under the same policy always gives the same verdict, and a dry run is
// the real thing.
//
// What decides is narrow on purpose. A rule passes only when its fact was collected, is of the fact's type and meets
// its conditions; a missing, doubled or unreadable fact fails the rule. Facts that the broker observes (request date,
// source address, first and last seen) are taken from Context.Observed only, and whatever grade a machine claims for
// its own word, that word is shown as self-reported.
package policy

import (
	"time"

	"keyward/broker/api"
)

// Context is what a policy judges.
type Context struct {
	// Evidence is what the machine says of itself.
	Evidence api.Evidence
	// Observed are the facts that the broker vouches for: what it saw itself, and claims whose signature it verified.
	Observed []api.Fact
	// Unused are facts on which rules are not used now, with the reason: their source was switched off by a person.
	Unused map[api.FactName]string
	// DeviceInPolicy and ImageInPolicy say whether the device and the machine's image belong to this policy.
	DeviceInPolicy, ImageInPolicy bool
	// Now is the time of judgement; ages and relative dates are counted from it.
	Now time.Time
}

// FieldError is one thing wrong with a policy, for a form to show beside the field.
type FieldError struct {
	// Field is a path such as "rules[2].conditions[0].value".
	Field string `json:"field"`
	// Message says what is wrong and what would be right.
	Message string `json:"message"`
}

// Error joins field and message.
func (e FieldError) Error() string { return e.Field + ": " + e.Message }
