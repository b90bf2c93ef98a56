package cli

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"keyward/agent/internal/record"
	"keyward/broker/api"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// inspection is the documented form of `inspect --json`.
type inspection struct {
	Disk      string           `json:"disk"`
	Size      int64            `json:"size"`
	Record    api.VolumeRecord `json:"record"`
	SeqID     uint64           `json:"seqid"`
	Recovered bool             `json:"recovered"`
	Damaged   string           `json:"damaged,omitempty"`
	// Matches and KeyFits are absent unless --record and --volume-key-file were given.
	Matches *bool  `json:"matches_record,omitempty"`
	KeyFits *bool  `json:"key_fits,omitempty"`
	Problem string `json:"problem,omitempty"`
}

func (a *app) inspectCommand() *cobra.Command {
	var asJSON bool
	var recordFile, keyFile string
	cmd := &cobra.Command{
		Use: "inspect DEVICE", Args: cobra.ExactArgs(1),
		Short: "Show and check the header of an encrypted volume",
		Long: "Inspect reads the LUKS2 header and checks both copies. What a header says is only a claim of the disk: --record\n" +
			"compares it with the broker's record (JSON), --volume-key-file checks digest and seal with the volume key.\n" +
			"It never writes, works on a volume in use, and ends with exit code 7 when anything does not hold.",
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := inspect(args[0], recordFile, keyFile)
			if err != nil && r == nil {
				return coded{exitHeader, err}
			}
			show := printInspection
			if asJSON {
				show = func(w io.Writer, r *inspection) error { return writeJSON(w, r) }
			}
			if werr := show(a.out, r); werr != nil {
				return werr
			}
			if err != nil {
				return coded{exitHeader, err}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON; the fields are documented in docs/operations/agent.md")
	cmd.Flags().StringVar(&recordFile, "record", "", "volume record of the broker, as JSON")
	cmd.Flags().StringVar(&keyFile, "volume-key-file", "", "raw volume key, as exported-key writes it")
	return cmd
}

// inspect returns what was found and, beside it, the first thing that does not hold.
func inspect(path, recordFile, keyFile string) (*inspection, error) {
	dev, err := openView(path)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	header, err := luks2.Read(dev)
	if err != nil {
		return nil, fmt.Errorf("read the header of %s: %w", path, err)
	}
	r := &inspection{Disk: path, Size: dev.size, Record: record.OnWire(header.Record()), SeqID: header.SeqID(),
		Recovered: header.Recovered, Damaged: header.Damaged}
	var errs []error
	if header.Recovered {
		errs = append(errs, fmt.Errorf("the %s copy of the header is damaged; the agent repairs it when it opens the volume", header.Damaged))
	}
	want := header.Record()
	if recordFile != "" {
		if want, err = readRecord(recordFile); err != nil {
			return nil, err
		}
		err := header.Verify(want)
		r.Matches = ptr(err == nil)
		errs = append(errs, err)
	}
	if keyFile != "" {
		err := checkKey(header, want, keyFile)
		r.KeyFits = ptr(err == nil)
		errs = append(errs, err)
	}
	err = errors.Join(errs...)
	if err != nil {
		r.Problem = err.Error()
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

func ptr[T any](v T) *T { return &v }

func readRecord(path string) (luks2.Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return luks2.Record{}, fmt.Errorf("read --record: %w", err)
	}
	var r api.VolumeRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return luks2.Record{}, fmt.Errorf("read --record %s: %w", path, err)
	}
	return record.OnDisk(r), nil
}

func checkKey(header *luks2.Header, want luks2.Record, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read --volume-key-file: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, keymem.MaxLen+1))
	if err != nil {
		return fmt.Errorf("read --volume-key-file: %w", err)
	}
	key, err := keymem.FromBytes(raw)
	if err != nil {
		return fmt.Errorf("read --volume-key-file: %w", err)
	}
	defer key.Wipe()
	return header.VerifyKey(want, key)
}

func printInspection(w io.Writer, r *inspection) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	v := r.Record
	line("Disk", "%s, %d bytes", r.Disk, r.Size)
	line("Format", "LUKS2, written %d times", r.SeqID)
	line("UUID", "%s", v.UUID)
	line("Cipher", "%s, AES-%d", v.Cipher, v.KeyBits)
	line("Sectors", "%d bytes", v.SectorSize)
	line("Payload", "%d bytes from offset %d", v.DataSize, v.DataOffset)
	line("Belongs to", "broker %s, account %s, device %s", v.Broker, v.Account, v.Device)
	line("Epoch", "%d", v.Epoch)
	line("Header hash", "%s", hex.EncodeToString(v.HeaderHash))
	line("Digest", "pbkdf2, sha256, %d iterations, salt %s", v.DigestIterations, hex.EncodeToString(v.DigestSalt))
	copies := "both good"
	if r.Recovered {
		copies = r.Damaged + " damaged"
	}
	line("Copies", "%s", copies)
	for name, holds := range map[string]*bool{"Matches the record": r.Matches, "Key fits": r.KeyFits} {
		if holds != nil {
			line(name, "%s", map[bool]string{true: "yes", false: "no"}[*holds])
		}
	}
	return t.Flush()
}

// shellQuote makes a path safe to paste into a shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// view is a disk that is only looked at: no locks, so that a volume in use can be inspected, and no writes.
type view struct {
	*os.File
	size int64
}

var _ blockdev.Device = (*view)(nil)

func openView(path string) (*view, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("inspect: %w", err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("inspect %s: find its size: %w", path, err)
	}
	return &view{f, size}, nil
}

// Size implements blockdev.Device.
func (v *view) Size() int64 { return v.size }

// WriteAt implements blockdev.Device and refuses.
func (v *view) WriteAt([]byte, int64) (int, error) { return 0, blockdev.ErrReadOnly }

// Sync implements blockdev.Device.
func (v *view) Sync() error { return nil }
