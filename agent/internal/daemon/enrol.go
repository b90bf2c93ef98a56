package daemon

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"keyward/agent/identity"
	"keyward/agent/internal/config"
	"keyward/broker/api"
	"keyward/broker/client"
)

// Enrolment is what a machine needs to become known to a broker.
type Enrolment struct {
	AccountID, Token, URL, Version string
	// Template asks for the identity that all machines made from this one's image share, in place of its own.
	Template bool
}

// Enrol trades an enrolment token for this machine's identity and keeps it in the state folder.
func Enrol(ctx context.Context, cfg config.Config, e Enrolment) (*identity.Identity, error) {
	machine, err := openProvider(cfg)
	if err != nil {
		return nil, err
	}
	info, err := instanceInfo(ctx, machine, e.Version)
	if err != nil {
		return nil, err
	}
	store, err := OpenStore(cfg, nil)
	if err != nil {
		return nil, err
	}
	if e.Template {
		store = identity.NewImageStore(cfg.StateDir)
	}
	key, err := store.Key()
	if err != nil {
		return nil, err
	}
	csr, err := identity.CSR(key)
	if err != nil {
		return nil, err
	}
	proxy, err := config.ParseProxy(cfg.Proxy)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	o := client.EnrolOptions{URL: e.URL, Token: e.Token, Request: api.EnrolRequest{AccountID: e.AccountID, Template: e.Template, CSR: csr,
		Provider: machine.Name(), Instance: info, Time: time.Now().UTC()}}
	if proxy != nil {
		o.Proxy = http.ProxyURL(proxy)
	}
	answer, err := client.Enrol(ctx, o)
	if err != nil {
		return nil, err
	}
	return store.Save(answer, strings.TrimRight(e.URL, "/"), info.Identity)
}

// Publish shows this machine's devices to the broker once, without a running agent.
func Publish(ctx context.Context, cfg config.Config, version string) (api.DeviceList, error) {
	machine, err := openProvider(cfg)
	if err != nil {
		return api.DeviceList{}, err
	}
	agent, err := enrolled(cfg)
	if err != nil {
		return api.DeviceList{}, err
	}
	defer agent.Close()
	info, err := instanceInfo(ctx, machine, version)
	if err != nil {
		return api.DeviceList{}, err
	}
	devices, err := machine.Devices(ctx)
	if err != nil {
		return api.DeviceList{}, fmt.Errorf("look for devices: %w", err)
	}
	report := api.InventoryReport{Provider: machine.Name(), Instance: info, Devices: []api.InventoryDevice{}}
	for _, dev := range devices {
		report.Devices = append(report.Devices, asFound(dev).published())
	}
	return agent.PublishInventory(ctx, report)
}

// Renew gets and keeps another certificate for this machine's key. A running agent takes it up at its next start; until
// then the certificate that it has counts.
func Renew(ctx context.Context, cfg config.Config) (*identity.Identity, error) {
	store, err := OpenStore(cfg, nil)
	if err != nil {
		return nil, err
	}
	id, err := store.Load()
	if err != nil {
		return nil, fmt.Errorf("load the machine's identity: %w", err)
	}
	agent, err := connect(cfg, id)
	if err != nil {
		return nil, err
	}
	defer agent.Close()
	return renew(ctx, store, id, agent, time.Now())
}

// Assigned asks the broker for this machine's devices, without a running agent.
func Assigned(ctx context.Context, cfg config.Config) (api.DeviceList, error) {
	agent, err := enrolled(cfg)
	if err != nil {
		return api.DeviceList{}, err
	}
	defer agent.Close()
	return agent.Devices(ctx)
}

// Reach asks the broker for a challenge, which proves the whole way: proxy, TLS, identity.
func Reach(ctx context.Context, cfg config.Config) error {
	agent, err := enrolled(cfg)
	if err != nil {
		return err
	}
	defer agent.Close()
	_, err = agent.Nonce(ctx)
	return err
}

func enrolled(cfg config.Config) (*client.Agent, error) {
	store, err := OpenStore(cfg, nil)
	if err != nil {
		return nil, err
	}
	id, err := store.Load()
	if err != nil {
		return nil, fmt.Errorf("load the machine's identity: %w", err)
	}
	return connect(cfg, id)
}
