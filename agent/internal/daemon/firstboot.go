package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keyward/agent/identity"
	"keyward/agent/provider"
	"keyward/broker/api"
	"keyward/broker/client"
)

// identify returns who this machine is. A machine that was started from an image with an identity of its own, and one whose
// disk is a copy of such a machine's, makes a key and enrols by the image's certificate first; while a person has to
// decide about that, or the broker is away, it waits.
func identify(ctx context.Context, o Options, own *identity.Store, machine provider.Provider) (*identity.Identity, error) {
	id, err := own.Load()
	if err != nil && !errors.Is(err, identity.ErrNotEnrolled) {
		return nil, err
	}
	image, imageErr := identity.NewImageStore(o.Config.StateDir).Load()
	if errors.Is(imageErr, identity.ErrNotEnrolled) {
		return id, err
	}
	if imageErr != nil {
		return nil, fmt.Errorf("load the image's identity: %w", imageErr)
	}
	info, infoErr := instanceInfo(ctx, machine, o.Version)
	if infoErr != nil {
		return nil, infoErr
	}
	if err == nil && (id.Machine == "" || id.Machine == info.Identity) {
		return id, nil
	}
	if err == nil {
		o.Logger.Warn("this disk is a copy of another machine's: its identity is removed, and this machine enrols as itself",
			"enrolled_as", id.Machine, "is", info.Identity)
		if err := own.Discard(); err != nil {
			return nil, err
		}
	}
	return firstBoot(ctx, o, own, image, machine.Name(), info)
}

// firstBoot enrols until it succeeds or cannot succeed any more.
func firstBoot(ctx context.Context, o Options, own *identity.Store, image *identity.Identity, providerName string, info api.InstanceInfo) (*identity.Identity, error) {
	key, err := own.Key()
	if err != nil {
		return nil, err
	}
	csr, err := identity.CSR(key)
	if err != nil {
		return nil, err
	}
	agent, err := connect(o.Config, image)
	if err != nil {
		return nil, err
	}
	defer agent.Close()
	for n := 1; ; n++ {
		answer, err := agent.EnrolInstance(ctx, api.EnrolRequest{AccountID: image.AccountID, CSR: csr, Provider: providerName, Instance: info,
			Time: o.Now().UTC()})
		if err == nil {
			return own.Save(answer, image.URL, info.Identity)
		}
		if final(err) && !client.Is(err, "identity-bound") || ctx.Err() != nil {
			return nil, fmt.Errorf("enrol by the image's certificate: %w", err)
		}
		o.Logger.Warn("this machine is not enrolled yet", "error", err)
		notify("STATUS=waiting to be enrolled: "+err.Error(), "EXTEND_TIMEOUT_USEC=120000000")
		pause(ctx, o.Backoff(n))
	}
}

// renewLoop keeps the certificate alive.
func (d *Daemon) renewLoop(ctx context.Context, store *identity.Store, agent *client.Agent) {
	for failures := 0; ctx.Err() == nil; {
		id := d.current.Load()
		if left := id.RenewAt().Sub(d.o.Now()); left > 0 {
			pause(ctx, min(left, d.o.CertificateCheck))
			continue
		}
		renewed, err := renew(ctx, store, id, agent, d.o.Now())
		if d.link.saw(err) != nil {
			failures++
			d.log.Error("the certificate was not renewed", "ends", id.NotAfter().UTC(), "error", err)
			pause(ctx, min(max(d.o.Backoff(failures), time.Minute), d.o.CertificateCheck))
			continue
		}
		failures = 0
		d.current.Store(renewed)
		d.log.Info("the certificate was renewed", "ends", renewed.NotAfter().UTC())
	}
}

// renew asks for a certificate that follows id's, keeps it, and lets agent use it.
func renew(ctx context.Context, store *identity.Store, id *identity.Identity, agent *client.Agent, now time.Time) (*identity.Identity, error) {
	key, err := store.Key()
	if err != nil {
		return nil, err
	}
	csr, err := identity.CSR(key)
	if err != nil {
		return nil, err
	}
	answer, err := agent.Renew(ctx, api.RenewRequest{CSR: csr, Time: now.UTC()})
	if err != nil {
		return nil, fmt.Errorf("renew the certificate: %w", err)
	}
	renewed, err := store.Renewed(id, answer.Certificate)
	if err != nil {
		return nil, err
	}
	agent.UseCertificate(renewed.Certificate)
	return renewed, nil
}
