package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// MachineGate admits enrolled machines by client certificate. The TLS listener has verified the chain; here the
// certificate must be the one that is on record for its instance now.
type MachineGate struct {
	Store *store.Store
	Clock func() time.Time
}

// Admit implements Gate.
func (g *MachineGate) Admit(c *fiber.Ctx, rt Route) (tenant.Principal, error) {
	if rt.Open {
		return tenant.Principal{}, nil
	}
	if !rt.Machine {
		return tenant.Principal{}, unknownMachine()
	}
	state := c.Context().TLSConnectionState()
	if state == nil || len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return tenant.Principal{}, problem.New(http.StatusUnauthorized, "certificate-missing", "No client certificate",
			"The call carries no client certificate of this broker.", "Enrol the machine and use the certificate that it got.")
	}
	p, err := g.instance(c.UserContext(), state.PeerCertificates[0])
	if err != nil {
		return tenant.Principal{}, err
	}
	p.Address = c.IP()
	return p, nil
}

func (g *MachineGate) instance(ctx context.Context, cert *x509.Certificate) (tenant.Principal, error) {
	now := time.Now
	if g.Clock != nil {
		now = g.Clock
	}
	if now().After(cert.NotAfter) {
		// A connection may outlive the certificate that opened it.
		return tenant.Principal{}, unknownMachine()
	}
	fingerprint := sha256.Sum256(cert.Raw)
	var row store.Instance
	err := g.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		row, err = tx.FindInstanceByCert(fingerprint[:])
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return tenant.Principal{}, unknownMachine()
	}
	if err != nil {
		return tenant.Principal{}, err
	}
	if cert.Subject.CommonName != row.ID || len(cert.Subject.Organization) != 1 || cert.Subject.Organization[0] != row.AccountID {
		return tenant.Principal{}, unknownMachine()
	}
	return tenant.Principal{AccountID: row.AccountID, Instance: row.ID}, nil
}

func unknownMachine() error {
	return problem.New(http.StatusUnauthorized, "certificate-unknown", "The client certificate does not count",
		"The broker has another certificate on record for this machine, or none: it may have enrolled again or been removed.",
		"Enrol the machine again with a new enrolment token.")
}
