package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/backup"
	"keyward/broker/internal/keyring"
	"keyward/broker/internal/keystore"
	"keyward/broker/internal/store"
)

// identityFiles are the files of a data folder that a backup holds; those behind the fourth may be missing.
var identityFiles = []string{fileCA, fileCAKey, fileAudit, fileAuditKey, fileAuditKeys, fileAuditNext}

// Backup writes everything that makes the broker, beside a serving one if need be. withRoot adds the root key itself.
func (o *Operator) Backup(ctx context.Context, w io.Writer, to backup.Recipients, withRoot bool, progress func(int64)) error {
	c := o.config
	s := backup.Source{Store: o.store, Header: backup.Header{CreatedAt: c.Clock().UTC().Truncate(time.Second), Program: c.Version,
		Database: databaseOf(c.DSN), RootKeyID: o.roots.ID(), RootProvider: string(o.roots.Provider())}}
	for i, name := range identityFiles {
		data, err := os.ReadFile(filepath.Join(c.Data, name))
		if i >= 4 && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the data folder: %w", err)
		}
		mode := uint32(0o600)
		if !strings.HasSuffix(name, ".wrapped") {
			mode = 0o644
		}
		s.Files = append(s.Files, backup.File{Name: name, Mode: mode, Data: data})
	}
	if withRoot {
		key, ok := keystore.RootSecret(o.roots)
		if !ok {
			return fmt.Errorf("the root key cannot be part of the backup: it never leaves the place that keeps it (%s); back that place up by its own means", o.roots.Provider().Text())
		}
		s.Root = key.Bytes()
	}
	detail := map[string]string{"root_key_included": fmt.Sprint(withRoot), "root_key": o.roots.ID()}
	if err := o.Audit.RecordAll(ctx, audit.Entry{Category: audit.Server, Event: "server.backup-made", Actor: "operator", Detail: detail}); err != nil {
		return fmt.Errorf("recording the backup: %w", err)
	}
	return backup.Create(ctx, w, to, s, progress)
}

func databaseOf(dsn string) string {
	if strings.HasPrefix(dsn, "sqlite:") {
		return "sqlite"
	}
	return "postgres"
}

// Restored is what a backup was found to hold.
type Restored struct {
	Header backup.Header    `json:"header"`
	Rows   map[string]int64 `json:"rows"`
	// Keys and Logs are how many keys of accounts were opened and audit logs verified; both 0 without the root key.
	Keys int `json:"keys_opened"`
	Logs int `json:"logs_verified"`
}

// Restore fills a data folder and a database, both empty, from a backup. Before it writes anything it reads the whole backup
// and opens every account's key with the root key, so that nothing is restored that cannot be used. restoreRoot writes the
// root key of the backup to Config.RootKey first.
func Restore(ctx context.Context, c Config, path string, by backup.Identities, restoreRoot bool, progress func(int64)) (*Restored, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	for _, name := range identityFiles {
		if _, err := os.Lstat(filepath.Join(c.Data, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s holds a broker already (%s): name a new --data, a backup is never restored over one", c.Data, name)
		}
	}
	look := inspection{visitor: backup.Visitor{Progress: progress}}
	if _, _, err := look.read(path, by); err != nil {
		return nil, err
	}
	if restoreRoot {
		if look.root == nil {
			return nil, errors.New("the backup does not hold its root key: name the root key that it was made with by --root-key")
		}
		if err := os.MkdirAll(filepath.Dir(c.RootKey), 0o700); err != nil {
			return nil, fmt.Errorf("making the folder of the root key: %w", err)
		}
		if _, err := keystore.RestoreRootFile(c.RootKey, keystore.KeyOf(look.root)); err != nil {
			return nil, err
		}
	}
	roots, err := openRoots(c, false)
	if err != nil {
		return nil, fmt.Errorf("the backup is whole, but its root key %s (%s) is needed to restore it: %w", look.header.RootKeyID, keystore.Provider(look.header.RootProvider).Text(), err)
	}
	out := &Restored{Header: look.header, Rows: look.end.Rows}
	if out.Keys, err = look.open(roots); err != nil {
		return nil, errors.Join(err, closeRoots(roots))
	}
	err = errors.Join(restore(ctx, c, path, by, look.end, look.files, progress), closeRoots(roots))
	if err != nil {
		return nil, err
	}
	out.Logs, err = settle(ctx, c, look.header)
	return out, err
}

func closeRoots(r *keystore.Ring) error { return (&Operator{roots: r}).Close() }

// inspection is a first reading of a backup, which keeps what is small.
type inspection struct {
	visitor  backup.Visitor
	header   backup.Header
	end      backup.End
	files    []backup.File
	root     []byte
	accounts []keystore.AccountKey
}

func (i *inspection) read(path string, by backup.Identities) (backup.Header, backup.End, error) {
	v := i.visitor
	v.File = func(f backup.File) error {
		if !slices.Contains(identityFiles, f.Name) {
			return fmt.Errorf("%.40q is no file of a data folder", f.Name)
		}
		i.files = append(i.files, f)
		return nil
	}
	v.Root = func(b []byte) error { i.root = b; return nil }
	v.Row = func(t store.DumpTable, values []any) error {
		if t.Name != "accounts" {
			return nil
		}
		a, err := store.AccountOfDump(t, values)
		if err == nil {
			i.accounts = append(i.accounts, keyring.KeysOf(a)...)
		}
		return err
	}
	var err error
	i.header, i.end, err = backup.Read(path, by, v)
	return i.header, i.end, err
}

// open opens everything that the root key wraps.
func (i *inspection) open(roots *keystore.Ring) (int, error) {
	purposes := map[string]string{fileCAKey: purposeCA, fileAuditKey: purposeAudit, fileAuditNext: purposeAudit}
	for _, f := range i.files {
		if purpose, wrapped := purposes[f.Name]; wrapped {
			secret, err := keystore.UnwrapSecret(roots, purpose, f.Data)
			if err != nil {
				return 0, fmt.Errorf("%w: the backup needs root key %s", err, i.header.RootKeyID)
			}
			secret.Wipe()
		}
	}
	for _, a := range i.accounts {
		if err := keystore.CheckAccountKey(roots, a); err != nil {
			return 0, fmt.Errorf("%w: the backup needs root key %s", err, i.header.RootKeyID)
		}
	}
	return len(i.accounts), nil
}

// restore writes the rows, all or none, and then the files.
func restore(ctx context.Context, c Config, path string, by backup.Identities, end backup.End, files []backup.File, progress func(int64)) (err error) {
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	lock, err := lockData(c)
	if err != nil {
		return err
	}
	if lock != nil {
		defer lock.release()
	}
	err = store.Load(ctx, c.DSN, end.Schema, func(l *store.Loader) error {
		_, again, err := backup.Read(path, by, backup.Visitor{Table: l.Table, Progress: progress,
			Row: func(_ store.DumpTable, values []any) error { return l.Row(values) }})
		if err == nil && again.SHA256 != end.SHA256 {
			err = errors.New("the backup was replaced while it was read")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("restoring into the database: %w", err)
	}
	for _, f := range files {
		if err := renameio.WriteFile(filepath.Join(c.Data, f.Name), f.Data, fs.FileMode(f.Mode)&0o644); err != nil {
			return fmt.Errorf("restoring the data folder: %w", err)
		}
	}
	return nil
}

// settle opens the restored broker, verifies every account's audit log and records the restoration in it.
func settle(ctx context.Context, c Config, h backup.Header) (int, error) {
	o, err := OpenOperator(ctx, c)
	if err != nil {
		return 0, fmt.Errorf("opening what was restored: %w", err)
	}
	defer o.Close()
	logs := 0
	var ids []string
	if err := o.store.View(ctx, func(tx *store.Tx) error {
		return tx.EachTenant(func(t *store.Tenant) error { ids = append(ids, t.AccountID()); return nil })
	}); err != nil {
		return 0, err
	}
	for _, id := range ids {
		if err := o.verifyLog(ctx, id); err != nil {
			return logs, fmt.Errorf("everything was restored, but the audit log of account %s does not verify: %w", id, err)
		}
		logs++
	}
	return logs, o.Audit.RecordAll(ctx, audit.Entry{Category: audit.Server, Event: "server.restored", Actor: "operator",
		Detail: map[string]string{"backup_of": h.CreatedAt.Format(time.RFC3339), "root_key": h.RootKeyID}})
}

// verifyLog exports an account's log and verifies it as an auditor would.
func (o *Operator) verifyLog(ctx context.Context, account string) error {
	p, err := o.Account(ctx, account)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(o.Audit.ExportJSONL(ctx, p, audit.Filter{}, w)) }()
	_, err = chain.Verify(r, chain.Options{TrustedKey: o.Identity.Audit.Public().(ed25519.PublicKey)})
	r.CloseWithError(err)
	return err
}

// VerifyBackup reads a backup and restores it into a folder that is removed again: the proof that it can be. Without a root
// key it reads every byte, and fills a database, but opens no key and verifies no log.
func VerifyBackup(ctx context.Context, c Config, path string, by backup.Identities, progress func(int64)) (_ *Restored, err error) {
	dir, err := os.MkdirTemp("", "keyward-verify")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c.Data, c.DSN = filepath.Join(dir, "data"), ""
	if c.RootKey != "" {
		return Restore(ctx, c, path, by, false, progress)
	}
	look := inspection{visitor: backup.Visitor{Progress: progress}}
	if _, _, err := look.read(path, by); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, err
	}
	c.DSN = "sqlite:" + filepath.Join(c.Data, "keyward.db")
	if err := restore(ctx, c, path, by, look.end, nil, progress); err != nil {
		return nil, err
	}
	return &Restored{Header: look.header, Rows: look.end.Rows}, nil
}
