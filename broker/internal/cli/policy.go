package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"keyward/broker/internal/policyfile"
	"keyward/broker/internal/server"
)

func policyCommand(s *settings) *cobra.Command {
	return group("policy", "Keep policies as files", policyExport(s), policyPlan(s), policyApply(s))
}

func policyExport(s *settings) *cobra.Command {
	var account, out string
	c := &cobra.Command{
		Use: "export --account ACCOUNT", Short: "Write an account's policies as YAML", Args: usage(cobra.NoArgs),
		Long: "Write an account's policies, the same that the console shows, as YAML. Applying the file changes nothing.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			return operate(s, c, func(o *server.Operator) error {
				p, err := o.Account(c.Context(), account)
				if err != nil {
					return err
				}
				f, err := o.Files.Export(c.Context(), p)
				if err != nil {
					return err
				}
				return writeTo(out, c.OutOrStdout(), func(w io.Writer) error { return policyfile.Encode(w, f) })
			})
		},
	}
	c.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	c.Flags().StringVar(&out, "out", "", "`file` to write, whole or not at all (default: standard output)")
	required(c, "account")
	return c
}

const planHelp = `Exit codes: 0 nothing to do; 2 there are changes; 1 failed, also when the command line or a file is wrong.`

func policyPlan(s *settings) *cobra.Command {
	var account, out string
	var remove, asJSON bool
	c := &cobra.Command{
		Use: "plan FILE --account ACCOUNT", Short: "Show what applying a file would change, and change nothing", Args: cobra.ExactArgs(1),
		Long: "Show what applying a policy file would change (- is standard input), line by line, and what that would do with the\n" +
			"machines of today. It changes nothing, so a timer may run it to notice drift by its exit code. Policies that the file\n" +
			"does not have stay, unless --delete says otherwise. --out keeps the plan for policy apply --plan.\n\n" + planHelp,
		RunE: func(c *cobra.Command, args []string) error {
			return notUsage(operate(s, c, func(o *server.Operator) error {
				f, err := readPolicies(args[0], c.InOrStdin())
				if err != nil {
					return err
				}
				p, err := o.Account(c.Context(), account)
				if err != nil {
					return err
				}
				plan, err := o.Files.Plan(c.Context(), p, f, remove)
				if err != nil {
					return err
				}
				if out != "" {
					if err := writeTo(out, nil, func(w io.Writer) error { return printJSON(w, plan) }); err != nil {
						return err
					}
				}
				if err := showPlan(c.OutOrStdout(), plan, asJSON); err != nil {
					return err
				}
				if !plan.Empty() {
					return exitCode(exitChanges)
				}
				return nil
			}))
		},
	}
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return err })
	c.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	c.Flags().StringVar(&out, "out", "", "`file` to keep the plan in, for policy apply --plan")
	c.Flags().BoolVar(&remove, "delete", false, "plan to delete policies that the file does not have")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	required(c, "account")
	check := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error { return notUsage(check(c, args)) }
	return c
}

func policyApply(s *settings) *cobra.Command {
	var account, planned string
	var remove, asJSON bool
	c := &cobra.Command{
		Use: "apply FILE --account ACCOUNT", Short: "Make an account's policies those of a file", Args: usage(cobra.ExactArgs(1)),
		Long: "Make an account's policies those of a file (- is standard input), all or nothing, and show what changed. Policies that\n" +
			"the file does not have stay, unless --delete says otherwise. With --plan, a plan that policy plan --out kept, nothing\n" +
			"is done unless exactly that plan would be carried out. No key is taken away by it: machines that hold keys are judged\n" +
			"by the new policies when they are checked.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			return operate(s, c, func(o *server.Operator) error {
				f, err := readPolicies(args[0], c.InOrStdin())
				if err != nil {
					return usageError{err}
				}
				var saved *policyfile.Plan
				if planned != "" {
					if saved, err = readPlan(planned); err != nil {
						return usageError{err}
					}
				}
				p, err := o.Account(c.Context(), account)
				if err != nil {
					return err
				}
				plan, err := o.Files.Plan(c.Context(), p, f, remove)
				if err != nil {
					return err
				}
				if saved == nil {
					saved = &plan // what is shown is what is done
				}
				done, err := o.Files.Apply(c.Context(), p, f, remove, saved)
				if err != nil {
					return err
				}
				done.Preview = plan.Preview
				if err := showPlan(c.OutOrStdout(), done, asJSON); err != nil || asJSON || done.Empty() {
					return err
				}
				_, err = fmt.Fprintln(c.OutOrStdout(), "Applied.")
				return err
			})
		},
	}
	c.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	c.Flags().StringVar(&planned, "plan", "", "`file` of the plan that is to be carried out")
	c.Flags().BoolVar(&remove, "delete", false, "delete policies that the file does not have")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	required(c, "account")
	return c
}

// notUsage makes an error of the caller an ordinary failure: exit code 2 means something else for this command.
func notUsage(err error) error {
	var u usageError
	if errors.As(err, &u) {
		return errors.New(err.Error())
	}
	return err
}

func readPolicies(name string, stdin io.Reader) (policyfile.File, error) {
	if name == "-" {
		return policyfile.Decode(stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return policyfile.File{}, fmt.Errorf("reading the policy file: %w", err)
	}
	defer f.Close()
	return policyfile.Decode(f)
}

// readPlan reads what policy plan --out kept.
func readPlan(name string) (*policyfile.Plan, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading the plan: %w", err)
	}
	defer f.Close()
	var plan policyfile.Plan
	if err := json.NewDecoder(io.LimitReader(f, 8*policyfile.MaxBytes)).Decode(&plan); err != nil || plan.Base == "" || plan.Target == "" {
		return nil, fmt.Errorf("%s holds no plan; keyward-broker policy plan --out writes one", name)
	}
	if plan.Format != policyfile.Format {
		return nil, fmt.Errorf("the plan in %s has format %d; make a new one with this program", name, plan.Format)
	}
	return &plan, nil
}
