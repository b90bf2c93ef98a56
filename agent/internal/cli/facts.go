package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keyward/agent/internal/daemon"
	"keyward/broker/api"
)

func (a *app) factsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "facts", Args: cobra.NoArgs,
		Short: "Show the facts that this machine reports to its broker",
		Long: "Facts collects what the agent reports of this machine, as its configuration says, and shows it; nothing is sent. It\n" +
			"needs no running agent and no enrolment. Facts of a device (mount point, access) are absent.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := a.load()
			if err != nil {
				return err
			}
			e, err := daemon.Evidence(cmd.Context(), cfg, Version)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(a.out, e)
			}
			return printFacts(a.out, e.Facts)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, in the form of the agents' protocol")
	return cmd
}

// printFacts shows facts to a person. Long values are never cut.
func printFacts(w io.Writer, facts []api.Fact) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FACT\tVALUE\tSOURCE")
	for _, f := range facts {
		name, value := string(f.Name), strings.Join(f.Values, ", ")
		if f.Subject != "" {
			name += " " + f.Subject
		}
		switch {
		case f.Missing != "":
			value = "no data: " + f.Missing
		case len(f.Values) == 0:
			value = "none"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", name, strings.ReplaceAll(value, "\n", " | "), f.Source)
	}
	return t.Flush()
}
