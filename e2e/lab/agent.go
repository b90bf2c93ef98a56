package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Agent is an agent on this machine, in folders of its own.
type Agent struct {
	Process
	Bin, Dir string
	config   string
}

// AgentOptions describe the machine that the agent plays.
type AgentOptions struct {
	Bin, Dir string
	// Images are raw disks that the Native provider offers.
	Images []string
	// Extra is further configuration, YAML.
	Extra string
	// Token is the enrolment token.
	Token string
	// AccountID is the account to enrol in; empty means the broker's first.
	AccountID string
	// Flags are further flags of enrol.
	Flags []string
}

// Enrol makes an agent known to the broker; Start runs it.
func (b *Broker) Enrol(ctx context.Context, o AgentOptions) (*Agent, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	a := &Agent{Bin: o.Bin, Dir: o.Dir, config: filepath.Join(o.Dir, "agent.yaml")}
	config := fmt.Sprintf("state_dir: %s\nruntime_dir: %s\n%s", filepath.Join(o.Dir, "state"), filepath.Join(o.Dir, "run"), o.Extra)
	if err := os.WriteFile(a.config, []byte(config), 0o600); err != nil {
		return nil, err
	}
	args := []string{"enrol", "--account", cmp.Or(o.AccountID, b.Setup.AccountID), "--token-file", "-", "--url", b.AgentURL}
	args = append(args, o.Flags...)
	for _, image := range o.Images {
		args = append(args, "--image", image)
	}
	command := exec.CommandContext(ctx, a.Bin, append(args, "--config", a.config)...)
	command.Stdin = strings.NewReader(o.Token)
	if out, err := command.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("enrol the agent: %w: %s", err, out)
	}
	a.prepare()
	return a, nil
}

// At is an agent like this one on other files, which lie in dir as this one's do in its folder.
func (a *Agent) At(dir string) *Agent {
	other := &Agent{Bin: a.Bin, Dir: dir, config: filepath.Join(dir, filepath.Base(a.config))}
	other.prepare()
	return other
}

func (a *Agent) prepare() {
	a.Process = Process{Name: "keyward-agent", Log: filepath.Join(a.Dir, "agent.log"), Args: []string{a.Bin, "run", "--config", a.config}}
}

// Run calls the agent's command line and returns what it printed.
func (a *Agent) Run(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, a.Bin, append(args, "--config", a.config)...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("keyward-agent %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// AgentStatus is the part of `status --json` that the suites look at.
type AgentStatus struct {
	InstanceID string `json:"instance_id"`
	Broker     struct {
		Connected bool `json:"connected"`
	} `json:"broker"`
	Volumes []struct {
		DeviceID      string `json:"device_id"`
		Name          string `json:"name"`
		State         string `json:"state"`
		Why           string `json:"why"`
		RequestNumber int64  `json:"request_number"`
		ExportKind    string `json:"export_kind"`
		BlockDevice   string `json:"block_device"`
		MountPoint    string `json:"mount_point"`
		KeyProtection string `json:"key_protection"`
	} `json:"volumes"`
}

// Status asks the running agent.
func (a *Agent) Status(ctx context.Context) (s AgentStatus, err error) {
	out, err := exec.CommandContext(ctx, a.Bin, "status", "--json", "--config", a.config).Output()
	if err != nil {
		return s, fmt.Errorf("keyward-agent status: %w", err)
	}
	return s, json.Unmarshal(out, &s)
}

// AwaitState returns when a volume of the machine is in the state, for example "mounted".
func (a *Agent) AwaitState(ctx context.Context, state string, d time.Duration) error {
	return Eventually(ctx, d, func() error {
		s, err := a.Status(ctx)
		if err != nil {
			return err
		}
		for _, v := range s.Volumes {
			if v.State == state {
				return nil
			}
		}
		return fmt.Errorf("no volume is %s: %+v", state, s.Volumes)
	})
}
