package keyrequest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/idempotency"
	"keyward/broker/internal/inventory"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// Status returns a request of the calling machine. With a wait it is held back until the request's version differs from
// after, or the wait is over.
func (s *Service) Status(ctx context.Context, p tenant.Principal, id string, wait time.Duration, after int64) (api.KeyRequestStatus, error) {
	var out api.KeyRequestStatus
	err := s.waitFor(ctx, p, wait, []string{feed.KeyRequest(id)}, nil, func() (bool, error) {
		err := s.Store.View(ctx, func(tx *store.Tx) error {
			t := tx.Tenant(p.AccountID)
			r, err := own(t, p, id)
			if err != nil {
				return err
			}
			out, err = status(t, r)
			return err
		})
		return out.Version != after, err
	})
	return out, err
}

// trusted refuses a key that was approved before its machine came under suspicion. What a person approves afterwards counts.
func trusted(t *store.Tenant, r store.KeyRequest) error {
	inst, err := store.In[store.Instance](t).Get(r.InstanceID)
	if err != nil || inst.Suspicion == "" || inst.SuspectedAt == nil || r.DecidedAt != nil && r.DecidedAt.After(*inst.SuspectedAt) {
		return err
	}
	return problem.New(409, "machine-suspected", "The machine may exist twice", inst.Suspicion,
		"Ask again: a person decides, or clears the machine once there is only one.")
}

// Deliver seals the key of an approved request to its machine, once. Delivered and its audit record are committed with
// the sealed answer, before it leaves.
func (s *Service) Deliver(ctx context.Context, p tenant.Principal, call idempotency.Call, id string, in api.DeliveryRequest) (api.KeyDelivery, error) {
	// Outside the transaction, and before anybody knows whose request it is: what is wrong with the key is said last.
	sealer, sealerErr := keystore.NewSealer(in.PublicKey)
	return idempotency.Tx(ctx, s.Store, p.AccountID, call, func(t *store.Tenant) (api.KeyDelivery, error) {
		none := api.KeyDelivery{}
		r, err := own(t, p, id)
		if err != nil {
			return none, err
		}
		if sealerErr != nil || !bytes.Equal(r.PublicKey, in.PublicKey) {
			return none, problem.Invalid("public_key", "is not the one that the request was made with")
		}
		if r.DeliveredAt != nil {
			return none, problem.New(409, "already-delivered", "The key was delivered already",
				fmt.Sprintf("Request %d was delivered at %s.", r.Number, r.DeliveredAt.UTC().Format(time.RFC3339)),
				"Ask for the key again; within the lease that needs no person.")
		}
		if r.Status != api.KeyApproved {
			return none, problem.New(409, "not-approved", "The request is not approved",
				fmt.Sprintf("Request %d is %s.", r.Number, r.Status), "Wait until it is Approved.")
		}
		d, err := store.In[store.Device](t).First(store.Eq("id", r.DeviceID), store.ForUpdate())
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return none, err
		}
		sees, sawErr := inventory.Sees(t, d.ID, p.Instance)
		if sawErr != nil {
			return none, sawErr
		}
		if err == nil {
			if _, err := wholeUnit(t, d, p.Instance); err != nil {
				return none, err
			}
		}
		if err != nil || d.Volume == nil || !sees {
			return none, problem.Conflict("The device was deleted, unconfigured or moved to another machine since the request.",
				"Publish the inventory and ask again.")
		}
		if err := exclusive(t, d, p.Instance, r.ID); err != nil {
			return none, err
		}
		if err := trusted(t, r); err != nil {
			return none, err
		}
		what, err := parcelOf(t, d)
		if err != nil {
			return none, err
		}
		return s.hand(t, p, sealer, what, &r, d)
	})
}

// parcel is what a delivery is made of.
type parcel struct {
	unit inventory.Unit
	keys []keystore.DeviceKey
}

// parcelOf reads the keys of a device, or of all members of its RAID set.
func parcelOf(t *store.Tenant, d store.Device) (p parcel, err error) {
	if p.unit, err = inventory.UnitOf(t, d); err != nil {
		return p, err
	}
	p.keys, err = p.unit.Keys(t)
	return p, err
}

// hand seals keys to the machine of a request, and notes the delivery. r is approved, and the machine may have the device;
// when sealing fails nothing has been written.
func (s *Service) hand(t *store.Tenant, p tenant.Principal, sealer *keystore.Sealer, what parcel, r *store.KeyRequest, d store.Device) (api.KeyDelivery, error) {
	none := api.KeyDelivery{}
	account, err := inventory.AccountKey(t)
	if err != nil {
		return none, err
	}
	pol, err := policyOf(t, r.PolicyID)
	if err != nil {
		return none, err
	}
	writes := d.Access != api.AccessReadOnly && d.WriterID != p.Instance
	if writes {
		if d.WriterID != "" {
			d.Writers++
		}
		d.WriterID = p.Instance
		*what.unit.First() = d
	}
	out, err := sealer.Seal(s.Root, api.DeliveryBinding{Purpose: keystore.PurposeKeyRequest, AccountID: p.AccountID,
		RequestID: r.ID, DeviceID: d.ID, InstanceID: p.Instance, Nonce: r.Nonce, LeaseSeconds: pol.LeaseSeconds}, account, what.keys, *d.Volume, what.unit.Assigned())
	if err != nil {
		return none, fmt.Errorf("sealing the key of request %d: %w", r.Number, errors.Join(errNotSealed, err))
	}
	if writes {
		if err := store.In[store.Device](t).UpdateLater(&d); err != nil {
			return none, err
		}
	}
	_, err = s.move(t, p, r, change{event: EventDelivered, reason: "The key was delivered.", detail: map[string]string{"address": p.Address}})
	return out, err
}

// errNotSealed is why a key was not handed over although the request is approved and stays so: its machine tries again.
var errNotSealed = errors.New("the key could not be sealed")

// handAtOnce hands the key over with the answer to the request for it. A root key that does not answer now is asked again
// when the machine collects.
func (s *Service) handAtOnce(t *store.Tenant, p tenant.Principal, sealer *keystore.Sealer, what parcel, r *store.KeyRequest, d store.Device) (*api.KeyDelivery, error) {
	out, err := s.hand(t, p, sealer, what, r, d)
	if errors.Is(err, errNotSealed) {
		s.Logger.Warn("an approved key was not handed over at once", "request", r.Number, "error", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &out, nil
}
