// Package cli is the command line of the agent. Results go to standard output, everything else to standard error; no
// command needs a terminal, and none asks questions.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"keyward/agent/identity"
	"keyward/agent/internal/config"
	"keyward/agent/internal/control"
	"keyward/broker/client"
)

// Version is set by the build (-ldflags -X); a build without it says "0.0.0-dev".
var Version = "0.0.0-dev"

// The exit codes are promised in docs/operations/agent.md; a number is never given another meaning. 2 is left to the Go
// runtime, which ends a crashed program with it.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 64 // EX_USAGE of sysexits.h
	exitNotEnrolled = 3
	exitNotRunning  = 4
	exitBroker      = 5
	exitNotReady    = 6
	exitHeader      = 7
)

// coded is an error that chooses the exit code.
type coded struct {
	code int
	err  error
}

func (c coded) Error() string { return c.err.Error() }
func (c coded) Unwrap() error { return c.err }

// app is one invocation.
type app struct {
	out, err io.Writer
	in       io.Reader
	environ  []string

	configPath string
	flags      map[string]*string // configuration keys set by flags
}

// Main runs the command line and returns the exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{out: os.Stdout, err: os.Stderr, in: os.Stdin, environ: os.Environ(), flags: map[string]*string{}}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(a.err, "keyward-agent: %v\n", err)
	return exitCode(err)
}

func exitCode(err error) int {
	var c coded
	var p *client.Problem
	var pin *client.PinError
	switch {
	case errors.As(err, &c):
		return c.code
	case errors.Is(err, identity.ErrNotEnrolled):
		return exitNotEnrolled
	case errors.Is(err, control.ErrNotRunning):
		return exitNotRunning
	case errors.As(err, &p), errors.As(err, &pin):
		return exitBroker
	}
	return exitFailed
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "keyward-agent",
		Short:         "Keeps this machine's encrypted volumes under the control of a Keyward broker",
		SilenceErrors: true, SilenceUsage: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetIn(a.in)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return coded{exitUsage, fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
	})
	root.PersistentFlags().StringVar(&a.configPath, "config", "", "configuration file (default "+config.DefaultPath+", or "+config.EnvPath+")")
	a.key(root, "state_dir", "where identity and job markers are kept")
	a.key(root, "runtime_dir", "where sockets and mount points of the running agent are")
	a.key(root, "log_level", "debug, info, warn or error")
	root.AddCommand(a.runCommand(), a.enrolCommand(), a.renewCommand(), a.statusCommand(), a.waitCommand(), a.publishCommand(), a.requestCommand(), a.checkCommand(),
		a.lockCommand(), a.stopCommand(), a.upgradeCommand(), a.exportedKeyCommand(), a.inspectCommand(), a.factsCommand(), a.versionCommand(), a.configCommand())
	root.AddCommand(a.openExportedCommand(), a.closeExportedCommand(), a.importCommand(), a.recoveryKeyCommand(), a.breakGlassCommand())
	for _, c := range append(root.Commands(), root) {
		c.Args = usage(c.Args)
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	return root
}

// key adds a persistent flag that sets a configuration key: state_dir becomes --state-dir.
func (a *app) key(cmd *cobra.Command, key, help string) {
	a.flags[key] = cmd.PersistentFlags().String(strings.NewReplacer("_", "-", ".", "-").Replace(key), "", help)
}

// usage gives a wrong number of arguments the exit code for wrong usage.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		if err := check(cmd, args); err != nil {
			return coded{exitUsage, fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
		}
		return nil
	}
}

// load reads the configuration as file, environment and flags have it. A file that was named must be there.
func (a *app) load() (config.Config, string, error) {
	path, named := a.path()
	return a.loadFrom(path, named, nil)
}

// path is where the configuration is, and whether somebody named it.
func (a *app) path() (path string, named bool) {
	if a.configPath != "" {
		return a.configPath, true
	}
	for _, e := range a.environ {
		if v, ok := strings.CutPrefix(e, config.EnvPath+"="); ok && v != "" {
			return v, true
		}
	}
	return config.DefaultPath, false
}

// loadFrom reads a file that may be missing unless required. extra are keys of a command's own flags.
func (a *app) loadFrom(path string, required bool, extra map[string]any) (config.Config, string, error) {
	flags := map[string]any{}
	for k, v := range a.flags {
		if *v != "" {
			flags[k] = *v
		}
	}
	maps.Copy(flags, extra)
	c, err := config.Load(config.Source{Path: path, Required: required, Environ: a.environ, Flags: flags})
	if err != nil {
		return c, path, coded{exitUsage, err}
	}
	return c, path, nil
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		goVersion := ""
		if info, ok := debug.ReadBuildInfo(); ok {
			goVersion = " (" + info.GoVersion + ")"
		}
		_, err := fmt.Fprintf(a.out, "keyward-agent %s%s\n", Version, goVersion)
		return err
	}}
}
