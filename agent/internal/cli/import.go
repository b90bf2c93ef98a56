package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"keyward/agent/internal/adopt"
	"keyward/agent/internal/control"
	"keyward/agent/internal/daemon"
	"keyward/agent/internal/harden"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// importing is what the command is asked to do.
type importing struct {
	passphraseFile, exported, backup string
	takeOver, check                  bool
}

func (a *app) importCommand() *cobra.Command {
	var i importing
	cmd := &cobra.Command{
		Use: "import DEVICE --passphrase-file P", Args: cobra.ExactArgs(1),
		Short: "Bring an existing LUKS2 volume under the broker, with its data",
		Long: "Import opens a volume that cryptsetup made with one of its passphrases, hands its key to the broker, and adds a token\n" +
			"to its header. The data is not written anew, and the passphrases go on working until cryptsetup takes them away.\n" +
			"The device must have been configured in the console. --exported-key takes the key from a key export instead.",
		RunE: func(cmd *cobra.Command, args []string) error { return a.importVolume(cmd.Context(), args[0], i) },
	}
	f := cmd.Flags()
	f.StringVar(&i.passphraseFile, "passphrase-file", "", "file with a passphrase of the volume, or of the export; - for standard input or the terminal")
	f.StringVar(&i.exported, "exported-key", "", "XML file or archive of a key export that has the volume's key")
	f.StringVar(&i.backup, "header-backup", "", "file for a copy of the header as it was (default: in the state folder)")
	f.BoolVar(&i.takeOver, "take-over", false, "import a volume of another broker, account or device: its former record no longer opens it")
	f.BoolVar(&i.check, "check", false, "try everything and change nothing")
	return cmd
}

func (a *app) importVolume(ctx context.Context, device string, i importing) error {
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	passphrase, err := a.secret("", i.passphraseFile, "--passphrase")
	if err != nil {
		return err
	}
	harden.Apply()
	if i.backup == "" {
		dir := filepath.Join(cfg.StateDir, "header-backups")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the folder of header backups: %w", err)
		}
		i.backup = filepath.Join(dir, filepath.Base(device)+"-"+time.Now().UTC().Format("20060102T150405Z")+".img")
	}
	d, err := daemon.Import(ctx, cfg, Version, device, adopt.Job{Backup: i.backup, TakeOver: i.takeOver, TryOnly: i.check, Logger: a.logger(cfg),
		Key: func(disk blockdev.Device) (*keymem.Key, error) { return i.key(disk, passphrase) }})
	if err != nil {
		return err
	}
	if i.check {
		fmt.Fprintf(a.out, "%s (%s) can be imported; nothing was changed\n", d.Name, d.ID)
		return nil
	}
	fmt.Fprintf(a.out, "imported %s (%s), volume %s\n", d.Name, d.ID, d.Volume.UUID)
	fmt.Fprintf(a.err, "the header as it was, with its passphrases, is in %s\n", shellQuote(i.backup))
	fmt.Fprintln(a.err, "its passphrases still open the volume; once you have a key export, take them away with: cryptsetup erase DISK")
	if _, err := a.ask(ctx, control.Request{Op: control.OpPublish}); err != nil && !errors.Is(err, control.ErrNotRunning) {
		return fmt.Errorf("tell the running agent of the volume: %w; run: keyward-agent publish", err)
	}
	return nil
}

// key finds the volume key.
func (i importing) key(disk blockdev.Device, passphrase string) (*keymem.Key, error) {
	if i.exported == "" {
		secret := []byte(passphrase)
		defer clear(secret)
		key, _, err := luks2.OpenKeyslot(disk, secret)
		return key, err
	}
	header, err := luks2.Read(disk)
	if err != nil {
		return nil, err
	}
	exported, err := chooseExported([]string{i.exported}, header.Record().UUID)
	if err != nil {
		return nil, err
	}
	keys, err := openExported(exported, passphrase)
	if err != nil {
		return nil, err
	}
	if len(keys) != 1 {
		return nil, errors.New("a RAID set is not imported by its exported keys")
	}
	return keys[0].Secret, nil
}
