package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyward/agent/internal/config"
	"keyward/agent/internal/daemon"
)

// enrolment is what enrol and the old tool's config -r share.
type enrolment struct {
	account, token, tokenFile, url, provider, proxy string
	images                                          []string
	template                                        bool
}

func (a *app) enrolCommand() *cobra.Command {
	var e enrolment
	cmd := &cobra.Command{
		Use: "enrol --account ID --token TOKEN --url URL", Aliases: []string{"enroll"}, Args: cobra.NoArgs,
		Short: "Make this machine known to a broker",
		Long: "Enrol makes a key on this machine, trades the enrolment token for a certificate, and writes the configuration.\n" +
			"The token names the broker's authority, so that it is sent to no other server. A token on the command line can be\n" +
			"seen by other users while the command runs: --token-file FILE, or - for standard input, avoids that.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.enrol(cmd.Context(), e) },
	}
	f := cmd.Flags()
	f.StringVar(&e.account, "account", "", "account ID")
	f.StringVar(&e.token, "token", "", "enrolment token")
	f.StringVar(&e.tokenFile, "token-file", "", "file that holds the enrolment token, - for standard input")
	f.StringVar(&e.url, "url", "", "agents' interface of the broker, https://HOST[:PORT]")
	f.StringVar(&e.provider, "provider", "", "plug-in that knows this machine (default native)")
	f.StringVar(&e.proxy, "proxy", "", "http|https://[user:password@]host:port")
	f.BoolVar(&e.template, "template", false, "enrol the image of this machine: every machine that is started from a copy of this disk then enrols by itself, with a key of its own")
	f.StringArrayVar(&e.images, "image", nil, "raw disk image to offer as a device; may be repeated")
	return cmd
}

func (a *app) enrol(ctx context.Context, e enrolment) error {
	for flag, value := range map[string]string{"--account": e.account, "--url": e.url} {
		if value == "" {
			return coded{exitUsage, fmt.Errorf("%s is missing; the broker's console shows it under User Management", flag)}
		}
	}
	token, err := a.secret(e.token, e.tokenFile, "--token")
	if err != nil {
		return err
	}
	cfg, path, err := a.enrolConfig(e)
	if err != nil {
		return err
	}
	id, err := daemon.Enrol(ctx, cfg, daemon.Enrolment{AccountID: e.account, Token: token, URL: e.url, Version: Version, Template: e.template})
	if err != nil {
		return coded{brokerCode(err), err}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the configuration folder: %w", err)
	}
	if err := config.Save(path, cfg); err != nil {
		return err
	}
	if e.template {
		fmt.Fprintf(a.out, "enrolled image %s of account %s (%s) until %s\n", id.ImageID, id.AccountName, id.AccountID, id.NotAfter().UTC().Format(time.RFC3339))
		fmt.Fprintf(a.err, "configuration written to %s; bundle the image now: each machine that is started from it makes a key and enrols when its agent starts\n", path)
		return nil
	}
	fmt.Fprintf(a.out, "enrolled as instance %s of account %s (%s)\n", id.InstanceID, id.AccountName, id.AccountID)
	fmt.Fprintf(a.err, "configuration written to %s; start the agent with: systemctl enable --now keyward-agent (or: keyward-agent run)\n", path)
	return nil
}

// enrolConfig is the configuration as it will be kept: what is there already, with what was given now.
func (a *app) enrolConfig(e enrolment) (config.Config, string, error) {
	extra := map[string]any{"broker": strings.TrimRight(e.url, "/")}
	if e.provider != "" {
		extra["provider"] = e.provider
	}
	if e.proxy != "" {
		extra["proxy"] = e.proxy
	}
	path, _ := a.path() // a file that is named and missing is what enrolling makes
	cfg, path, err := a.loadFrom(path, false, extra)
	return withImages(cfg, e.images), path, err
}

func withImages(cfg config.Config, images []string) config.Config {
	for _, path := range images {
		if abs, err := filepath.Abs(path); err == nil {
			path = abs
		}
		image := config.Image{Path: path}
		if !slices.Contains(cfg.Native.Images, image) {
			cfg.Native.Images = append(cfg.Native.Images, image)
		}
	}
	return cfg
}

// secret takes a secret from a flag, a file, or standard input.
func (a *app) secret(value, file, flag string) (string, error) {
	if (value == "") == (file == "") {
		return "", coded{exitUsage, fmt.Errorf("give either %s or %s-file", flag, flag)}
	}
	if value != "" {
		return value, nil
	}
	if file == "-" && a.terminal() {
		return a.typed(strings.TrimLeft(flag, "-"), bufio.NewReader(a.in))
	}
	in := a.in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read %s-file: %w", flag, err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxSecret))
	if err != nil {
		return "", fmt.Errorf("read %s-file: %w", flag, err)
	}
	defer clear(data)
	return strings.TrimRight(string(data), "\r\n"), nil
}

// brokerCode is exitBroker unless the error says something more special.
func brokerCode(err error) int {
	if code := exitCode(err); code != exitFailed {
		return code
	}
	return exitBroker
}
