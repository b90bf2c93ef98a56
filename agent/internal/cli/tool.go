package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"keyward/agent/internal/config"
	"keyward/agent/internal/control"
	"keyward/agent/internal/daemon"
	"keyward/broker/api"
)

// tool is the configuration tool of the product that Keyward succeeds, by its option names, so that scripts written for it
// need a new program name and little else.
type tool struct {
	provider, account, passphrase, url, proxy, devices string
	ignoreTLS, publish, list, assigned, quiet          bool
	register, saas, provision                          bool
	minutes                                            int
}

func (a *app) configCommand() *cobra.Command {
	var t tool
	cmd := &cobra.Command{
		Use: "config", Args: cobra.NoArgs,
		Short: "The configuration tool's options by their former names",
		Long: "Config takes the options of the former configuration tool. It asks no questions: what is missing is an error.\n" +
			"-g, -x and -u together enrol this machine; -x is an enrolment token.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.tool(cmd.Context(), t) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&t.provider, "csp", "c", "", "provider plug-in: "+strings.Join(daemon.Providers(), ", "))
	f.StringVarP(&t.devices, "devices", "d", "", "provider plug-in, as the former documentation had it for -c")
	f.BoolVarP(&t.ignoreTLS, "ignore-ssl-error", "e", false, "refused: an agent that takes any certificate gives its facts to anyone")
	f.StringVarP(&t.account, "guid", "g", "", "account ID")
	f.BoolVarP(&t.publish, "publish-inventory", "i", false, "show this machine's devices to the broker")
	f.BoolVarP(&t.list, "list-plugins", "l", false, "list the provider plug-ins")
	f.BoolVarP(&t.assigned, "get-device-list", "k", false, "print the devices that the broker has assigned to this machine")
	f.BoolVarP(&t.quiet, "quiet", "q", false, "no explanations on standard error")
	f.BoolVarP(&t.register, "register", "r", false, "enrol this machine (implied by -g with -x)")
	f.BoolVarP(&t.saas, "saas", "s", false, "refused without a hosted service: name the broker with -u")
	f.IntVarP(&t.minutes, "timeout", "t", 720, "minutes to wait with -w")
	f.StringVarP(&t.url, "url", "u", "", "agents' interface of the broker, https://HOST[:PORT]")
	f.BoolVarP(&t.provision, "with-provisioning", "w", false, "wait until the volumes are mounted; the agent must be running")
	f.StringVarP(&t.passphrase, "passphrase", "x", "", "enrolment token")
	f.StringVarP(&t.proxy, "proxy-settings", "y", "", "show, test, remove, or http|https://[user:password@]host:port")
	return cmd
}

func (a *app) tool(ctx context.Context, t tool) error {
	switch {
	case t.ignoreTLS:
		return coded{exitUsage, errors.New("-e is refused: the broker's certificate is checked always; the enrolment token names its authority")}
	case t.saas && t.url == "":
		return coded{exitUsage, errors.New("-s: there is no hosted service; name your broker with -u https://HOST[:PORT]")}
	}
	if t.devices != "" {
		if _, err := os.Stat(t.devices); err == nil {
			return coded{exitUsage, errors.New("-d: devices are configured at the broker; a device list file is not read")}
		}
		a.tell(t, "-d names a provider here; -c is its own option for that")
		t.provider = t.devices
	}
	did := false
	step := func(wanted bool, act func() error) error {
		if !wanted {
			return nil
		}
		did = true
		return act()
	}
	enrol := t.register || (t.account != "" && t.passphrase != "")
	err := errors.Join(
		step(t.list, func() error { return a.listPlugins() }),
		step(t.proxy != "", func() error { return a.proxySettings(ctx, t) }),
	)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		wanted bool
		act    func() error
	}{
		{enrol, func() error {
			return a.enrol(ctx, enrolment{account: t.account, token: t.passphrase, url: t.url, provider: t.provider})
		}},
		{t.provider != "" && !enrol, func() error {
			return a.change(func(c *config.Config) { c.Provider = t.provider })
		}},
		{t.publish, func() error { return a.publishInventory(ctx, t) }},
		{t.assigned, func() error { return a.deviceList(ctx, t) }},
		{t.provision, func() error { return a.wait(ctx, time.Duration(t.minutes)*time.Minute) }},
	} {
		if err := step(s.wanted, s.act); err != nil {
			return err
		}
	}
	if !did {
		return coded{exitUsage, errors.New("nothing to do; see: keyward-agent config --help")}
	}
	return nil
}

func (a *app) tell(t tool, text string) {
	if !t.quiet {
		fmt.Fprintln(a.err, "keyward-agent: "+text)
	}
}

func (a *app) listPlugins() error {
	_, err := fmt.Fprintln(a.out, strings.Join(daemon.Providers(), "\n"))
	return err
}

// change loads the configuration file, changes it and writes it back.
func (a *app) change(how func(*config.Config)) error {
	c, path, err := a.load()
	if err != nil {
		return err
	}
	how(&c)
	if err := c.Validate(); err != nil {
		return coded{exitUsage, err}
	}
	return config.Save(path, c)
}

// publishInventory lets a running agent do it, because only that one then also starts on new volumes.
func (a *app) publishInventory(ctx context.Context, t tool) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	answer, err := control.Call(ctx, cfg.ControlSocket(), control.Request{Op: control.OpPublish})
	if err == nil {
		_, err = fmt.Fprintln(a.out, answer.Text)
		return err
	}
	if !errors.Is(err, control.ErrNotRunning) {
		return err
	}
	list, err := daemon.Publish(ctx, cfg, Version)
	if err != nil {
		return coded{brokerCode(err), err}
	}
	a.tell(t, "the agent is not running: devices can be configured now, and encrypted once it runs")
	_, err = fmt.Fprintf(a.out, "published; the broker knows %d devices of this machine\n", len(list.Devices))
	return err
}

func (a *app) deviceList(ctx context.Context, t tool) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	list, err := daemon.Assigned(ctx, cfg)
	if err != nil {
		return coded{brokerCode(err), err}
	}
	a.tell(t, "-k shows what is assigned; -i publishes what this machine has")
	return a.printDevices(list)
}

func (a *app) printDevices(list api.DeviceList) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tNAME\tSTATUS\tFILE SYSTEM\tMOUNT POINT\tACCESS\tKEY BITS")
	for _, d := range list.Devices {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\n", d.ID, d.Name, d.Status, d.FileSystem, d.MountPoint, d.Access, d.KeyBits)
	}
	return w.Flush()
}

// proxySettings shows, tests, removes or sets the proxy. A password in it is never shown.
func (a *app) proxySettings(ctx context.Context, t tool) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	switch strings.TrimPrefix(t.proxy, "-") {
	case "show":
		shown := "none"
		if u, err := config.ParseProxy(cfg.Proxy); err == nil && u != nil {
			shown = hidden(u)
		}
		_, err := fmt.Fprintln(a.out, shown)
		return err
	case "test":
		if err := daemon.Reach(ctx, cfg); err != nil {
			return coded{brokerCode(err), fmt.Errorf("the broker was not reached: %w", err)}
		}
		_, err := fmt.Fprintln(a.out, "the broker answers")
		return err
	case "remove":
		return a.change(func(c *config.Config) { c.Proxy = "" })
	}
	if _, err := config.ParseProxy(t.proxy); err != nil {
		return coded{exitUsage, fmt.Errorf("-y: %w", err)}
	}
	return a.change(func(c *config.Config) { c.Proxy = t.proxy })
}

// hidden is a proxy without its password.
func hidden(u *url.URL) string { return u.Redacted() }
