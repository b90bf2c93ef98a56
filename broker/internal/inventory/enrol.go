package inventory

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"keyward/broker/api"
	"keyward/broker/internal/audit"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/policyset"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// MaxSkew is how far a machine's clock may be from the broker's.
const MaxSkew = 5 * time.Minute

// CheckClock refuses a machine whose clock is more than MaxSkew away from now.
func CheckClock(now, machine time.Time) error {
	if d := now.Sub(machine); d > MaxSkew || d < -MaxSkew {
		return problem.ClockSkew(now)
	}
	return nil
}

// refused is the one answer to every token that does not count: what exactly is wrong is in the audit log, not on the wire.
func refused() error {
	return problem.New(403, "enrolment-refused", "The enrolment was refused",
		"The enrolment token does not count: it may be unknown, ended, used up, or of another account.",
		"Ask an administrator for a new token and check the account ID. The account's audit log has the reason.")
}

// Enrol trades an enrolment token for a client certificate. address is where the call came from.
func (s *Service) Enrol(ctx context.Context, address string, call idempotency.Call, in api.EnrolRequest) (api.EnrolResponse, error) {
	id, secret, _ := strings.Cut(in.Token, ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(secret)
	if err != nil {
		raw = nil
	}
	sum := sha256.Sum256(raw)
	var token store.EnrolToken
	err = s.Store.View(ctx, func(tx *store.Tx) error {
		token, err = tx.FindEnrolToken(id)
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return api.EnrolResponse{}, s.unknownToken(ctx, address, in)
	}
	if err != nil {
		return api.EnrolResponse{}, err
	}
	why := ""
	switch {
	case subtle.ConstantTimeCompare(sum[:], token.SecretHash) != 1:
		why = "wrong secret"
	case token.AccountID != in.AccountID:
		why = "wrong account"
	}
	if why != "" {
		return api.EnrolResponse{}, s.refuse(ctx, token.AccountID, address, in, token.ID, why)
	}
	if err := checkEnrolment(in); err != nil {
		return api.EnrolResponse{}, err
	}
	// The caller's identity is the token, so that only who has it gets a stored answer.
	call.Scope = "enrol/" + token.ID
	return idempotency.Tx(ctx, s.Store, token.AccountID, call, func(t *store.Tenant) (api.EnrolResponse, error) {
		return s.enrol(t, address, token.ID, in)
	})
}

func (s *Service) enrol(t *store.Tenant, address, tokenID string, in api.EnrolRequest) (api.EnrolResponse, error) {
	token, err := store.In[store.EnrolToken](t).Get(tokenID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return api.EnrolResponse{}, err
	}
	why := ""
	switch {
	case err != nil:
		why = "token deleted"
	case !token.ExpiresAt.After(t.Now()):
		why = "token expired"
	case token.UsesLeft < 1:
		why = "token used up"
	}
	if why != "" {
		if err := appendRefusal(t, address, in, tokenID, why); err != nil {
			return api.EnrolResponse{}, err
		}
		return api.EnrolResponse{}, idempotency.Keep(refused())
	}
	if err := CheckClock(t.Now(), in.Time); err != nil {
		return api.EnrolResponse{}, err
	}
	token.UsesLeft--
	if err := store.In[store.EnrolToken](t).Update(&token); err != nil {
		return api.EnrolResponse{}, err
	}
	who := tenant.Principal{AccountID: t.AccountID(), Address: address}
	image, err := s.image(t, who, in.Provider, in.Instance)
	if err != nil {
		return api.EnrolResponse{}, err
	}
	if in.Template {
		return s.enrolImage(t, who, tokenID, image, in.CSR)
	}
	inst, again, err := s.instance(t, address, image.ID, in)
	if err != nil {
		return api.EnrolResponse{}, err
	}
	inst.EnrolledBy = token.CreatedByID
	cert, err := s.certify(&inst, in.CSR)
	if err != nil {
		return api.EnrolResponse{}, err
	}
	inst.FromImage = false
	if again {
		if err := leaveHome(t, inst.ID); err != nil {
			return api.EnrolResponse{}, err
		}
	}
	return s.enrolled(t, inst, again, cert, map[string]string{"address": address, "token": tokenID})
}

// enrolled records a machine that has got a certificate, and answers it.
func (s *Service) enrolled(t *store.Tenant, inst store.Instance, again bool, cert []byte, detail map[string]string) (api.EnrolResponse, error) {
	event, keep := "instance.enrolled", store.In[store.Instance](t).Insert
	if again {
		event, keep = "instance.enrolled-again", store.In[store.Instance](t).Update
	}
	if err := keep(&inst); err != nil {
		return api.EnrolResponse{}, fmt.Errorf("recording the machine: %w", err)
	}
	detail["host_name"], detail["provider"], detail["identity"] = inst.HostName, inst.Provider, inst.Identity
	detail["certificate"] = hex.EncodeToString(inst.CertFingerprint)
	if err := audit.Append(t, audit.Entry{Category: "agent", Event: event, Actor: "instance:" + inst.ID, Subject: inst.ID, Detail: detail}); err != nil {
		return api.EnrolResponse{}, err
	}
	out, err := s.answer(t, cert)
	out.InstanceID = inst.ID
	return out, err
}

// answer is what every enrolment returns.
func (s *Service) answer(t *store.Tenant, cert []byte) (api.EnrolResponse, error) {
	account, err := store.Global[store.Account](t.Tx()).Get(t.AccountID())
	if err != nil {
		return api.EnrolResponse{}, fmt.Errorf("reading the account: %w", err)
	}
	s.publish(t, feed.TopicInstances, feed.TopicImages)
	return api.EnrolResponse{AccountID: t.AccountID(), AccountName: account.Name, Certificate: string(cert),
		CA: string(s.Issuer.CACert()), Broker: s.AgentURL}, nil
}

// instance finds the machine's row, or prepares a new one with its ID: the certificate, which the row needs, names it.
func (s *Service) instance(t *store.Tenant, address, imageID string, in api.EnrolRequest) (store.Instance, bool, error) {
	instances := store.In[store.Instance](t)
	inst, err := instances.First(store.Eq("provider", in.Provider), store.Eq("identity", in.Instance.Identity))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return inst, false, err
	}
	again := err == nil
	if !again {
		id, err := uuid.NewV7()
		if err != nil {
			return inst, false, fmt.Errorf("making an ID: %w", err)
		}
		inst = store.Instance{Base: store.Base{ID: id.String(), AccountID: t.AccountID()}, Provider: in.Provider,
			Identity: in.Instance.Identity, FirstSeenAt: t.Now()}
	}
	describe(&inst, imageID, in.Instance)
	inst.SourceIP, inst.EnrolledAt = address, t.Now()
	if !again {
		inst.FirstSeenAt = inst.EnrolledAt
	}
	// A new certificate is a new machine: nothing else can use the identity any more.
	inst.RunID, inst.BootID, inst.Generation, inst.RunSince, inst.FormerRuns = "", "", 0, nil, nil
	inst.Suspicion, inst.SuspectedAt = "", nil
	return inst, again, nil
}

// leaveHome makes the keys of a machine that enrols again wait for a person: whoever has a token and knows the machine's
// identity can enrol in its name, and that is not enough for a key.
func leaveHome(t *store.Tenant, instanceID string) error {
	devices := store.In[store.Device](t)
	rows, err := devices.List(store.Eq("home_instance_id", instanceID))
	if err != nil {
		return err
	}
	for _, d := range rows {
		d.HomeInstanceID = ""
		if err := devices.Update(&d); err != nil {
			return err
		}
	}
	return nil
}

func describe(inst *store.Instance, imageID string, in api.InstanceInfo) {
	inst.HostName, inst.Location, inst.AgentVersion, inst.ImageID = in.HostName, in.Location, in.AgentVersion, imageID
}

// image finds or makes the row of the image that a machine was started from. A new one goes into the default policy.
func (s *Service) image(t *store.Tenant, who tenant.Principal, provider string, in api.InstanceInfo) (store.Image, error) {
	images := store.In[store.Image](t)
	image, err := images.First(store.Eq("provider", provider), store.Eq("identity", in.ImageIdentity))
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return image, err
	}
	image = store.Image{Provider: provider, Identity: in.ImageIdentity, Name: firstOf(in.ImageName, in.HostName, in.ImageIdentity)}
	if err := images.Insert(&image); err != nil {
		return image, fmt.Errorf("recording the image: %w", err)
	}
	home, err := policyset.Default(t)
	if err != nil {
		return image, err
	}
	if err := policyset.AddImage(t, who, image.ID, home.ID); err != nil {
		return image, err
	}
	return image, audit.Append(t, audit.Entry{Category: "agent", Event: "image.added", Actor: who.Actor(), Subject: image.ID,
		Detail: map[string]string{"provider": provider, "identity": image.Identity, "name": image.Name}})
}

func (s *Service) refuse(ctx context.Context, accountID, address string, in api.EnrolRequest, tokenID, why string) error {
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		return appendRefusal(tx.Tenant(accountID), address, in, tokenID, why)
	})
	if err != nil {
		return err
	}
	return refused()
}

// unknownToken leaves its record in the account that was named, but not more often than once a minute: whoever calls
// here has shown nothing yet.
func (s *Service) unknownToken(ctx context.Context, address string, in api.EnrolRequest) error {
	s.Logger.Warn("enrolment refused: unknown token", "address", address)
	if !s.refused.allow(in.AccountID, s.Clock()) {
		return refused()
	}
	err := s.Store.Tx(ctx, func(tx *store.Tx) error {
		if _, err := store.Global[store.Account](tx).Get(in.AccountID); err != nil {
			return err
		}
		return appendRefusal(tx.Tenant(in.AccountID), address, in, "", "unknown token")
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return refused()
}

func appendRefusal(t *store.Tenant, address string, in api.EnrolRequest, tokenID, why string) error {
	return audit.Append(t, audit.Entry{Category: "agent", Event: "instance.enrolment-refused", Actor: "unknown", Subject: tokenID,
		Detail: map[string]string{"reason": why, "address": address, "provider": clip(in.Provider), "host_name": clip(in.Instance.HostName)}})
}
