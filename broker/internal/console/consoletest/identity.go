package consoletest

import (
	"context"

	"keyward/broker/api"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/tenant"
)

// machine changes one machine and keeps the log.
func (b *Broker) machine(p tenant.Principal, id, event string, do func(*api.Instance) error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, err := find(b.machines, func(i api.Instance) bool { return i.ID == id }, "instance")
	if err == nil {
		err = b.write(p, "user", event, id)
	}
	if err != nil {
		return err
	}
	return do(&b.machines[i])
}

// RevokeCertificate ends a machine's certificate.
func (b *Broker) RevokeCertificate(_ context.Context, p tenant.Principal, id string, _ api.Decision) error {
	return b.machine(p, id, "instance.certificate-revoked", func(m *api.Instance) error {
		now := b.Clock()
		m.CertificateExpiresAt, m.CertificateRevokedAt = nil, &now
		return nil
	})
}

// AcceptKey accepts another key.
func (b *Broker) AcceptKey(_ context.Context, p tenant.Principal, id string, _ api.Decision) error {
	return b.decideKey(p, id, api.KeyAccepted)
}

// RefuseKey refuses it.
func (b *Broker) RefuseKey(_ context.Context, p tenant.Principal, id string, _ api.Decision) error {
	return b.decideKey(p, id, api.KeyRefused)
}

func (b *Broker) decideKey(p tenant.Principal, id, decision string) error {
	return b.machine(p, id, "instance.key-"+decision, func(m *api.Instance) error {
		if m.KeyConflict == nil {
			return problem.Conflict("No other key claims to be this machine.", "Look at the machine's page again.")
		}
		k := *m.KeyConflict
		k.Decision = decision
		m.KeyConflict = &k
		return nil
	})
}

// RevokeImageCertificate ends an image's certificate.
func (b *Broker) RevokeImageCertificate(_ context.Context, p tenant.Principal, id string, _ api.Decision) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, err := find(b.images, func(i api.Image) bool { return i.ID == id }, "image")
	if err == nil {
		err = b.write(p, "user", "image.certificate-revoked", id)
	}
	if err == nil {
		b.images[i].CertificateExpiresAt = nil
	}
	return err
}
