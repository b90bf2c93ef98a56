package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"keyward/broker/internal/keyring"
	"keyward/broker/internal/server"
)

func keyCommand(s *settings) *cobra.Command {
	return group("key", "Root, account and device keys: where they are, and rotation",
		keyListCommand(s), group("rotate", "Replace keys", rotateRootCommand(s), rotateAccountCommand(s), rotateDeviceCommand(s)))
}

func keyListCommand(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "list", Short: "List root keys and what they wrap", Args: usage(cobra.NoArgs),
		Long: "List the root keys that the database knows: where each is kept, how many accounts' keys it wraps, and whether this broker has it.\n" +
			"Of a key in OpenBao or Vault also the oldest version that wraps a key still, and whether a newer one waits to be used.\n" +
			"A retired root key wraps nothing any more, but backups from before need it.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			return operate(s, c, func(o *server.Operator) error {
				keys, err := o.Keys.List(c.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), keys)
				}
				for _, k := range keys {
					state := "not used"
					switch {
					case k.Active:
						state = "active"
					case k.RetiredAt != nil:
						state = "retired " + k.RetiredAt.UTC().Format(time.RFC3339)
					case k.Accounts > 0:
						state = "still used"
					}
					fmt.Fprintf(c.OutOrStdout(), "%s  %-10s  %-30s  wraps the keys of %d accounts  here: %v%s\n", k.ID, k.Provider, state, k.Accounts, k.Here, versionText(k))
				}
				return nil
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// versionText says which version of a root key is used, and whether there is a newer one.
func versionText(k keyring.RootKey) string {
	switch {
	case k.Trouble != "":
		return "  newest version: not known (" + k.Trouble + ")"
	case k.NewerWaits:
		return fmt.Sprintf("  version %d: version %d waits to be used (keyward-broker key rotate root)", k.Version, k.Newest)
	case k.Version > 0:
		return fmt.Sprintf("  version %d", k.Version)
	}
	return ""
}

func rotateRootCommand(s *settings) *cobra.Command {
	var to, passphrase string
	var asJSON bool
	c := &cobra.Command{
		Use: "root [--to KEY]", Short: "Rewrap every account's key with another root key", Args: usage(cobra.NoArgs),
		Long: "Rewrap every account's key, and the broker's own secrets, with another root key: a new one of the same kind, or one that is kept\n" +
			"elsewhere. Volumes and device keys are not touched, and machines notice nothing. --to names the new key as --root-key does; one that\n" +
			"is not there is made where that is possible. Brokers that run must have it as root-key-next already; without --to it is that one.\n" +
			"Without another key, one that is kept elsewhere (transit, PKCS#11, KMIP) wraps everything anew: after it got a newer version there.\n" +
			"A rotation that was cut off goes on when the command is repeated. The old root key is not touched: backups from before need it.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := s.load(c.Flags())
			if err != nil {
				return err
			}
			o, err := server.OpenRotation(c.Context(), config, to, passphrase)
			if err != nil {
				return err
			}
			defer o.Close()
			renews := o.Renews()
			root, err := o.RotateRoot(c.Context(), report(c.ErrOrStderr(), "accounts", asJSON))
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), map[string]string{"id": root.ID(), "provider": string(root.Provider())})
			}
			if renews {
				fmt.Fprintf(c.OutOrStdout(), "Root key %s (%s) has wrapped every account's key anew, with its newest version. Make a backup. Older versions may be\n"+
					"retired where the key is kept once no backup needs them and every broker has been restarted.\n", root.ID(), root.Provider().Text())
				return nil
			}
			fmt.Fprintf(c.OutOrStdout(), "Root key %s (%s) wraps every account's key now. Make it root-key in the settings of every broker, remove\n"+
				"root-key-next, restart them, and make a backup. Keep the old root key as long as backups that it opens.\n", root.ID(), root.Provider().Text())
			return nil
		},
	}
	c.Flags().StringVar(&to, "to", "", "the new root `key`, as --root-key names one")
	c.Flags().StringVar(&passphrase, "to-passphrase-from", "", "`file` with the passphrase of the new root key")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func rotateAccountCommand(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "account NAME", Short: "Give an account a new key and rewrap its devices' keys", Args: usage(cobra.ExactArgs(1)),
		Long: "Give an account, by name or ID, a new key and rewrap its devices' keys with it. Volumes are not touched, and machines notice nothing.\n" +
			"May run beside a serving broker. A rotation that was cut off goes on when the command is repeated.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			return operate(s, c, func(o *server.Operator) error {
				p, err := o.Account(c.Context(), args[0])
				if err != nil {
					return err
				}
				generation, err := o.Keys.RotateAccount(c.Context(), p, report(c.ErrOrStderr(), "device keys", asJSON))
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), map[string]any{"account_id": p.AccountID, "generation": generation})
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "The account's key is its generation %d now, and wraps every device's key.\n", generation)
				return err
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// report writes how far something is, once a second at most and at the end.
func report(w io.Writer, what string, quiet bool) keyring.Progress {
	var last time.Time
	return func(done, total int) {
		if quiet || done < total && time.Since(last) < time.Second {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "%d of %d %s\n", done, total, what)
	}
}
