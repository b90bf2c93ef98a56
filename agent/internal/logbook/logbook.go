// Package logbook keeps what was done on a machine without its broker, and when machine and agent started and stopped: an
// append-only file beside the identity, each entry chained to the one before and signed with the machine's key, so that it
// can join the broker's audit log later.
package logbook

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"keyward/broker/api"
)

const (
	fileName = "offline-records.jsonl"
	sentName = "offline-records.sent"
	// maxLine is the longest record in bytes, maxFile the most that is read.
	maxLine = 64 << 10
	maxFile = 64 << 20
)

// Book is the log of one machine. It is safe for use by several processes.
type Book struct {
	dir string
	// account, instance and signer are the machine's; signer is nil on a machine that is not enrolled, whose records stay.
	account, instance string
	signer            crypto.Signer
	now               func() time.Time
}

// New names the log in a state folder. signer may be nil.
func New(stateDir, account, instance string, signer crypto.Signer) *Book {
	return &Book{dir: stateDir, account: account, instance: instance, signer: signer, now: time.Now}
}

// Path is the file.
func (b *Book) Path() string { return filepath.Join(b.dir, fileName) }

// Append writes an entry and returns when it is durable.
func (b *Book) Append(event api.OfflineEvent, devices []string, detail map[string]string) error {
	if err := b.append(event, devices, detail); err != nil {
		return fmt.Errorf("record what was done in %s: %w", b.Path(), err)
	}
	return nil
}

func (b *Book) append(event api.OfflineEvent, devices []string, detail map[string]string) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(b.Path(), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	former, end, err := read(f)
	if err != nil {
		return err
	}
	e := api.OfflineEntry{ID: uuid.NewString(), Sequence: int64(len(former)) + 1, At: b.now().UTC(), AccountID: b.account, Instance: b.instance,
		Event: event, Devices: devices, Detail: detail}
	if len(former) > 0 {
		e.Previous = sum(former[len(former)-1].Payload)
	}
	line, err := b.line(e)
	if err != nil {
		return err
	}
	if len(line) > maxLine {
		return fmt.Errorf("a record of %d bytes is too long, at most %d are kept", len(line), maxLine)
	}
	// A line that a crash cut short is overwritten: nobody was told that it was kept.
	if err := f.Truncate(end); err != nil {
		return err
	}
	if _, err := f.WriteAt(line, end); err != nil {
		return err
	}
	return f.Sync()
}

func (b *Book) line(e api.OfflineEntry) ([]byte, error) {
	payload, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	r := api.OfflineRecord{Payload: payload}
	if b.signer != nil {
		digest := sha256.Sum256(append([]byte(api.OfflineRecordContext), payload...))
		if r.Signature, err = b.signer.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
			return nil, fmt.Errorf("sign it with the machine's key: %w", err)
		}
	}
	line, err := json.Marshal(r)
	return append(line, '\n'), err
}

func sum(payload []byte) string {
	h := sha256.Sum256(payload)
	return hex.EncodeToString(h[:])
}

// read returns the complete lines and where they end.
func read(f *os.File) ([]api.OfflineRecord, int64, error) {
	var out []api.OfflineRecord
	var end int64
	in := bufio.NewReaderSize(io.NewSectionReader(f, 0, maxFile), maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if err == io.EOF {
			return out, end, nil
		}
		if err != nil {
			return nil, 0, err
		}
		var r api.OfflineRecord
		if err := json.Unmarshal(bytes.TrimSpace(line), &r); err != nil {
			return nil, 0, fmt.Errorf("line %d cannot be read: %w; keep the file aside for the auditor", len(out)+1, err)
		}
		out, end = append(out, r), end+int64(len(line))
	}
}

// Unsent returns the records that the broker has not confirmed, at most most, oldest first, and the number that Sent takes
// once it has. Records without a signature, of a time before the machine was enrolled, cannot be proved and are passed over.
func (b *Book) Unsent(most int) (records []api.OfflineRecord, upTo int64, err error) {
	f, err := os.Open(b.Path())
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read the records of what was done without the broker: %w", err)
	}
	defer f.Close()
	all, _, err := read(f)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", b.Path(), err)
	}
	sent, err := b.sent()
	if err != nil {
		return nil, 0, err
	}
	upTo = min(sent, int64(len(all)))
	for _, r := range all[upTo:] {
		if len(records) == most {
			break
		}
		upTo++
		if len(r.Signature) > 0 {
			records = append(records, r)
		}
	}
	return records, upTo, nil
}

func (b *Book) sent() (int64, error) {
	data, err := os.ReadFile(filepath.Join(b.dir, sentName))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read which records the broker has: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || n < 0 {
		return 0, nil // sent again; the broker knows them by their IDs
	}
	return n, nil
}

// Sent notes that the broker has the first upTo records.
func (b *Book) Sent(upTo int64) error {
	if err := renameio.WriteFile(filepath.Join(b.dir, sentName), []byte(strconv.FormatInt(upTo, 10)+"\n"), 0o600); err != nil {
		return fmt.Errorf("note which records the broker has: %w", err)
	}
	return nil
}
