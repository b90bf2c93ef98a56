// Package stepup asks for a second factor that was shown a moment ago, where an account wants that for what it does.
package stepup

import (
	"fmt"
	"net/http"
	"time"

	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// FreshFor is how long a second factor that was shown counts.
const FreshFor = 5 * time.Minute

// Require refuses a person who has not shown a second factor within FreshFor, where the account wants one. The operator
// and the broker itself are not people.
func Require(t *store.Tenant, p tenant.Principal) error {
	if p.UserID == "" {
		return nil
	}
	a, err := store.Global[store.Account](t.Tx()).Get(p.AccountID)
	if err != nil {
		return fmt.Errorf("reading the account's settings: %w", err)
	}
	if !a.StepUp || Fresh(p, t.Now()) {
		return nil
	}
	return problem.New(http.StatusForbidden, "second-factor-stale", "This needs a fresh second factor",
		fmt.Sprintf("The account wants a second factor of the last %d minutes for this.", int(FreshFor.Minutes())),
		"Show a code on the Second Factor page, or by POST /api/v1/second-factor/show, and repeat this; without a second factor, set one up there first.")
}

// Fresh says whether the caller's second factor counts now.
func Fresh(p tenant.Principal, now time.Time) bool {
	return p.FactorAt != nil && now.Sub(*p.FactorAt) < FreshFor
}
