package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keyward/agent/internal/daemon"
	"keyward/agent/internal/offline"
	"keyward/broker/api"
	"keyward/broker/client/recovery"
	"keyward/nbdcrypt/keymem"
)

// breaking is what the command is asked to do.
type breaking struct {
	opening
	shares                    []string
	envelope, passphrasesFile string
	rehearse                  bool
}

func (a *app) breakGlassCommand() *cobra.Command {
	var b breaking
	cmd := &cobra.Command{
		Use: "break-glass --share FILE... --passphrases-file P (--mount-point DIR | --map-only | --check)", Args: cobra.NoArgs,
		Short: "Open a volume with the shares of its recovery key, without a broker",
		Long: "Break-glass puts the recovery key together from the shares of enough holders, opens the recovery envelope that the\n" +
			"agent has kept on this machine, and mounts a volume read-only. Each holder's passphrase is a line of\n" +
			"--passphrases-file, in the order of the shares; at a terminal the holders type them unseen. close-exported closes\n" +
			"the volume. --check proves that shares and envelope are good and opens nothing. Everything is recorded.",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.breakGlass(cmd.Context(), b) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&b.shares, "share", nil, "file with a share; once for each")
	f.StringVar(&b.envelope, "envelope", "", "recovery envelope (default: the one that the agent keeps in its state folder)")
	f.StringVar(&b.passphrasesFile, "passphrases-file", "", "file with the holders' passphrases, - for standard input or the terminal")
	f.BoolVar(&b.rehearse, "check", false, "rehearse: prove that the shares open the envelope, and open no volume")
	b.flags(cmd)
	return cmd
}

func (a *app) breakGlass(ctx context.Context, b breaking) error {
	if !b.rehearse {
		if err := b.check(); err != nil {
			return err
		}
	}
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	if b.envelope == "" {
		b.envelope = filepath.Join(cfg.StateDir, daemon.EnvelopeFile)
	}
	data, err := readEnvelope(b.envelope)
	if err != nil {
		return err
	}
	header, err := recovery.ReadHeader(data)
	if err != nil {
		return err
	}
	shares, holders, err := readShares(b.shares)
	if err != nil {
		return err
	}
	if len(shares) == 0 {
		return coded{exitUsage, fmt.Errorf("--share is missing; the envelope of %s is opened by %d of these holders: %s", header.MadeAt.Format(time.RFC3339),
			header.Threshold, strings.Join(header.Holders, ", "))}
	}
	volumes := make([]offline.Volume, len(header.Devices))
	for i, d := range header.Devices {
		volumes[i] = offline.Volume{DeviceID: d.ID, Name: d.Name, Record: d.Volume}
	}
	var chosen []int
	if !b.rehearse {
		if chosen, err = offline.Choose(volumes, b.device); errors.Is(err, offline.ErrChoose) {
			err = coded{exitUsage, err}
		}
		if err != nil {
			return err
		}
	}
	passphrases, err := a.secrets(func() ([]string, error) { return a.passphrases(b.passphrasesFile, holders, false) })
	if err != nil {
		return err
	}
	who := strings.Join(holders, ", ")
	if b.rehearse {
		return a.rehearse(data, shares, passphrases, notebook(cfg).Append, who)
	}
	picked := make([]offline.Volume, len(chosen))
	for i, at := range chosen {
		picked[i] = volumes[at]
	}
	return a.openOffline(ctx, b.opening, picked, passphrases, means{event: api.OfflineBreakGlassOpened, words: "break glass",
		detail: map[string]string{"holders": who, "recovery_key": header.KeyID, "envelope_of": header.MadeAt.UTC().Format(time.RFC3339)},
		open: func(passphrases []string) ([]offline.Key, error) {
			return unlockEnvelope(data, shares, passphrases, chosen)
		}})
}

func readEnvelope(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no recovery envelope %s: the account had no recovery key when the agent last met its broker; "+
			"take the account's envelope from its safe place with --envelope, or an exported key", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the recovery envelope: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, recovery.MaxEnvelope+1))
	if err != nil {
		return nil, fmt.Errorf("read the recovery envelope: %w", err)
	}
	return data, nil
}

func readShares(files []string) (shares []recovery.Share, holders []string, err error) {
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("read a share: %w", err)
		}
		s, err := recovery.ParseShare(text)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", path, err)
		}
		shares, holders = append(shares, s), append(holders, s.Holder)
	}
	return shares, holders, nil
}

// unlockEnvelope opens the envelope and keeps only the chosen keys.
func unlockEnvelope(data []byte, shares []recovery.Share, passphrases []string, chosen []int) ([]offline.Key, error) {
	private, err := recovery.Combine(shares, passphrases)
	if err != nil {
		return nil, err
	}
	defer private.Wipe()
	header, keys, err := recovery.Open(private, data)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, k := range keys {
			clear(k)
		}
	}()
	var out []offline.Key
	for _, at := range chosen {
		secret, err := keymem.FromBytes(keys[at])
		if err != nil {
			offline.Wipe(out)
			return nil, err
		}
		d := header.Devices[at]
		out = append(out, offline.Key{DeviceID: d.ID, Name: d.Name, Volume: d.Volume, Secret: secret})
	}
	return out, nil
}

// rehearse proves everything short of opening a volume, and records that.
func (a *app) rehearse(data []byte, shares []recovery.Share, passphrases []string,
	record func(api.OfflineEvent, []string, map[string]string) error, who string) error {
	if _, err := unlockEnvelope(data, shares, passphrases, nil); err != nil {
		return err
	}
	header, err := recovery.ReadHeader(data)
	if err != nil {
		return err
	}
	if err := record(api.OfflineBreakGlassCheck, nil, map[string]string{"holders": who, "recovery_key": header.KeyID, "by": operator()}); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "the shares of %s open the envelope of %s (account %s, recovery key %s); it has the keys of:\n", who,
		header.MadeAt.UTC().Format(time.RFC3339), header.AccountName, header.KeyID)
	for _, d := range header.Devices {
		fmt.Fprintf(a.out, "%s\t%s\n", d.ID, d.Name)
	}
	return nil
}
