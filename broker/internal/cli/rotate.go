package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"keyward/broker/api"
	"keyward/broker/internal/server"
)

func rotateDeviceCommand(s *settings) *cobra.Command {
	var account, reason string
	var cancel, asJSON bool
	c := &cobra.Command{
		Use: "device NAME --account ACCOUNT", Short: "Make a new key for a device's data, and the job that writes the data anew", Args: usage(cobra.ExactArgs(1)),
		Long: "Make a new key for the data of an encrypted device, by name or ID. It is kept beside the one that the volume has, which goes on opening it\n" +
			"until the device's machine has written the data anew; no agent of this release can do that yet, so the job waits and says so.\n" +
			"--cancel takes a rotation back that no machine has begun, and destroys its key.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			return operate(s, c, func(o *server.Operator) error {
				d, err := o.RotateDevice(c.Context(), account, args[0], api.KeyRotationWrite{Reason: reason}, cancel)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), d)
				}
				if cancel {
					_, err = fmt.Fprintf(c.OutOrStdout(), "The rotation of the key of %s was cancelled, and its key destroyed.\n", d.Name)
				} else {
					_, err = fmt.Fprintf(c.OutOrStdout(), "Key number %d waits for %s. The volume goes on with the key that it has until the job is done.\n", d.Rotation.Generation, d.Name)
				}
				return err
			})
		},
	}
	c.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	c.Flags().StringVar(&reason, "reason", "", "`text` for the audit log")
	c.Flags().BoolVar(&cancel, "cancel", false, "take the rotation back")
	c.Flags().BoolVar(&asJSON, "json", false, "print the device as JSON")
	required(c, "account")
	return c
}
