package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/http"
	"time"

	"github.com/gofiber/fiber/v2"

	"keyward/broker/api"
	"keyward/broker/internal/inventory"
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
	if !rt.Machine && !rt.Image {
		return tenant.Principal{}, inventory.UnknownMachine()
	}
	state := c.Context().TLSConnectionState()
	if state == nil || len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return tenant.Principal{}, problem.New(http.StatusUnauthorized, "certificate-missing", "No client certificate",
			"The call carries no client certificate of this broker.", "Enrol the machine and use the certificate that it got.")
	}
	find := g.instance
	switch {
	case rt.Image:
		find = g.image
	case rt.Proves:
		find = g.claim
	}
	p, err := find(c.UserContext(), state.PeerCertificates[0])
	if err != nil {
		return tenant.Principal{}, err
	}
	p.Address = c.IP()
	if began, ok := began(c.Context().Conn()); ok {
		p.Connection = &tenant.Connection{State: state, Began: began}
	}
	return p, nil
}

// claim is the caller of a route that looks the certificate up itself.
func (g *MachineGate) claim(_ context.Context, cert *x509.Certificate) (tenant.Principal, error) {
	if g.ended(cert) || cert.Subject.CommonName == "" || len(cert.Subject.Organization) != 1 || cert.Subject.Organization[0] == "" {
		return tenant.Principal{}, inventory.UnknownMachine()
	}
	fingerprint := sha256.Sum256(cert.Raw)
	return tenant.Principal{AccountID: cert.Subject.Organization[0], Instance: cert.Subject.CommonName, Certificate: hex.EncodeToString(fingerprint[:]),
		Unproven: true}, nil
}

func (g *MachineGate) instance(ctx context.Context, cert *x509.Certificate) (tenant.Principal, error) {
	if g.ended(cert) {
		return tenant.Principal{}, inventory.UnknownMachine()
	}
	fingerprint := sha256.Sum256(cert.Raw)
	var row store.Instance
	err := g.Store.Peek(ctx, func(tx *store.Tx) error {
		var err error
		row, err = tx.FindInstanceByCert(fingerprint[:])
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return tenant.Principal{}, inventory.UnknownMachine()
	}
	if err != nil {
		return tenant.Principal{}, err
	}
	if row.RevokedAt != nil || !names(cert, row.ID, row.AccountID) {
		return tenant.Principal{}, inventory.UnknownMachine()
	}
	return tenant.Principal{AccountID: row.AccountID, Instance: row.ID, Certificate: hex.EncodeToString(fingerprint[:])}, nil
}

// image is the caller of a route that takes the certificate of an image.
func (g *MachineGate) image(ctx context.Context, cert *x509.Certificate) (tenant.Principal, error) {
	if g.ended(cert) {
		return tenant.Principal{}, unknownImage()
	}
	fingerprint := sha256.Sum256(cert.Raw)
	var row store.Image
	err := g.Store.View(ctx, func(tx *store.Tx) error {
		var err error
		row, err = tx.FindImageByCert(fingerprint[:])
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return tenant.Principal{}, unknownImage()
	}
	if err != nil {
		return tenant.Principal{}, err
	}
	if !names(cert, api.ImageName+row.ID, row.AccountID) {
		return tenant.Principal{}, unknownImage()
	}
	return tenant.Principal{AccountID: row.AccountID, Image: row.ID, Certificate: hex.EncodeToString(fingerprint[:])}, nil
}

// ended says that a certificate's time is over: a connection may outlive the certificate that opened it.
func (g *MachineGate) ended(cert *x509.Certificate) bool {
	now := time.Now
	if g.Clock != nil {
		now = g.Clock
	}
	return now().After(cert.NotAfter)
}

func names(cert *x509.Certificate, name, accountID string) bool {
	return cert.Subject.CommonName == name && len(cert.Subject.Organization) == 1 && cert.Subject.Organization[0] == accountID
}

func unknownImage() error {
	return problem.New(http.StatusUnauthorized, "image-certificate-unknown", "The image's certificate does not count",
		"The broker has another certificate on record for this image, or none: it was made anew, revoked, or has ended.",
		"Enrol the template again with --template and a new token, or enrol this machine with a token of its own.")
}
