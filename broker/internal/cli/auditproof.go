package cli

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"keyward/broker/api"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/server"
)

func auditProve(s *settings) *cobra.Command {
	var account, out string
	var record, from, to int64
	c := &cobra.Command{
		Use: "prove --account ACCOUNT (--record N | --from N [--to N])", Short: "Prove that a record is in the log, or that an earlier log is its beginning",
		Args: usage(cobra.NoArgs),
		Long: "Prove, with a few hashes and a signed checkpoint (RFC 9162), that a record is in an account's audit log, or that the log\n" +
			"that was signed at record --from is the beginning of the one signed at --to (default: now). audit verify checks the\n" +
			"proof without the broker.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			if (record == 0) == (from == 0) || to != 0 && from == 0 {
				return usageError{errors.New("name --record, or --from and perhaps --to")}
			}
			return operate(s, c, func(o *server.Operator) error {
				p, err := o.Account(c.Context(), account)
				if err != nil {
					return err
				}
				var raw []byte
				if record != 0 {
					raw, err = o.Audit.ProveRecord(c.Context(), p, record)
				} else {
					raw, err = o.Audit.ProveConsistency(c.Context(), p, from, to)
				}
				if err != nil {
					return err
				}
				return writeTo(out, c.OutOrStdout(), func(w io.Writer) error { _, err := w.Write(raw); return err })
			})
		},
	}
	c.Flags().StringVar(&account, "account", "", "`name` or ID of the account")
	c.Flags().StringVar(&out, "out", "", "`file` to write (default: standard output)")
	c.Flags().Int64Var(&record, "record", 0, "`number` of the record to prove")
	c.Flags().Int64Var(&from, "from", 0, "`number` of the record that the earlier checkpoint signs")
	c.Flags().Int64Var(&to, "to", 0, "`number` of the record that the later one signs")
	required(c, "account")
	return c
}

func auditRotate(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "rotate-key", Short: "Change the key that signs audit logs", Args: usage(cobra.NoArgs),
		Long: "Make a new key that signs audit logs. The old key signs the new one and the new one the old one, so logs of both verify\n" +
			"with either. Give the new audit.pem of the data folder to auditors, then restart the broker; brokers that share the\n" +
			"database get copies of audit.pem, audit.key.wrapped and audit.keys.json.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			return operate(s, c, func(o *server.Operator) error {
				change, err := o.RotateAuditKey(c.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), map[string]any{"number": change.Number, "old": chain.KeyID(change.Old), "new": chain.KeyID(change.New), "at": change.At})
				}
				fmt.Fprintf(c.OutOrStdout(), "Audit logs are signed by key %s now, which follows %s. Restart the broker; give auditors the new audit.pem.\n", chain.KeyID(change.New), chain.KeyID(change.Old))
				return nil
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// isProof looks at the beginning of a file.
func isProof(r *bufio.Reader) bool {
	start, _ := r.Peek(len(`{"format":"`) + len(chain.ProofFormat))
	return bytes.HasSuffix(start, []byte(chain.ProofFormat))
}

// proofVerification is what audit verify --json prints of a proof.
type proofVerification struct {
	OK        bool             `json:"ok"`
	AccountID string           `json:"account_id,omitempty"`
	Record    *api.AuditRecord `json:"record,omitempty"`
	From      int64            `json:"from,omitempty"`
	To        int64            `json:"to,omitempty"`
	Root      string           `json:"root,omitempty"`
	KeyID     string           `json:"key_id,omitempty"`
	Trusted   bool             `json:"trusted"`
	Problem   string           `json:"problem,omitempty"`
}

// proofLimit bounds what is read of a proof, in bytes.
const proofLimit = 2 << 20

func verifyProof(w io.Writer, in io.Reader, o chain.Options, asJSON bool) error {
	data, err := io.ReadAll(io.LimitReader(in, proofLimit))
	if err != nil {
		return usageError{fmt.Errorf("reading the proof: %w", err)}
	}
	r, wrong := chain.VerifyProof(data, o)
	if asJSON {
		v := proofVerification{OK: wrong == nil, AccountID: r.AccountID, Record: r.Record, From: r.From, To: r.To, Root: hex.EncodeToString(r.Root),
			KeyID: r.KeyID, Trusted: r.Trusted}
		if wrong != nil {
			v.Problem = wrong.Error()
		}
		if err := printJSON(w, v); err != nil {
			return err
		}
	}
	if wrong != nil {
		return fmt.Errorf("the proof does NOT hold: %w", wrong)
	}
	if asJSON {
		return nil
	}
	if r.Record != nil {
		fmt.Fprintf(w, "Record %d (%s by %s) is in the log of account %s as it was signed at record %d.\n", r.Record.Sequence, r.Record.Event, r.Record.Actor, r.AccountID, r.To)
	} else {
		fmt.Fprintf(w, "The log of account %s as it was signed at record %d is the beginning of the one signed at record %d.\n", r.AccountID, r.From, r.To)
	}
	if r.Trusted {
		fmt.Fprintf(w, "Signed by the trusted key, or one that follows it: %s.\n", r.KeyID)
	} else {
		fmt.Fprintf(w, "Signed by key %s, which the proof brings along: give --key to check whose it is.\n", r.KeyID)
	}
	return nil
}
