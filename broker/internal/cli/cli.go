// Package cli is the command line of keyward-broker.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"keyward/broker/internal/server"
)

// The exit codes, a documented promise of every command.
const (
	exitOK = 0
	// exitFailed: the command ran and failed; for audit verify: the log is not what a broker wrote.
	exitFailed = 1
	// exitUsage: the command line, the configuration or a named file is wrong; nothing was done.
	exitUsage = 2
	// exitChanges: policy plan found changes; there a wrong command line or file is exitFailed.
	exitChanges = 2
)

const exitHelp = `Exit codes: 0 done; 1 failed; 2 the command line, the configuration or a named file is wrong.`

// exitCode ends a command that did what it should with a code that says what it found.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// usageError is an error of the caller.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// Main runs a command and returns the exit code.
func Main(args []string, version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, version, os.Stdout, os.Stderr)
}

func run(ctx context.Context, args []string, version string, out, errs io.Writer) int {
	root := command(version)
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errs)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var quiet exitCode
	if errors.As(err, &quiet) {
		return int(quiet)
	}
	fmt.Fprintf(errs, "keyward-broker: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// command is the tree of all commands.
func command(version string) *cobra.Command {
	root := &cobra.Command{
		Use: "keyward-broker", Short: "Keep the keys of encrypted volumes and hand them to machines that are fit",
		Long:    "Keep the keys of encrypted volumes and hand them to machines that a policy, or a person, has judged fit.\n\n" + exitHelp,
		Version: version, SilenceUsage: true, SilenceErrors: true,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	s := &settings{version: version}
	s.flags(root.PersistentFlags())
	root.AddCommand(initCommand(s), serveCommand(s), accountCommand(s), userCommand(s), tokenCommand(s), auditCommand(s), policyCommand(s), keyCommand(s), recoveryKeyCommand(s), backupCommand(s))
	return root
}

// usage makes wrong arguments the caller's error.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usageError{fmt.Errorf("%w; see keyward-broker %s --help", err, c.Name())}
		}
		return nil
	}
}

// group is a command that only has others below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: usage(cobra.NoArgs), RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(below...)
	return c
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func serveCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the broker until it is told to stop", Args: usage(cobra.NoArgs),
		Long: "Run the broker until SIGTERM or SIGINT. Requests that run have ten seconds to end; the audit logs are signed last.\n" +
			"Tells systemd when it is ready (Type=notify) and that it is alive (WatchdogSec).\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := s.load(c.Flags())
			if err != nil {
				return err
			}
			return server.Run(c.Context(), config)
		},
	}
}
