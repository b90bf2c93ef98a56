package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"keyward/agent/internal/control"
	"keyward/agent/volume"
	"keyward/broker/api"
)

func (a *app) statusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "status", Short: "Show the link to the broker and every volume", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			answer, err := a.ask(cmd.Context(), control.Request{Op: control.OpStatus})
			if err != nil {
				return err
			}
			if answer.Status == nil {
				return errors.New("the agent answered without a status; it is of another version: restart it")
			}
			if asJSON {
				return writeJSON(a.out, answer.Status)
			}
			return printStatus(a.out, answer.Status)
		}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON; the fields are documented in docs/operations/agent.md")
	return cmd
}

func (a *app) waitCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{Use: "wait", Short: "Return when all volumes of this machine are mounted", Args: cobra.NoArgs,
		Long: "Wait is for programs that need the volumes: start them after it. It ends with exit code 6 when the time is over.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.wait(cmd.Context(), timeout) }}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this time, for example 5m (default: never)")
	return cmd
}

func (a *app) wait(ctx context.Context, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	missing := "the agent has not answered yet"
	for {
		answer, err := a.ask(ctx, control.Request{Op: control.OpStatus})
		switch {
		case err == nil && answer.Status != nil:
			if missing = notMounted(answer.Status); missing == "" {
				return nil
			}
		case ctx.Err() == nil && !errors.Is(err, control.ErrNotRunning):
			return err
		}
		select {
		case <-ctx.Done():
			return coded{exitNotReady, fmt.Errorf("not all volumes are mounted: %s", missing)}
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// notMounted says which volume is not mounted and why, or nothing when all are.
func notMounted(s *control.Status) string {
	if len(s.Volumes) == 0 {
		return "no encrypted volume is assigned to this machine yet"
	}
	for _, v := range s.Volumes {
		if v.State != volume.Mounted {
			why := cmp.Or(v.Why, "no reason given")
			if v.RequestNumber != 0 && !v.State.HoldsKey() {
				why = fmt.Sprintf("key request %d, %s: %s", v.RequestNumber, v.RequestStatus, strings.TrimSpace(why+" "+v.WaitsFor))
			}
			return fmt.Sprintf("%s is %s (%s)", v.Name, v.State, why)
		}
	}
	return ""
}

// ask loads the configuration for the socket's place and calls the running agent.
func (a *app) ask(ctx context.Context, r control.Request) (control.Answer, error) {
	cfg, _, err := a.load()
	if err != nil {
		return control.Answer{}, err
	}
	return control.Call(ctx, cfg.ControlSocket(), r)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printStatus shows a status to a person. Long values are never cut.
func printStatus(w io.Writer, s *control.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("Agent", "%s, process %d, started %s", s.Version, s.PID, s.Started.Format(time.RFC3339))
	line("Instance", "%s (provider %s)", s.InstanceID, s.Provider)
	line("Account", "%s (%s)", s.AccountName, s.AccountID)
	line("Identity", "%s, certificate until %s", s.KeyGrade, s.CertificateUntil.Format(time.DateOnly))
	line("Broker", "%s", brokerLine(s.Broker))
	for _, m := range s.Hardening {
		line("Hardening", "%s: %s", m.Name, yesNo(m.Holds, m.Detail))
	}
	for _, v := range s.Volumes {
		line("", "")
		line("Volume", "%s (%s)", v.Name, v.DeviceID)
		line("  State", "%s since %s", v.State, v.Since.UTC().Format(time.RFC3339))
		optional(line, "  Why", v.Why)
		line("  Disk", "%s", v.Disk)
		optional(line, "  Export", strings.TrimSpace(v.Kind+" "+v.BlockDevice))
		optional(line, "  Mounted at", strings.TrimSpace(v.MountPoint+" "+v.Access))
		optional(line, "  Key kept in", v.KeyProtection)
		if v.RequestNumber != 0 {
			line("  Key request", "number %d, %s, integrity %s", v.RequestNumber, v.RequestStatus, v.Integrity)
		}
		if !v.State.HoldsKey() {
			optional(line, "  Waits for", v.WaitsFor)
			for _, f := range v.FailedRules {
				line("  Failed rule", "%s: found %s", f.Title, found(f))
			}
		}
		if v.State.HoldsKey() {
			line("  Lease", "ends in %s without contact", time.Duration(v.LeaseSeconds)*time.Second)
		}
		optional(line, "  Warning", v.Warning)
		if v.RevokeAt != nil {
			line("  Key taken", "at %s, unless the machine complies again", v.RevokeAt.UTC().Format(time.RFC3339))
		}
	}
	for _, j := range s.Jobs {
		line("", "")
		line("Encrypt job", "%s of %s: %s %d %% %s", j.ID, j.Device, j.Phase, j.Percent, j.Error)
	}
	for i, d := range s.Devices {
		if i == 0 {
			line("", "")
		}
		line("Device", "%s, %d bytes, holds %s, %s", d.Path, d.Size, d.Contents, cmp.Or(d.Status, "not known to the broker"))
	}
	return t.Flush()
}

// found is what a rule found of this machine, with who vouches for it.
func found(f api.Shortfall) string {
	if f.Grade == "" {
		return f.Actual
	}
	return fmt.Sprintf("%s (%s)", f.Actual, f.Grade)
}

func optional(line func(string, string, ...any), name, value string) {
	if value != "" {
		line(name, "%s", value)
	}
}

func brokerLine(b control.Broker) string {
	if b.Connected {
		return fmt.Sprintf("%s, connected, heartbeat every %d s", b.URL, b.HeartbeatSeconds)
	}
	last := "never reached"
	if b.LastContact != nil {
		last = "last reached " + b.LastContact.Format(time.RFC3339)
	}
	return fmt.Sprintf("%s, not connected, %s: %s", b.URL, last, cmp.Or(b.Error, "no call has ended yet"))
}

func yesNo(holds bool, detail string) string {
	if holds {
		return "yes"
	}
	return "no (" + detail + ")"
}
