package inventory

import (
	"encoding/hex"
	"errors"
	"net/http"

	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Caller reads the calling machine. It refuses one that is unproven and whose certificate is not on record now. Whoever
// serves a route that proves its callers (httpapi.Route) begins its transaction with it.
func Caller(t *store.Tenant, p tenant.Principal) (store.Instance, error) {
	inst, err := store.In[store.Instance](t).Get(p.Instance)
	if p.Unproven && (errors.Is(err, store.ErrNotFound) || err == nil && !onRecord(inst, p.Certificate)) {
		return store.Instance{}, UnknownMachine()
	}
	return inst, err
}

// onRecord says whether a certificate counts for a machine: its current one, or the one that its last renewal was asked with.
func onRecord(inst store.Instance, certificate string) bool {
	return inst.RevokedAt == nil && certificate != "" && (hex.EncodeToString(inst.CertFingerprint) == certificate || inst.FormerCertificate == certificate)
}

// UnknownMachine refuses a client certificate that is on record for no machine.
func UnknownMachine() error {
	return problem.New(http.StatusUnauthorized, "certificate-unknown", "The client certificate does not count",
		"The broker has another certificate on record for this machine, or none: it may have enrolled again, been revoked or been removed.",
		"Enrol the machine again with a new enrolment token.")
}
