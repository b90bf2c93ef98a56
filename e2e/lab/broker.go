package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
	// store names data folder, root key and database to every command.
	store []string
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
	// Settings are further flags of serve.
	Settings []string
	// Host is the address of this machine to listen on; empty means 127.0.0.1.
	Host string
}

// StartBroker initialises a broker and starts it.
func StartBroker(ctx context.Context, o BrokerOptions) (*Broker, error) {
	if err := os.MkdirAll(filepath.Dir(o.RootKey), 0o700); err != nil {
		return nil, err
	}
	people, err := FreeAddress(o.Host)
	if err != nil {
		return nil, err
	}
	agents, err := FreeAddress(o.Host)
	if err != nil {
		return nil, err
	}
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
	b := &Broker{Bin: o.Bin, Dir: o.Dir, URL: "https://" + people, AgentURL: "https://" + agents, CAFile: filepath.Join(o.Dir, "ca.pem"),
		store: common}
	if err := json.Unmarshal(out, &b.Setup); err != nil {
		return nil, fmt.Errorf("read what init printed: %w", err)
	}
	return b.open(ctx, o, people, agents)
}

// RestoreBroker starts a broker on copies of another one's data folder and root key, or on what a backup was restored into,
// under the other's addresses: what is left when a machine was lost and its backup was not. The other one no longer runs.
func RestoreBroker(ctx context.Context, lost *Broker, o BrokerOptions) (*Broker, error) {
	b := &Broker{Bin: o.Bin, Dir: o.Dir, URL: lost.URL, AgentURL: lost.AgentURL, CAFile: filepath.Join(o.Dir, "ca.pem"), Setup: lost.Setup,
		store: []string{"--data", o.Dir, "--root-key", o.RootKey}}
	if o.DSN != "" {
		b.store = append(b.store, "--dsn", o.DSN)
	}
	return b.open(ctx, o, strings.TrimPrefix(lost.URL, "https://"), strings.TrimPrefix(lost.AgentURL, "https://"))
}

// open starts what is set up and waits until it can work.
func (b *Broker) open(ctx context.Context, o BrokerOptions, people, agents string) (_ *Broker, err error) {
	if b.CA, err = os.ReadFile(b.CAFile); err != nil {
		return nil, err
	}
	b.Process = Process{Name: "keyward-broker", Log: filepath.Join(filepath.Dir(o.RootKey), "broker.log"),
		Args: slices.Concat([]string{o.Bin, "serve", "--people-listen", people, "--agent-listen", agents, "--service-url", b.AgentURL},
			b.store, o.Settings)}
	if err := b.Start(); err != nil {
		return nil, err
	}
	if err := b.AwaitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%w; its log ends:\n%s", err, b.LogTail(20)), b.Stop(10*time.Second))
	}
	return b, nil
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
	return b.LogOnTo(ctx, b.Setup.AccountID, Login{Name: user, Password: password})
}

// LogOnTo opens a session for a user of any account, by the account's name or ID.
func (b *Broker) LogOnTo(ctx context.Context, account string, as Login) (*client.People, error) {
	people, err := client.NewPeople(b.URL, b.CA)
	if err != nil {
		return nil, err
	}
	if _, err := people.LogOn(ctx, api.LogOn{Account: account, User: as.Name, Password: as.Password}); err != nil {
		return nil, fmt.Errorf("log on as %s: %w", as.Name, err)
	}
	return people, nil
}

// NewAccount adds an account to the running broker, as its operator does; the Account Administrator is called "ada" and
// the Key Approver "kim".
func (b *Broker) NewAccount(ctx context.Context, name string) (setup Setup, err error) {
	out, err := b.Command(ctx, "account", "create", name, "--admin", "ada", "--approver", "kim", "--json")
	if err != nil {
		return setup, err
	}
	if err := json.Unmarshal(out, &setup); err != nil {
		return setup, fmt.Errorf("read the new account: %w", err)
	}
	return setup, nil
}

// Command runs an operator's command on this broker's data, beside the running one, and returns its standard output.
func (b *Broker) Command(ctx context.Context, args ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, b.Bin, slices.Concat(args, b.store)...)
	var complaint bytes.Buffer
	command.Stderr = &complaint
	out, err := command.Output()
	if err != nil {
		return out, fmt.Errorf("keyward-broker %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out, nil
}
