package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"keyward/agent/internal/daemon"
)

func (a *app) renewCommand() *cobra.Command {
	return &cobra.Command{
		Use: "renew", Args: cobra.NoArgs,
		Short: "Renew this machine's certificate now",
		Long: "Renew asks the broker for another certificate for the key that this machine has. A running agent does so by itself\n" +
			"when a third of the certificate's life is left.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := a.load()
			if err != nil {
				return err
			}
			id, err := daemon.Renew(cmd.Context(), cfg)
			if err != nil {
				return coded{brokerCode(err), err}
			}
			fmt.Fprintf(a.out, "certificate of instance %s renewed until %s\n", id.InstanceID, id.NotAfter().UTC().Format(time.RFC3339))
			return nil
		},
	}
}
