package backup

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"filippo.io/age"

	"keyward/broker/internal/store"
)

// MinPassphrase is the least length in bytes of a backup's passphrase: who has the file may guess for ever.
const MinPassphrase = 12

// maxWork bounds the scrypt work factor of a file that is read, as a power of two: age writes 18.
const maxWork = 22

// Recipients are for whom a backup is encrypted, Identities what opens one.
type (
	Recipients []age.Recipient
	Identities []age.Identity
)

// Lock says for whom a backup is encrypted: for recipients (age1..., age1pq1...) or under a passphrase, never both.
func Lock(recipients []string, passphrase string) (Recipients, error) {
	if (len(recipients) > 0) == (passphrase != "") {
		return nil, errors.New("a backup is encrypted for recipients or under a passphrase: name one of the two")
	}
	if passphrase != "" {
		if len(passphrase) < MinPassphrase {
			return nil, fmt.Errorf("the passphrase of a backup has at least %d bytes: choose another", MinPassphrase)
		}
		r, err := age.NewScryptRecipient(passphrase)
		return Recipients{r}, err
	}
	out, err := age.ParseRecipients(strings.NewReader(strings.Join(recipients, "\n")))
	if err != nil {
		return nil, fmt.Errorf("reading the recipients: %w: age-keygen makes a pair, whose public half begins with age1", err)
	}
	return out, nil
}

// Unlock says what opens a backup: the text of an identity file of age, or a passphrase.
func Unlock(identities []byte, passphrase string) (Identities, error) {
	if (len(identities) > 0) == (passphrase != "") {
		return nil, errors.New("a backup is opened by an identity or a passphrase: name one of the two")
	}
	if passphrase != "" {
		i, err := age.NewScryptIdentity(passphrase)
		if err != nil {
			return nil, err
		}
		i.SetMaxWorkFactor(maxWork)
		return Identities{i}, nil
	}
	out, err := age.ParseIdentities(bytes.NewReader(identities))
	if err != nil {
		return nil, errors.New("the identity is not understood: it is a file of age-keygen, with a line that begins with AGE-SECRET-KEY-")
	}
	return out, nil
}

// left are the tables that a backup leaves out: what lives for minutes. A restored broker must not take a session that was
// ended since, or an answer that was given.
var left = []string{"sessions", "nonces", "idempotency_records", "root_key_holders"}

// Source is what a backup is made of.
type Source struct {
	Store  *store.Store
	Header Header
	Files  []File
	// Root is the root key itself, nil to leave it out.
	Root []byte
}

// Create writes a backup: one state of the database, however many write meanwhile.
func Create(ctx context.Context, w io.Writer, to Recipients, s Source, progress func(rows int64)) error {
	sealed, err := age.Encrypt(w, to...)
	if err != nil {
		return fmt.Errorf("encrypting the backup: %w", err)
	}
	packed, err := gzip.NewWriterLevel(sealed, gzip.BestSpeed)
	if err != nil {
		return err
	}
	out := newWriter(packed)
	s.Header.Format, s.Header.Version, s.Header.RootIncluded = Format, Version, s.Root != nil
	if err := out.write(line{Header: &s.Header}); err != nil {
		return err
	}
	for _, f := range s.Files {
		if err := out.file(f); err != nil {
			return err
		}
	}
	if s.Root != nil {
		if err := out.write(line{Root: s.Root}); err != nil {
			return err
		}
	}
	var n int64
	schema, err := s.Store.Dump(ctx, func(table string) bool { return !slices.Contains(left, table) }, out.tableBegins, func(values []any) error {
		if n++; progress != nil && n%1000 == 0 {
			progress(n)
		}
		return out.row(values)
	})
	if err != nil {
		return fmt.Errorf("reading the database: %w", err)
	}
	if err := out.end(schema); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	if progress != nil {
		progress(n)
	}
	// The order matters: each writes its last bytes into the next.
	if err := errors.Join(packed.Close(), sealed.Close()); err != nil {
		return fmt.Errorf("writing the backup: %w", err)
	}
	return nil
}

// Read opens a backup, passes what it holds to a visitor, and says whether it is whole. Nothing of a backup may be used
// before Read has returned without an error: what came first is known to be genuine, but not that the rest is there.
func Read(path string, by Identities, v Visitor) (Header, End, error) {
	f, err := os.Open(path)
	if err != nil {
		return Header{}, End{}, fmt.Errorf("opening the backup: %w", err)
	}
	defer f.Close()
	at := &counted{r: f}
	header, end, err := readFrom(at, by, v)
	if err != nil {
		return header, end, fmt.Errorf("reading the backup %s, near byte %d: %w", path, at.n, err)
	}
	return header, end, nil
}

func readFrom(r io.Reader, by Identities, v Visitor) (Header, End, error) {
	plain, err := age.Decrypt(r, by...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return Header{}, End{}, errors.New("the identity or passphrase is not one that it was made for: name another")
	}
	if err != nil {
		return Header{}, End{}, fmt.Errorf("its head is damaged, or it is no backup: %w", err)
	}
	unpacked, err := gzip.NewReader(plain)
	if err != nil {
		return Header{}, End{}, damaged(err)
	}
	header, end, err := read(unpacked, v)
	if err != nil {
		return header, end, damaged(err)
	}
	// What follows the end: the check of gzip and the last chunk of age, which says that nothing was cut off.
	n, err := io.Copy(io.Discard, plain)
	if err == nil && n > 0 {
		err = errors.New("something follows its end")
	}
	if err != nil {
		return header, end, damaged(err)
	}
	return header, end, nil
}

func damaged(err error) error {
	return fmt.Errorf("the backup is damaged or cut off there: %w: take another copy of it", err)
}

// counted counts what was read, to say where a file is damaged: within the 64 KiB before.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
