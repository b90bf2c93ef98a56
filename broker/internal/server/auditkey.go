package server

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"keyward/broker/internal/audit"
	"keyward/broker/internal/audit/chain"
	"keyward/broker/internal/keystore"
)

// The files of a change of the key of audit logs: how the key came from those before it, and the next key until the
// change is complete.
const (
	fileAuditKeys = "audit.keys.json"
	fileAuditNext = "audit.next.key.wrapped"
)

// maxKeysFile bounds the file of changes, in bytes.
const maxKeysFile = 1 << 20

// openAuditKey reads the key of audit logs and how it came from those before it. A change that was cut off behind its
// statement is completed here: the statement counts from the moment that it is on disk.
func openAuditKey(data string, root keystore.Root) (ed25519.PrivateKey, []chain.Rotation, error) {
	key, err := readAuditKey(data, root, fileAuditKey)
	if err != nil {
		return nil, nil, err
	}
	rotations, err := readRotations(data)
	if err != nil || len(rotations) == 0 {
		return key, nil, err
	}
	last := rotations[len(rotations)-1].New
	if !bytes.Equal(last, key.Public().(ed25519.PublicKey)) {
		next, err := readAuditKey(data, root, fileAuditNext)
		if err != nil || !bytes.Equal(last, next.Public().(ed25519.PublicKey)) {
			return nil, nil, errors.Join(errors.New("the key of audit logs is not the one that its changes lead to; restore the data folder from a backup"), err)
		}
		if err := completeRotation(data, next); err != nil {
			return nil, nil, err
		}
		key = next
	}
	if _, err := chain.Keys(key.Public().(ed25519.PublicKey), rotations); err != nil {
		return nil, nil, fmt.Errorf("the changes of the key of audit logs: %w; restore %s from a backup", err, fileAuditKeys)
	}
	return key, rotations, nil
}

func readAuditKey(data string, root keystore.Root, name string) (ed25519.PrivateKey, error) {
	seed, err := unwrapFile(data, root, purposeAudit, name)
	if err != nil {
		return nil, err
	}
	defer seed.Wipe()
	if seed.Len() != ed25519.SeedSize {
		return nil, errors.New("the broker's audit log key is damaged; restore it from a backup")
	}
	return ed25519.NewKeyFromSeed(seed.Bytes()), nil
}

func readRotations(data string) ([]chain.Rotation, error) {
	name := filepath.Join(data, fileAuditKeys)
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the changes of the key of audit logs: %w", err)
	}
	if info.Size() > maxKeysFile {
		return nil, fmt.Errorf("%s has %d bytes and is damaged; restore it from a backup", name, info.Size())
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the changes of the key of audit logs: %w", err)
	}
	var out []chain.Rotation
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w); restore it from a backup", name, err)
	}
	return out, nil
}

// completeRotation makes the next key the key, and gives its public half to people.
func completeRotation(data string, next ed25519.PrivateKey) error {
	if err := os.Rename(filepath.Join(data, fileAuditNext), filepath.Join(data, fileAuditKey)); err != nil {
		return fmt.Errorf("changing the key of audit logs: %w", err)
	}
	text, err := audit.PEM(next.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(data, fileAudit), text, 0o644); err != nil {
		return fmt.Errorf("storing the new public key of audit logs: %w", err)
	}
	return nil
}

// RotateAuditKey makes a new key for audit logs, signed by the old one, and records that in every account's log. A broker
// that runs goes on with the old key, which readers of the new one accept, until it is started again; brokers that share
// the database get copies of the data folder's audit files.
func (o *Operator) RotateAuditKey(ctx context.Context) (chain.Rotation, error) {
	old, rotations, err := openAuditKey(o.config.Data, o.Identity.Root)
	if err != nil {
		return chain.Rotation{}, err
	}
	_, next, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return chain.Rotation{}, err
	}
	change, err := chain.Rotate(int64(len(rotations)+1), time.Now(), old, next)
	if err != nil {
		return chain.Rotation{}, err
	}
	wrapped, err := keystore.WrapSecret(o.Identity.Root, purposeAudit, keystore.KeyOf(next.Seed()))
	if err != nil {
		return chain.Rotation{}, fmt.Errorf("wrapping the new key of audit logs: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(o.config.Data, fileAuditNext), wrapped, 0o600); err != nil {
		return chain.Rotation{}, fmt.Errorf("storing the new key of audit logs: %w", err)
	}
	raw, err := json.MarshalIndent(append(rotations, change), "", "  ")
	if err != nil {
		return chain.Rotation{}, err
	}
	if err := renameio.WriteFile(filepath.Join(o.config.Data, fileAuditKeys), append(raw, '\n'), 0o644); err != nil {
		return chain.Rotation{}, fmt.Errorf("storing the change of the key of audit logs: %w", err)
	}
	if err := completeRotation(o.config.Data, next); err != nil {
		return chain.Rotation{}, err
	}
	return change, o.Audit.RecordAll(ctx, audit.Entry{Category: audit.Server, Event: "server.audit-key-changed", Actor: "operator",
		Detail: map[string]string{"old": chain.KeyID(change.Old), "new": chain.KeyID(change.New), "number": fmt.Sprint(change.Number)}})
}
