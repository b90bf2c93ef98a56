package cli

import (
	"bufio"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/server"
)

func auditCommand(s *settings) *cobra.Command {
	return group("audit", "Export, prove and verify audit logs, and change the key that signs them", auditExport(s), auditProve(s), auditVerify(), auditRotate(s))
}

func auditExport(s *settings) *cobra.Command {
	var account, out, format, category, from, to string
	c := &cobra.Command{
		Use: "export --account ACCOUNT", Short: "Export an account's audit log", Args: usage(cobra.NoArgs),
		Long: "Export an account's audit log: jsonl, which audit verify checks, or csv, for a spreadsheet. Times are UTC.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			f := audit.Filter{Category: category}
			for _, limit := range []struct {
				text string
				to   *time.Time
			}{{from, &f.From}, {to, &f.To}} {
				if limit.text == "" {
					continue
				}
				t, err := time.Parse(time.RFC3339, limit.text)
				if err != nil {
					return usageError{fmt.Errorf("%q is not a time such as 2026-11-22T00:00:00Z", limit.text)}
				}
				*limit.to = t
			}
			if format != "jsonl" && format != "csv" {
				return usageError{fmt.Errorf("format %q is not jsonl or csv", format)}
			}
			if format == "jsonl" && category != "" {
				return usageError{errors.New("a verifiable export has all categories; use --format csv for one")}
			}
			return operate(s, c, func(o *server.Operator) error {
				p, err := o.Account(c.Context(), account)
				if err != nil {
					return err
				}
				return writeTo(out, c.OutOrStdout(), func(w io.Writer) error {
					if format == "csv" {
						return o.Audit.ExportCSV(c.Context(), p, f, w)
					}
					return o.Audit.ExportJSONL(c.Context(), p, f, w)
				})
			})
		},
	}
	c.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	c.Flags().StringVar(&out, "out", "", "`file` to write, whole or not at all (default: standard output)")
	c.Flags().StringVar(&format, "format", "jsonl", "jsonl or csv")
	c.Flags().StringVar(&category, "category", "", "with csv: agent, key, policy, user or server")
	c.Flags().StringVar(&from, "from", "", "first `time`")
	c.Flags().StringVar(&to, "to", "", "`time` before which to end")
	required(c, "account")
	return c
}

// writeTo writes a file whole or not at all, or to standard output.
func writeTo(name string, stdout io.Writer, f func(io.Writer) error) error {
	if name == "" {
		return f(stdout)
	}
	out, err := renameio.NewPendingFile(name, renameio.WithPermissions(0o600))
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer out.Cleanup()
	if err := f(out); err != nil {
		return err
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// verification is what audit verify --json prints.
type verification struct {
	OK          bool   `json:"ok"`
	AccountID   string `json:"account_id,omitempty"`
	AccountName string `json:"account_name,omitempty"`
	Records     int64  `json:"records"`
	First       int64  `json:"first"`
	Last        int64  `json:"last"`
	SignedTo    int64  `json:"signed_to"`
	Checkpoints int64  `json:"checkpoints"`
	Roots       int64  `json:"roots"`
	// Deleted are the records that are not there because an auditor deleted them.
	Deleted    int64      `json:"deleted,omitempty"`
	Head       string     `json:"head,omitempty"`
	KeyID      string     `json:"key_id,omitempty"`
	Trusted    bool       `json:"trusted"`
	ExportedAt *time.Time `json:"exported_at,omitempty"`
	// Problem, Line and Record say what is wrong and where.
	Problem string `json:"problem,omitempty"`
	Line    int64  `json:"line,omitempty"`
	Record  int64  `json:"record,omitempty"`
}

func auditVerify() *cobra.Command {
	var keyFile string
	var asJSON bool
	c := &cobra.Command{
		Use: "verify FILE", Short: "Verify an exported audit log or a proof, without the broker", Args: usage(cobra.ExactArgs(1)),
		Long: "Verify an exported audit log (jsonl; - is standard input) or a proof of audit prove. It needs neither the broker nor its\n" +
			"data folder.\n" +
			"With --key, the audit.pem of the broker's data folder obtained in a way that you trust, it also shows that this broker\n" +
			"wrote the log; without it, only that the log is whole by the key that it brings along.\n\n" +
			"Exit codes: 0 the log is whole; 1 it is not, and the output says where; 2 it could not be checked.",
		RunE: func(c *cobra.Command, args []string) error {
			var o chain.Options
			if keyFile != "" {
				key, err := readKey(keyFile)
				if err != nil {
					return usageError{err}
				}
				o.TrustedKey = key
			}
			in := c.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return usageError{err}
				}
				defer f.Close()
				in = f
			}
			whole := bufio.NewReaderSize(in, 64<<10)
			if isProof(whole) {
				return verifyProof(c.OutOrStdout(), whole, o, asJSON)
			}
			r, err := chain.Verify(whole, o)
			var p *chain.Problem
			if err != nil && !errors.As(err, &p) {
				return usageError{err}
			}
			if asJSON {
				if err := printJSON(c.OutOrStdout(), verified(r, p)); err != nil {
					return err
				}
			} else if p == nil {
				printVerified(c.OutOrStdout(), r)
			}
			if p != nil {
				return fmt.Errorf("the log is NOT what a broker wrote: %w", p)
			}
			return nil
		},
	}
	c.Flags().StringVar(&keyFile, "key", "", "PEM `file` of the broker's public key for audit logs")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func verified(r chain.Report, p *chain.Problem) verification {
	v := verification{OK: p == nil, AccountID: r.AccountID, AccountName: r.AccountName, Records: r.Records, First: r.First, Last: r.Last,
		SignedTo: r.SignedTo, Checkpoints: r.Checkpoints, Roots: r.Roots, Head: hex.EncodeToString(r.Head), KeyID: r.KeyID, Trusted: r.Trusted}
	if !r.ExportedAt.IsZero() {
		v.ExportedAt = &r.ExportedAt
	}
	if n := len(r.Deleted); n > 0 {
		v.Deleted = r.Deleted[n-1].Last
	}
	if p != nil {
		v.Problem, v.Line, v.Record = p.What, p.Line, p.Sequence
	}
	return v
}

func printVerified(w io.Writer, r chain.Report) {
	fmt.Fprintf(w, "The log of account %q (%s) is whole: %d records, %d to %d, exported %s.\n", r.AccountName, r.AccountID, r.Records, r.First, r.Last, r.ExportedAt.Format(time.RFC3339))
	fmt.Fprintf(w, "%d checkpoints, the last at record %d, %d of them with a tree that was checked; the end is signed by the export itself.\n", r.Checkpoints, r.SignedTo, r.Roots)
	for _, t := range r.Deleted {
		fmt.Fprintf(w, "Records %d to %d, of %s to %s, were deleted on %s by %s: %s\n", t.First, t.Last, t.Since.Format(time.DateOnly),
			t.Until.Format(time.DateOnly), t.At.Format(time.DateOnly), t.Actor, t.Reason)
	}
	if r.Trusted {
		fmt.Fprintf(w, "Signed by the trusted key %s.\n", r.KeyID)
	} else {
		fmt.Fprintf(w, "Signed by key %s, which the log brings along: give --key to check whose it is.\n", r.KeyID)
	}
}

func readKey(name string) (ed25519.PublicKey, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("reading the key: %s is not PEM; take audit.pem of the broker's data folder", name)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the key in %s: %w", name, err)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("reading the key: %s holds no Ed25519 public key; take audit.pem of the broker's data folder", name)
	}
	return key, nil
}
