package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyward/broker/api"
	"keyward/broker/internal/server"
)

func initCommand(s *settings) *cobra.Command {
	var account, admin, approver string
	var asJSON bool
	c := &cobra.Command{
		Use: "init --data DIR --root-key FILE [--account NAME]", Short: "Set a broker up", Args: usage(cobra.NoArgs),
		Long: "Make the root key, the certificate authority, the audit key and the database, and a first account when it is named.\n" +
			"What is there already is used and never replaced. Passwords are printed once and kept nowhere.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			config, err := s.load(c.Flags())
			if err != nil {
				return err
			}
			setup, err := server.Init(c.Context(), config, account, admin, approver)
			if err != nil {
				return err
			}
			if setup == nil {
				setup = &server.Setup{}
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), setup)
			}
			fmt.Fprintf(c.OutOrStdout(), "The broker is set up in %s. Keep a backup of it and, in another place, of the root key %s:\nwithout the root key no volume can be opened again.\n", config.Data, config.RootKey)
			printSetup(c.OutOrStdout(), setup)
			return nil
		},
	}
	c.Flags().StringVar(&account, "account", "", "`name` of the first account")
	c.Flags().StringVar(&admin, "admin", "admin", "`name` of its Account Administrator")
	c.Flags().StringVar(&approver, "approver", "", "`name` of a Key Approver; none by default")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printSetup(w io.Writer, s *server.Setup) {
	if s.AccountID == "" {
		return
	}
	fmt.Fprintf(w, "\nAccount  %s\nID       %s\n", s.AccountName, s.AccountID)
	fmt.Fprintf(w, "Account Administrator  %s  password  %s\n", s.Admin.Name, s.Admin.Password)
	if s.Approver != nil {
		fmt.Fprintf(w, "Key Approver           %s  password  %s\n", s.Approver.Name, s.Approver.Password)
	}
	fmt.Fprintln(w, "The passwords are shown this once; change them after the first log-on.")
}

// operate opens the broker for one command.
func operate(s *settings, c *cobra.Command, f func(*server.Operator) error) error {
	config, err := s.load(c.Flags())
	if err != nil {
		return err
	}
	o, err := server.OpenOperator(c.Context(), config)
	if err != nil {
		return err
	}
	defer o.Close()
	return f(o)
}

func accountCommand(s *settings) *cobra.Command {
	var admin, approver string
	var asJSON bool
	create := &cobra.Command{
		Use: "create NAME", Short: "Create an account", Args: usage(cobra.ExactArgs(1)),
		Long: "Create an account with its first Account Administrator. Passwords are printed once and kept nowhere.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			return operate(s, c, func(o *server.Operator) error {
				setup, err := o.NewAccount(c.Context(), args[0], admin, approver)
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), setup)
				}
				printSetup(c.OutOrStdout(), setup)
				return nil
			})
		},
	}
	create.Flags().StringVar(&admin, "admin", "admin", "`name` of its Account Administrator")
	create.Flags().StringVar(&approver, "approver", "", "`name` of a Key Approver; none by default")
	create.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return group("account", "Manage accounts", create)
}

func userCommand(s *settings) *cobra.Command {
	var account, role, display, email string
	var asJSON bool
	create := &cobra.Command{
		Use: "create NAME --account ACCOUNT --role ROLE", Short: "Add a user to an account", Args: usage(cobra.ExactArgs(1)),
		Long: "Add a user to an account, for example when nobody can log on any more. The password is printed once and kept nowhere.\n" +
			"Roles: account-administrator, security-administrator, data-analyst, auditor, key-approver.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			return operate(s, c, func(o *server.Operator) error {
				u, login, err := o.NewUser(c.Context(), account, api.UserWrite{Name: args[0], Role: api.Role(role), DisplayName: display, Email: email})
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), struct {
						ID   string   `json:"id"`
						Role api.Role `json:"role"`
						*server.Login
					}{u.ID, u.Role, login})
				}
				fmt.Fprintf(c.OutOrStdout(), "User %s (%s)  password  %s\nThe password is shown this once; it should be changed after the first log-on.\n", u.Name, u.Role, login.Password)
				return nil
			})
		},
	}
	create.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	create.Flags().StringVar(&role, "role", "", "the user's `role`")
	create.Flags().StringVar(&display, "display-name", "", "`name` shown to people")
	create.Flags().StringVar(&email, "email", "", "email `address`")
	create.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	required(create, "account", "role")
	return group("user", "Manage users", create, resetFactorCommand(s))
}

func resetFactorCommand(s *settings) *cobra.Command {
	var account string
	var asJSON bool
	c := &cobra.Command{
		Use: "reset-second-factor NAME --account ACCOUNT", Short: "Take a user's second factor away", Args: usage(cobra.ExactArgs(1)),
		Long: "Take the second factor of a user away who lost it, for example when no other Account Administrator can. The user's sessions\n" +
			"end, and the password alone opens the log-on until a new second factor is set up. It is in the account's audit log.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			return operate(s, c, func(o *server.Operator) error {
				if err := o.ResetFactor(c.Context(), account, args[0]); err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), struct {
						Name  string `json:"name"`
						Reset bool   `json:"second_factor_reset"`
					}{args[0], true})
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "The second factor of %s was reset, and the user's sessions were ended.\n", args[0])
				return err
			})
		},
	}
	c.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	required(c, "account")
	return c
}

func tokenCommand(s *settings) *cobra.Command {
	var account, description string
	var uses int
	var life time.Duration
	var asJSON bool
	create := &cobra.Command{
		Use: "create --account ACCOUNT", Short: "Make an enrolment token", Args: usage(cobra.NoArgs),
		Long: "Make an enrolment token, which machines trade for a client certificate. It is printed once; the broker keeps a hash.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			return operate(s, c, func(o *server.Operator) error {
				t, err := o.NewToken(c.Context(), account, api.EnrolmentTokenWrite{Description: description, Uses: uses, ExpireSeconds: int64(life / time.Second)})
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), t)
				}
				_, err = fmt.Fprintln(c.OutOrStdout(), t.Token)
				return err
			})
		},
	}
	create.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	create.Flags().StringVar(&description, "description", "", "`text` for people")
	create.Flags().IntVar(&uses, "uses", 1, "`number` of machines that may use it")
	create.Flags().DurationVar(&life, "expires", 24*time.Hour, "how long it is valid, such as 90m or 48h")
	create.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	required(create, "account")
	return group("token", "Manage enrolment tokens", create)
}

// required refuses a command that lacks flags, before it does anything.
func required(c *cobra.Command, names ...string) {
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		var missing []string
		for _, n := range names {
			if f := c.Flags().Lookup(n); f.Value.String() == "" {
				missing = append(missing, "--"+n)
			}
		}
		if len(missing) > 0 {
			return usageError{fmt.Errorf("%s %s needed", strings.Join(missing, " and "), map[bool]string{true: "is", false: "are"}[len(missing) == 1])}
		}
		return nil
	}
}
