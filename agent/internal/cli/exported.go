package cli

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"keyward/broker/api"
	"keyward/broker/client"
)

func (a *app) exportedKeyCommand() *cobra.Command {
	var passphraseFile, out string
	cmd := &cobra.Command{
		Use: "exported-key FILE --passphrase-file P --out KEYFILE", Args: cobra.ExactArgs(1),
		Short: "Turn an exported device key into a volume key file for cryptsetup",
		Long: "Exported-key opens one XML file of a key export with its passphrase and writes the raw volume key, readable by root\n" +
			"only. Neither broker nor agent is needed. Whoever has the key file reads the volume: destroy it after use.",
		RunE: func(_ *cobra.Command, args []string) error {
			if out == "" || passphraseFile == "" {
				return coded{exitUsage, errors.New("--passphrase-file and --out are both needed; see: keyward-agent exported-key --help")}
			}
			passphrase, err := a.secret("", passphraseFile, "--passphrase")
			if err != nil {
				return err
			}
			return a.exportedKey(args[0], passphrase, out)
		},
	}
	cmd.Flags().StringVar(&passphraseFile, "passphrase-file", "", "file with the passphrase of the export, - for standard input")
	cmd.Flags().StringVar(&out, "out", "", "key file to write; it must not exist")
	return cmd
}

func (a *app) exportedKey(path, passphrase, out string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the exported key: %w", err)
	}
	defer f.Close()
	exported, err := client.OpenExported(f, passphrase)
	if err != nil {
		return fmt.Errorf("open the exported key %s: %w", path, err)
	}
	defer clear(exported.Key)
	cfg, _, err := a.load()
	if err != nil {
		return err
	}
	if err := writeKey(out, exported.Key); err != nil {
		return err
	}
	if err := notebook(cfg).Append(api.OfflineKeyWritten, []string{exported.DeviceID}, map[string]string{"by": operator()}); err != nil {
		return errors.Join(err, os.Remove(out))
	}
	fmt.Fprintf(a.err, "volume key of device %s (%s) written to %s; open the volume with:\n", exported.Name, exported.DeviceID, out)
	for _, line := range stockCommand(exported.Volume, out, 8*len(exported.Key)) {
		fmt.Fprintln(a.out, line)
	}
	return nil
}

// stockCommand is what opens a volume with cryptsetup and nothing of ours. A member of a stripe is opened like any volume;
// dmsetup puts the opened members together.
func stockCommand(v api.VolumeRecord, keyFile string, keyBits int) []string {
	name := func(id string) string { return "keyward-" + id[:min(8, len(id))] }
	lines := []string{fmt.Sprintf("cryptsetup open --type luks2 --disable-keyring --volume-key-file %s --key-size %d DISK %s",
		shellQuote(keyFile), keyBits, name(v.UUID))}
	if r := v.RAID; r != nil {
		member := v.DataSize / r.Chunk * r.Chunk
		lines = append(lines, fmt.Sprintf("# member %d of %d; once all are open, with /dev/mapper/MEMBER0 and so on in their order:", r.Index, r.Count),
			fmt.Sprintf("dmsetup create %s --table '0 %d striped %d %d /dev/mapper/MEMBER0 0 ... /dev/mapper/MEMBER%d 0'",
				name(r.Set), member*int64(r.Count)/512, r.Count, r.Chunk/512, r.Count-1))
	}
	return lines
}

// writeKey never replaces a file and leaves nothing half written.
func writeKey(path string, key []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the key file: %w", err)
	}
	_, err = f.Write(key)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("write the key file: %w", err)
	}
	return nil
}
