package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keyward/agent/internal/offline"
	"keyward/broker/api"
)

func (a *app) openExportedCommand() *cobra.Command {
	var o opening
	var passphraseFile string
	cmd := &cobra.Command{
		Use: "open-exported FILE... --passphrase-file P (--mount-point DIR | --map-only)", Args: cobra.MinimumNArgs(1),
		Short: "Open a volume with its exported key, without a broker",
		Long: "Open-exported takes the ZIP archive of a key export, or XML files of it, finds the volume's disk on this machine, and\n" +
			"mounts it read-only. It returns when the volume is mounted; close-exported closes it. Neither broker nor running\n" +
			"agent is needed, and what was done is recorded: on an enrolled machine the record joins the broker's audit log later.\n" +
			"A RAID set needs the files of all its members.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			exported, err := chooseExported(args, o.device)
			if err != nil {
				return err
			}
			volumes := make([]offline.Volume, len(exported))
			for i, e := range exported {
				volumes[i] = e.Volume
			}
			secrets, err := a.secrets(func() ([]string, error) {
				passphrase, err := a.secret("", passphraseFile, "--passphrase")
				return []string{passphrase}, err
			})
			if err != nil {
				return err
			}
			return a.openOffline(cmd.Context(), o, volumes, secrets, means{
				event: api.OfflineExportedOpened, words: "exported key", open: func(secrets []string) ([]offline.Key, error) {
					return openExported(exported, strings.Join(secrets, ""))
				}})
		},
	}
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "file with the passphrase of the export, - for standard input or the terminal")
	o.flags(cmd)
	return cmd
}

// chooseExported reads the files and picks the volume, or all members of the stripe, that is meant.
func chooseExported(files []string, device string) ([]offline.Exported, error) {
	all, err := offline.ReadExported(files)
	if err != nil {
		return nil, err
	}
	volumes := make([]offline.Volume, len(all))
	for i, e := range all {
		volumes[i] = e.Volume
	}
	chosen, err := offline.Choose(volumes, device)
	if errors.Is(err, offline.ErrChoose) {
		return nil, coded{exitUsage, err}
	}
	if err != nil {
		return nil, err
	}
	out := make([]offline.Exported, len(chosen))
	for i, at := range chosen {
		out[i] = all[at]
	}
	return out, nil
}

func openExported(exported []offline.Exported, passphrase string) ([]offline.Key, error) {
	var keys []offline.Key
	for _, e := range exported {
		k, err := e.Open(passphrase)
		if err != nil {
			offline.Wipe(keys)
			return nil, fmt.Errorf("open the exported key: %w", err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func (a *app) closeExportedCommand() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use: "close-exported [VOLUME]", Args: cobra.MaximumNArgs(1),
		Short: "Unmount a volume that was opened without a broker and wipe its key; without VOLUME, list such volumes",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.closeExported(cmd.Context(), args, all, asJSON)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "close all of them")
	cmd.Flags().BoolVar(&asJSON, "json", false, "the list as JSON; the fields are documented in docs/operations/recovery.md")
	return cmd
}

func (a *app) closeExported(ctx context.Context, names []string, all, asJSON bool) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	log := a.logger(cfg)
	if len(names) == 0 {
		open, err := offline.Sessions(cfg.RuntimeDir)
		if err != nil {
			return err
		}
		if !all && asJSON {
			return writeJSON(a.out, open)
		}
		for _, s := range open {
			if !all {
				fmt.Fprintf(a.out, "%s (%s): %s, %s, %s\n", s.Name, s.ID, s.BlockDevice, s.Access, orNone(s.MountPoint))
				continue
			}
			names = append(names, s.ID)
		}
		if len(open) == 0 {
			fmt.Fprintln(a.err, "no volume is open without a broker")
		}
	}
	var errs []error
	for _, name := range names {
		s, err := offline.Close(ctx, cfg.RuntimeDir, name, log)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(a.out, "closed %s (%s)\n", s.Name, s.ID)
	}
	return errors.Join(errs...)
}

func orNone(mountPoint string) string {
	if mountPoint == "" {
		return "not mounted"
	}
	return "mounted at " + mountPoint
}
