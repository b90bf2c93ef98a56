package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
)

// Broker is a broker on this machine, on loopback ports of its own.
type Broker struct {
	Process
	Bin, Dir string
	// URL is the people's interface and console, AgentURL the agents' interface.
	URL, AgentURL string
	CAFile        string
	CA            []byte
	Setup         Setup
}

// Setup is what `init --json` prints once.
type Setup struct {
	AccountID   string `json:"account_id"`
	AccountName string `json:"account_name"`
	Admin       Login  `json:"admin"`
	Approver    Login  `json:"approver"`
}

// Login is a person's name and first password.
type Login struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

// BrokerOptions describe a broker to be made.
type BrokerOptions struct {
	Bin, Dir string
	// RootKey is the root key file, outside Dir.
	RootKey                  string
	Account, Admin, Approver string
	// DSN names another store than the embedded one.
	DSN string
}

// StartBroker initialises a broker and starts it.
func StartBroker(ctx context.Context, o BrokerOptions) (*Broker, error) {
	if err := os.MkdirAll(filepath.Dir(o.RootKey), 0o700); err != nil {
		return nil, err
	}
	people, agents := freeAddress(), freeAddress()
	common := []string{"--data", o.Dir, "--root-key", o.RootKey}
	if o.DSN != "" {
		common = append(common, "--dsn", o.DSN)
	}
	init := exec.CommandContext(ctx, o.Bin, append([]string{"init", "--json", "--account", o.Account, "--admin", o.Admin,
		"--approver", o.Approver}, common...)...)
	init.Stderr = os.Stderr
	out, err := init.Output()
	if err != nil {
		return nil, fmt.Errorf("initialise the broker: %w", err)
	}
	b := &Broker{Bin: o.Bin, Dir: o.Dir, URL: "https://" + people, AgentURL: "https://" + agents, CAFile: filepath.Join(o.Dir, "ca.pem")}
	if err := json.Unmarshal(out, &b.Setup); err != nil {
		return nil, fmt.Errorf("read what init printed: %w", err)
	}
	if b.CA, err = os.ReadFile(b.CAFile); err != nil {
		return nil, err
	}
	b.Process = Process{Name: "keyward-broker", Log: filepath.Join(filepath.Dir(o.RootKey), "broker.log"),
		Args: append([]string{o.Bin, "serve", "--people-listen", people, "--agent-listen", agents, "--service-url", b.AgentURL}, common...)}
	if err := b.Start(); err != nil {
		return nil, err
	}
	if err := b.AwaitReady(ctx); err != nil {
		return nil, fmt.Errorf("%w; its log ends:\n%s", err, b.LogTail(20))
	}
	return b, nil
}

// freeAddress is a loopback address that nobody listens on now.
func freeAddress() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// AwaitReady returns when the broker says that it can work.
func (b *Broker) AwaitReady(ctx context.Context) error {
	people, err := client.NewPeople(b.URL, b.CA)
	if err != nil {
		return err
	}
	defer people.Close()
	return Eventually(ctx, 20*time.Second, func() error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return people.Do(ctx, http.MethodGet, "/readyz", nil, nil)
	})
}

// LogOn opens a session for a user of the broker's first account.
func (b *Broker) LogOn(ctx context.Context, user, password string) (*client.People, error) {
	people, err := client.NewPeople(b.URL, b.CA)
	if err != nil {
		return nil, err
	}
	if _, err := people.LogOn(ctx, api.LogOn{Account: b.Setup.AccountID, User: user, Password: password}); err != nil {
		return nil, fmt.Errorf("log on as %s: %w", user, err)
	}
	return people, nil
}
