package cli

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"keyward/agent/internal/harden"
	"keyward/broker/client/recovery"
)

func (a *app) recoveryKeyCommand() *cobra.Command {
	var threshold int
	var holders []string
	var out, passphrasesFile string
	cmd := &cobra.Command{
		Use: "recovery-key --holder NAME... --threshold K --out DIR --passphrases-file P", Args: cobra.NoArgs,
		Short: "Make a recovery key whose private half exists only as shares in the hands of its holders",
		Long: "Recovery-key makes the key pair of break glass, on any machine, without a broker. Each holder chooses a passphrase and\n" +
			"gets a share as a text file, to be printed; K shares together open what is sealed to the key, fewer say nothing of it.\n" +
			"The private half is nowhere once the command has ended. recovery-key.pub is for the broker. Passphrases are read\n" +
			"one a line, in the order of the holders; at a terminal each holder types theirs unseen, twice.",
		RunE: func(*cobra.Command, []string) error { return a.recoveryKey(holders, threshold, out, passphrasesFile) },
	}
	cmd.Flags().StringArrayVar(&holders, "holder", nil, "name of a holder; once for each")
	cmd.Flags().IntVar(&threshold, "threshold", 0, "how many holders it takes, 2 or more")
	cmd.Flags().StringVar(&out, "out", "", "folder for the files; it must not have them")
	cmd.Flags().StringVar(&passphrasesFile, "passphrases-file", "", "file with the holders' passphrases, - for standard input or the terminal")
	return cmd
}

func (a *app) recoveryKey(holders []string, threshold int, out, passphrasesFile string) error {
	if out == "" {
		return coded{exitUsage, errors.New("--out is missing; name a folder for the shares")}
	}
	harden.Apply()
	passphrases, err := a.passphrases(passphrasesFile, holders, true)
	if err != nil {
		return err
	}
	key, shares, err := recovery.New(holders, threshold, passphrases)
	if err != nil {
		return coded{exitUsage, err}
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return fmt.Errorf("make the folder of the shares: %w", err)
	}
	files := map[string][]byte{"recovery-key.pub": key.PEM()}
	for i, text := range shares {
		files[fmt.Sprintf("share-%d.txt", i+1)] = text
	}
	for name, text := range files {
		if err := writeKey(filepath.Join(out, name), text); err != nil {
			return err
		}
	}
	fmt.Fprintf(a.out, "recovery key %s: %d of %d holders open it\n", key.ID, threshold, len(holders))
	for i, h := range holders {
		fmt.Fprintf(a.out, "%s\t%s\n", filepath.Join(out, fmt.Sprintf("share-%d.txt", i+1)), h)
	}
	fmt.Fprintf(a.err, "print each share for its holder and destroy the file; give %s to the broker (PUT /api/v1/recovery-key, by a Security Administrator)\n", shellQuote(filepath.Join(out, "recovery-key.pub")))
	return nil
}

// passphrases reads one passphrase for each name. New ones are typed twice at a terminal.
func (a *app) passphrases(file string, names []string, fresh bool) ([]string, error) {
	if file == "" {
		return nil, coded{exitUsage, errors.New("--passphrases-file is missing; - is standard input or the terminal")}
	}
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("read --passphrases-file: %w", err)
		}
		defer f.Close()
		return a.lines(bufio.NewReader(f), names)
	}
	in := bufio.NewReader(a.in)
	if !a.terminal() {
		return a.lines(in, names)
	}
	var out []string
	for _, name := range names {
		first, err := a.typed("passphrase of "+name, in)
		if err != nil {
			return nil, err
		}
		if fresh {
			again, err := a.typed("once more", in)
			if err != nil {
				return nil, err
			}
			if again != first {
				return nil, fmt.Errorf("the two passphrases of %s differ; start again", name)
			}
		}
		out = append(out, first)
	}
	return out, nil
}

func (a *app) lines(in *bufio.Reader, names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		line, err := in.ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return nil, fmt.Errorf("no passphrase of %s is given (%w); write one a line, in the order of the names", name, err)
		}
		out = append(out, line)
	}
	return out, nil
}
