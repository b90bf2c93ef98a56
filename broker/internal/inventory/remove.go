package inventory

import (
	"context"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/problem"
	"keyward/broker/internal/store"
	"keyward/broker/internal/tenant"
)

// CheckConfirm wants a person to have typed the name of what is going to be lost.
func CheckConfirm(typed, name string) error {
	if typed != name {
		return problem.Invalid("confirm", "is not the name; type it exactly to say that you mean it")
	}
	return nil
}

// Unconfigure destroys the key of a device for ever: what the device holds can never be read again.
func (s *Service) Unconfigure(ctx context.Context, p tenant.Principal, id string, in api.UnconfigureWrite) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		d, err := device(t, id)
		if err != nil {
			return err
		}
		if err := CheckConfirm(in.Confirm, d.Name); err != nil {
			return err
		}
		in, err := noKeyOut(t, id)
		if err != nil {
			return err
		}
		if _, err := Move(t, p, &d, Unconfigured, Ctx{Single: d.RAIDSetID == "", KeyIn: in, Destroy: true}, ""); err != nil {
			return err
		}
		s.publish(t, feed.TopicDevices, feed.TopicKeyRequests, feed.Instance(d.InstanceID))
		return nil
	})
}

// DeleteDevice removes a device that no machine shows any more, and its key with it: deleting is the word that destroys.
func (s *Service) DeleteDevice(ctx context.Context, p tenant.Principal, id string) error {
	return s.Store.Tx(ctx, func(tx *store.Tx) error {
		t := tx.Tenant(p.AccountID)
		d, err := device(t, id)
		if err != nil {
			return err
		}
		in, err := noKeyOut(t, id)
		if err != nil {
			return err
		}
		empty, err := noKey(t, id)
		if err != nil {
			return err
		}
		if _, err := Move(t, p, &d, Deleted, Ctx{Single: d.RAIDSetID == "", KeyIn: in, NoKey: empty, Destroy: true}, ""); err != nil {
			return err
		}
		s.publish(t, feed.TopicDevices)
		return nil
	})
}
