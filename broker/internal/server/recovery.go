package server

import (
	"context"

	"keyward/broker/api"
	"keyward/broker/internal/feed"
	"keyward/broker/internal/recovery"
	"keyward/broker/internal/tenant"
)

// Recovery is the recovery key of one account, for the operator.
type Recovery struct {
	service *recovery.Service
	p       tenant.Principal
}

// Recovery opens the recovery key of an account, by the account's name or ID.
func (o *Operator) Recovery(ctx context.Context, accountName string) (*Recovery, error) {
	p, err := o.Account(ctx, accountName)
	if err != nil {
		return nil, err
	}
	return &Recovery{recovery.New(recovery.Deps{Store: o.store, Feed: &feed.Hub{}, Root: o.roots, AgentURL: o.config.ServiceURL, Logger: o.config.Logger}), p}, nil
}

// Show is the key, and which machines have the envelope that they should have.
func (r *Recovery) Show(ctx context.Context) (api.RecoveryKey, []api.RecoveryMachine, error) {
	key, err := r.service.Key(ctx, r.p)
	if err != nil {
		return key, nil, err
	}
	machines, err := r.service.Machines(ctx, r.p)
	return key, machines, err
}

// Set makes the key of a file the account's.
func (r *Recovery) Set(ctx context.Context, file string) (api.RecoveryKey, error) {
	return r.service.SetKey(ctx, r.p, api.RecoveryKeyWrite{PublicKey: file})
}

// Remove retires it.
func (r *Recovery) Remove(ctx context.Context) error { return r.service.RetireKey(ctx, r.p) }
