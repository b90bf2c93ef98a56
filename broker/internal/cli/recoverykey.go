package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"keyward/broker/api"
	"keyward/broker/internal/server"
)

// maxPublicKey is the longest file of a recovery public key that is read, in bytes.
const maxPublicKey = 16 << 10

func recoveryKeyCommand(s *settings) *cobra.Command {
	return group("recovery-key", "The key whose holders open volumes without the broker", recoveryShowCommand(s), recoverySetCommand(s), recoveryRemoveCommand(s))
}

// onRecovery adds what the three commands have in common.
func onRecovery(s *settings, c *cobra.Command, do func(c *cobra.Command, args []string, r *server.Recovery, asJSON bool) error) *cobra.Command {
	var account string
	var asJSON bool
	c.RunE = func(c *cobra.Command, args []string) error {
		return operate(s, c, func(o *server.Operator) error {
			r, err := o.Recovery(c.Context(), account)
			if err != nil {
				return err
			}
			return do(c, args, r, asJSON)
		})
	}
	c.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	required(c, "account")
	return c
}

func recoveryShowCommand(s *settings) *cobra.Command {
	return onRecovery(s, &cobra.Command{Use: "show --account ACCOUNT", Short: "Show who holds the recovery key, and which machines are ready", Args: usage(cobra.NoArgs),
		Long: "Show the account's recovery key, how many of its holders open an envelope, and which machines have the envelope that they should have.\n\n" + exitHelp},
		func(c *cobra.Command, _ []string, r *server.Recovery, asJSON bool) error {
			key, machines, err := r.Show(c.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), struct {
					api.RecoveryKey
					Machines []api.RecoveryMachine `json:"machines"`
				}{key, machines})
			}
			printRecoveryKey(c.OutOrStdout(), key)
			for _, m := range machines {
				fmt.Fprintf(c.OutOrStdout(), "%-8s  %s  %s\n", m.State, m.InstanceID, m.InstanceName)
			}
			return nil
		})
}

func recoverySetCommand(s *settings) *cobra.Command {
	return onRecovery(s, &cobra.Command{Use: "set FILE --account ACCOUNT", Short: "Set or replace the recovery key by its public half", Args: usage(cobra.ExactArgs(1)),
		Long: "Make the key of a file recovery-key.pub, as keyward-agent recovery-key wrote it, the account's. Machines fetch envelopes sealed to it from then on;\n" +
			"those that were sealed to the former key still open with its shares. Where the account wants several people to agree, it is refused:\n" +
			"a Security Administrator asks for it in the console.\n\n" + exitHelp},
		func(c *cobra.Command, args []string, r *server.Recovery, asJSON bool) error {
			f, err := os.Open(args[0])
			if err != nil {
				return usageError{fmt.Errorf("reading the recovery public key: %w", err)}
			}
			text, err := io.ReadAll(io.LimitReader(f, maxPublicKey+1))
			if err = errors.Join(err, f.Close()); err == nil && len(text) > maxPublicKey {
				err = fmt.Errorf("%s is longer than %d bytes, so it is no recovery public key", args[0], maxPublicKey)
			}
			if err != nil {
				return usageError{err}
			}
			key, err := r.Set(c.Context(), string(text))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), key)
			}
			printRecoveryKey(c.OutOrStdout(), key)
			return nil
		})
}

func recoveryRemoveCommand(s *settings) *cobra.Command {
	return onRecovery(s, &cobra.Command{Use: "remove --account ACCOUNT", Short: "Retire the recovery key: no further envelopes are made", Args: usage(cobra.NoArgs),
		Long: "Retire the account's recovery key. Envelopes that machines and people have stay good: this takes nothing back from the holders.\n\n" + exitHelp},
		func(c *cobra.Command, _ []string, r *server.Recovery, asJSON bool) error {
			if err := r.Remove(c.Context()); err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]bool{"removed": true})
			}
			_, err := fmt.Fprintln(c.OutOrStdout(), "The account has no recovery key any more. Envelopes that were made before still open with its shares.")
			return err
		})
}

func printRecoveryKey(w io.Writer, k api.RecoveryKey) {
	fmt.Fprintf(w, "Recovery key %s, set %s by %s\nOpens with %d of %d shares, held by %s\n", k.KeyID, k.CreatedAt.UTC().Format("2006-01-02 15:04:05 MST"), k.CreatedBy,
		k.Threshold, len(k.Holders), strings.Join(k.Holders, ", "))
}
