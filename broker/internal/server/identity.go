package server

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"encoding/pem"
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
	"keyward/broker/internal/pki"
	"keyward/broker/internal/rootkey"
	"keyward/broker/internal/store"
)

// The files of a data folder. Private keys are wrapped by the root key.
const (
	fileCA       = "ca.pem"
	fileCAKey    = "ca.key.wrapped"
	fileAudit    = "audit.pem"
	fileAuditKey = "audit.key.wrapped"
)

// The purposes that tell the wrapped files apart.
const (
	purposeCA    = "certificate authority"
	purposeAudit = "audit log key"
)

// Identity is what makes a broker the one that machines and auditors know. Brokers on one database share it: copy the
// four files of the data folder.
type Identity struct {
	Root  *keystore.Ring
	CA    *pki.CA
	Audit ed25519.PrivateKey
	// AuditKeys are the changes of key that led to Audit.
	AuditKeys []chain.Rotation
}

// openRoots opens the root key, and the second one when there is one. With create set the first is made where there is
// none.
func openRoots(c Config, create bool) (*keystore.Ring, error) {
	o := rootkey.Options{PassphraseFrom: c.RootPassphraseFrom, Create: create, Keep: c.RootKeyKeep, Clock: c.Clock}
	first, err := rootkey.Open(c.RootKey, o)
	if err != nil {
		return nil, err
	}
	ring := keystore.NewRing(first)
	if c.RootKeyNext == "" {
		return ring, nil
	}
	o.PassphraseFrom, o.Create = c.RootNextPassphraseFrom, c.createNext
	next, err := rootkey.Open(c.RootKeyNext, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the next root key: %w", err), rootkey.Close(ring))
	}
	ring.Add(next)
	return ring, nil
}

// createIdentity makes the files that are missing. It never replaces one: what machines trust would be gone.
func createIdentity(data string, root keystore.Root, clock func() time.Time) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("making the data folder: %w", err)
	}
	if missing(data, fileCA) {
		ca, err := pki.NewCA("Keyward broker CA", clock)
		if err != nil {
			return err
		}
		der, err := ca.KeyDER()
		if err != nil {
			return err
		}
		if err := writePair(data, root, purposeCA, fileCAKey, der, fileCA, ca.CACert()); err != nil {
			return err
		}
	}
	if missing(data, fileAudit) {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return err
		}
		return writePair(data, root, purposeAudit, fileAuditKey, private.Seed(), fileAudit, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	return nil
}

// missing says whether a pair has to be made. The private file is written first, so a crash in between leaves a key
// without its public half, which nobody has seen yet and which may be replaced.
func missing(data, public string) bool {
	_, err := os.Lstat(filepath.Join(data, public))
	return errors.Is(err, fs.ErrNotExist)
}

func writePair(data string, root keystore.Root, purpose, privateName string, private []byte, publicName string, public []byte) error {
	wrapped, err := keystore.WrapSecret(root, purpose, keystore.KeyOf(private))
	clear(private)
	if err != nil {
		return fmt.Errorf("wrapping the broker's %s: %w", purpose, err)
	}
	if err := renameio.WriteFile(filepath.Join(data, privateName), wrapped, 0o600); err != nil {
		return fmt.Errorf("storing the broker's %s: %w", purpose, err)
	}
	if err := renameio.WriteFile(filepath.Join(data, publicName), public, 0o644); err != nil {
		return fmt.Errorf("storing the broker's %s: %w", purpose, err)
	}
	return nil
}

// openIdentity reads the data folder.
func openIdentity(data string, root *keystore.Ring, clock func() time.Time) (Identity, error) {
	id := Identity{Root: root}
	caKey, err := unwrapFile(data, root, purposeCA, fileCAKey)
	if err != nil {
		return id, err
	}
	defer caKey.Wipe()
	certPEM, err := os.ReadFile(filepath.Join(data, fileCA))
	if err != nil {
		return id, fmt.Errorf("opening the broker's CA: %w", err)
	}
	if id.CA, err = pki.OpenCA(certPEM, caKey.Bytes(), clock); err != nil {
		return id, fmt.Errorf("opening the broker's CA: %w", err)
	}
	id.Audit, id.AuditKeys, err = openAuditKey(data, root)
	return id, err
}

// newAudit is the service of audit logs, with all of the broker's keys.
func newAudit(c Config, id Identity, st *store.Store) (*audit.Service, error) {
	s := audit.New(st, id.Audit, c.Clock)
	return s, s.Rotated(id.AuditKeys)
}

func unwrapFile(data string, root keystore.Root, purpose, name string) (keystore.Key, error) {
	b, err := os.ReadFile(filepath.Join(data, name))
	if errors.Is(err, fs.ErrNotExist) {
		return keystore.Key{}, fmt.Errorf("%s has no %s; set the broker up with keyward-broker init, or name the right --data", data, name)
	}
	if err != nil {
		return keystore.Key{}, fmt.Errorf("opening the broker's %s: %w", purpose, err)
	}
	return keystore.UnwrapSecret(root, purpose, b)
}

// rewrapIdentity wraps what is wrapped by another root key than the active one anew. A file is replaced by one that has been
// opened again.
func rewrapIdentity(data string, root *keystore.Ring, again bool) error {
	active := keystore.Active(root)
	for name, purpose := range map[string]string{fileCAKey: purposeCA, fileAuditKey: purposeAudit, fileAuditNext: purposeAudit} {
		path := filepath.Join(data, name)
		old, err := os.ReadFile(path)
		if name == fileAuditNext && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("rewrapping the broker's %s: %w", purpose, err)
		}
		if secret, err := keystore.UnwrapSecret(active, purpose, old); err == nil && !again {
			secret.Wipe()
			continue
		}
		secret, err := keystore.UnwrapSecret(root, purpose, old)
		if err != nil {
			return fmt.Errorf("rewrapping the broker's %s: %w", purpose, err)
		}
		wrapped, err := keystore.WrapSecret(active, purpose, secret)
		if err == nil {
			var back keystore.Key
			if back, err = keystore.UnwrapSecret(active, purpose, wrapped); err == nil && subtle.ConstantTimeCompare(back.Bytes(), secret.Bytes()) != 1 {
				err = keystore.ErrUnwrap
			}
			back.Wipe()
		}
		secret.Wipe()
		if err != nil {
			return fmt.Errorf("rewrapping the broker's %s: %w", purpose, err)
		}
		if err := renameio.WriteFile(path, wrapped, 0o600); err != nil {
			return fmt.Errorf("storing the broker's %s: %w", purpose, err)
		}
	}
	return nil
}
