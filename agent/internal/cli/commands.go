package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"keyward/agent/internal/control"
)

// simple is a command that is one question to the running agent.
func (a *app) simple(use, short string, args cobra.PositionalArgs, op control.Op) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		r := control.Request{Op: op}
		if len(args) > 0 {
			r.Device = args[0]
		}
		answer, err := a.ask(cmd.Context(), r)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(a.out, answer.Text)
		return err
	}}
}

func (a *app) publishCommand() *cobra.Command {
	return a.simple("publish", "Look for devices now and show them to the broker", cobra.NoArgs, control.OpPublish)
}

func (a *app) requestCommand() *cobra.Command {
	return a.simple("request DEVICE", "Ask the broker for the key of a volume (ID, name or disk)", cobra.ExactArgs(1), control.OpRequest)
}

func (a *app) lockCommand() *cobra.Command {
	return a.simple("lock DEVICE", "Unmount a volume and wipe its key (ID, name, disk or mount point)", cobra.ExactArgs(1), control.OpLock)
}

func (a *app) checkCommand() *cobra.Command {
	return a.simple("check", "Have the broker judge this machine now, and print what comes of it", cobra.NoArgs, control.OpCheck)
}

func (a *app) stopCommand() *cobra.Command {
	return a.simple("stop", "Unmount everything and end the running agent", cobra.NoArgs, control.OpStop)
}
