package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"keyward/agent/internal/control"
	"keyward/agent/volume"
)

// upgradeWait is how long the agent may take to answer as the new program.
const upgradeWait = time.Minute

func (a *app) upgradeCommand() *cobra.Command {
	program := ""
	c := &cobra.Command{
		Use: "upgrade", Args: cobra.NoArgs,
		Short: "Let the running agent go on as its new program, with volumes mounted",
		Long: "Upgrade makes the running agent execute its program again, as it is on the disk now. Volumes on kernel NBD stay\n" +
			"mounted and programs on them wait for a moment. A volume attached by FUSE and loop cannot go along: then nothing\n" +
			"happens, and the volume has to be locked first. Keys and leases go along; the broker is not needed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if program != "" {
				path, err := filepath.Abs(program)
				if err != nil {
					return err
				}
				program = path
			}
			return a.upgrade(cmd.Context(), program)
		},
	}
	c.Flags().StringVar(&program, "program", "", "go on as this program instead")
	return c
}

func (a *app) upgrade(ctx context.Context, program string) error {
	before, err := a.ask(ctx, control.Request{Op: control.OpStatus})
	if err != nil {
		return err
	}
	answer, err := a.ask(ctx, control.Request{Op: control.OpUpgrade, Program: program})
	if answer.Error != "" || errors.Is(err, control.ErrNotRunning) {
		return err
	}
	// The program that would have answered is no more.
	ctx, cancel := context.WithTimeout(ctx, upgradeWait)
	defer cancel()
	for {
		now, err := a.ask(ctx, control.Request{Op: control.OpStatus})
		if err == nil && !now.Status.Started.Equal(before.Status.Started) {
			return a.upgraded(before.Status, now.Status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent (process %d) does not answer since it was told to upgrade: %w; see its log", before.Status.PID, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// upgraded says what became of the volumes.
func (a *app) upgraded(before, now *control.Status) error {
	is := map[string]volume.State{}
	for _, v := range now.Volumes {
		is[v.DeviceID] = v.State
	}
	kept, lost := 0, 0
	for _, v := range before.Volumes {
		if v.State != volume.Mounted {
			continue
		}
		if is[v.DeviceID] == volume.Mounted {
			kept++
		} else {
			lost++
		}
	}
	if _, err := fmt.Fprintf(a.out, "the agent goes on as %s, %d volumes stayed mounted\n", now.Version, kept); err != nil {
		return err
	}
	if lost > 0 {
		return fmt.Errorf("%d volumes wait for a new key; see: keyward-agent status", lost)
	}
	return nil
}
