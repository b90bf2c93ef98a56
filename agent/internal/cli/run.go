package cli

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"keyward/agent/internal/daemon"
	"keyward/agent/internal/harden"
	"keyward/nbdcrypt/nbd"
)

func (a *app) runCommand() *cobra.Command {
	return &cobra.Command{
		Use: "run", Args: cobra.NoArgs,
		Short: "Run the agent until it is stopped",
		Long: "Run asks for the keys of this machine's volumes, mounts them and keeps them mounted for as long as the broker\n" +
			"agrees. It logs to standard error. On SIGTERM it runs the teardown script, unmounts, and wipes every key.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := a.load()
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return fmt.Errorf("the agent mounts file systems and must run as root; run: sudo keyward-agent run")
			}
			harden.Reexec(cmd.Context())
			nbd.SpareProcessors()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: cfg.Level()}))
			return daemon.Run(ctx, daemon.Options{Config: cfg, Version: Version, Logger: log, Harden: harden.Apply})
		},
	}
}
