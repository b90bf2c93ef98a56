package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyward/broker/internal/backup"
	"keyward/broker/internal/server"
)

func backupCommand(s *settings) *cobra.Command {
	return group("backup", "Back the broker up into one encrypted file, and restore it", backupCreate(s), backupVerify(s), backupRestore(s))
}

func backupCreate(s *settings) *cobra.Command {
	var recipients []string
	var passphrase, out string
	var withRoot, quiet bool
	c := &cobra.Command{
		Use: "create --out FILE (--recipient KEY | --passphrase-from FILE)", Short: "Write a backup, also beside a serving broker", Args: usage(cobra.NoArgs),
		Long: "Write everything that makes the broker into one file: database, certificate authority, audit logs and their key. It holds one state\n" +
			"of the database, whoever writes meanwhile. The file is encrypted for recipients (age-keygen makes a pair; keep the identity away\n" +
			"from the broker) or under a passphrase of 12 bytes or more. An existing file is not replaced.\n" +
			"The root key is NOT in it: file and root key together open every volume, so they belong in different places, and a backup that\n" +
			"is stolen is worth nothing. --include-root-key puts it in all the same, where one file in a safe is what you want.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, _ []string) error {
			phrase, err := readPhrase(passphrase)
			if err != nil {
				return err
			}
			to, err := backup.Lock(recipients, phrase)
			if err != nil {
				return usageError{err}
			}
			if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s exists: name a new file for each backup", out)
			}
			return operate(s, c, func(o *server.Operator) error {
				if err := writeTo(out, c.OutOrStdout(), func(w io.Writer) error {
					return o.Backup(c.Context(), w, to, withRoot, rowsRead(c.ErrOrStderr(), quiet))
				}); err != nil {
					return err
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "The backup is in %s. Try it with keyward-broker backup verify.\n", out)
				return err
			})
		},
	}
	c.Flags().StringVar(&out, "out", "", "`file` to write, whole or not at all")
	c.Flags().StringSliceVar(&recipients, "recipient", nil, "public `key` of who can open it, such as age1...; may be repeated")
	c.Flags().StringVar(&passphrase, "passphrase-from", "", "`file` with the passphrase that opens it, - for standard input")
	c.Flags().BoolVar(&withRoot, "include-root-key", false, "put the root key into the backup too")
	c.Flags().BoolVar(&quiet, "quiet", false, "show no progress")
	required(c, "out")
	return c
}

func backupVerify(s *settings) *cobra.Command {
	var identity, passphrase string
	var asJSON, quiet bool
	c := &cobra.Command{
		Use: "verify FILE (--identity FILE | --passphrase-from FILE)", Short: "Prove that a backup can be restored", Args: usage(cobra.ExactArgs(1)),
		Long: "Read every byte of a backup and restore it into a temporary folder, which is removed again. With --root-key it also opens every\n" +
			"account's key and verifies every audit log; without, it says that it did not. It needs no other part of a broker.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			config, by, err := s.opening(c, identity, passphrase)
			if err != nil {
				return err
			}
			r, err := server.VerifyBackup(c.Context(), config, args[0], by, rowsRead(c.ErrOrStderr(), quiet))
			if err != nil {
				return err
			}
			return found(c.OutOrStdout(), r, "The backup is whole and can be restored.", asJSON)
		},
	}
	openingFlags(c, &identity, &passphrase, &asJSON, &quiet)
	return c
}

func backupRestore(s *settings) *cobra.Command {
	var identity, passphrase string
	var restoreRoot, asJSON, quiet bool
	c := &cobra.Command{
		Use: "restore FILE (--identity FILE | --passphrase-from FILE)", Short: "Make a broker of a backup", Args: usage(cobra.ExactArgs(1)),
		Long: "Fill the data folder (--data) and the database (--dsn), both empty, from a backup, of either kind of database into either. It reads the\n" +
			"whole backup and opens every account's key with the root key before it writes anything, and verifies the audit logs afterwards.\n" +
			"Everybody logs on again; machines come back by themselves when the broker has its old names.\n\n" + exitHelp,
		RunE: func(c *cobra.Command, args []string) error {
			config, by, err := s.opening(c, identity, passphrase)
			if err != nil {
				return err
			}
			r, err := server.Restore(c.Context(), config, args[0], by, restoreRoot, rowsRead(c.ErrOrStderr(), quiet))
			if err != nil {
				return err
			}
			return found(c.OutOrStdout(), r, "The broker is restored. Start it with keyward-broker serve.", asJSON)
		},
	}
	openingFlags(c, &identity, &passphrase, &asJSON, &quiet)
	c.Flags().BoolVar(&restoreRoot, "restore-root-key", false, "write the root key of the backup to the file that --root-key names, which must not exist")
	return c
}

func openingFlags(c *cobra.Command, identity, passphrase *string, asJSON, quiet *bool) {
	c.Flags().StringVar(identity, "identity", "", "`file` of the age identity that opens it")
	c.Flags().StringVar(passphrase, "passphrase-from", "", "`file` with the passphrase that opens it, - for standard input")
	c.Flags().BoolVar(asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(quiet, "quiet", false, "show no progress")
}

// opening reads the settings and what opens a backup.
func (s *settings) opening(c *cobra.Command, identity, passphrase string) (server.Config, backup.Identities, error) {
	config, err := s.load(c.Flags())
	if err != nil {
		return config, nil, err
	}
	phrase, err := readPhrase(passphrase)
	if err != nil {
		return config, nil, err
	}
	var text []byte
	if identity != "" {
		if text, err = os.ReadFile(identity); err != nil {
			return config, nil, usageError{fmt.Errorf("reading the identity: %w", err)}
		}
	}
	by, err := backup.Unlock(text, phrase)
	if err != nil {
		return config, nil, usageError{err}
	}
	return config, by, nil
}

// readPhrase reads a passphrase from a file; an empty name is none.
func readPhrase(from string) (string, error) {
	if from == "" {
		return "", nil
	}
	in := io.Reader(os.Stdin)
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return "", usageError{fmt.Errorf("reading the passphrase: %w", err)}
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, 64<<10))
	if err != nil {
		return "", fmt.Errorf("reading the passphrase: %w", err)
	}
	text := strings.TrimRight(string(b), "\r\n")
	if text == "" {
		return "", usageError{fmt.Errorf("%s holds no passphrase", from)}
	}
	return text, nil
}

// rowsRead writes how many rows went by, once a second.
func rowsRead(w io.Writer, quiet bool) func(int64) {
	var last time.Time
	return func(rows int64) {
		if !quiet && time.Since(last) >= time.Second {
			last = time.Now()
			fmt.Fprintf(w, "%d rows\n", rows)
		}
	}
}

func found(w io.Writer, r *server.Restored, says string, asJSON bool) error {
	if asJSON {
		return printJSON(w, r)
	}
	var rows int64
	for _, n := range r.Rows {
		rows += n
	}
	fmt.Fprintf(w, "%s\nMade %s by version %s from %s: %d accounts, %d rows. Root key %s.\n", says, r.Header.CreatedAt.Format(time.RFC3339), r.Header.Program, r.Header.Database,
		r.Rows["accounts"], rows, r.Header.RootKeyID)
	if r.Keys == 0 {
		_, err := fmt.Fprintln(w, "No key was opened and no audit log verified: that needs the root key (--root-key).")
		return err
	}
	_, err := fmt.Fprintf(w, "Keys of accounts opened: %d. Audit logs verified: %d.\n", r.Keys, r.Logs)
	return err
}
