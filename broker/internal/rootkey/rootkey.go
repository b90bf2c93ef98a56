// Package rootkey opens the broker's root key wherever it is kept: in a file, under a passphrase, in a systemd credential,
// in OpenBao or Vault, in a PKCS#11 token, on a KMIP server. The last three never give the key out: they wrap and unwrap
// for the broker.
package rootkey

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keyward/broker/internal/keystore"
)

// credentialPrefix starts a reference to a systemd credential.
const credentialPrefix = "credential:"

// DefaultKeep is how long account keys that a remote root key has opened stay open while it does not answer.
const DefaultKeep = time.Hour

// Options say how to open a root key.
type Options struct {
	// PassphraseFrom is a file with the passphrase, "-" for standard input; empty when the key needs none.
	PassphraseFrom string
	// Create makes a key where there is none and the provider can.
	Create bool
	// Keep bounds how long what a remote key has opened stays open while it does not answer; 0 means DefaultKeep.
	Keep time.Duration
	// Clock is the time; nil means time.Now.
	Clock func() time.Time
}

// Remote says whether a reference names a file that describes a key kept elsewhere.
func Remote(ref string) bool {
	ext := filepath.Ext(ref)
	return !IsCredential(ref) && (ext == ".yaml" || ext == ".yml")
}

// IsCredential says whether a reference names a systemd credential.
func IsCredential(ref string) bool { return strings.HasPrefix(ref, credentialPrefix) }

// Open opens the root key that a reference names:
//
//	credential:NAME   a systemd credential with the key's 32 bytes
//	FILE.yaml         the description of a key in OpenBao or Vault, a PKCS#11 token or a KMIP server (Description)
//	FILE              the key's 32 bytes, or the parameters of its derivation when Options name a passphrase
//
// A root that is kept elsewhere has answered once when Open returns it; close it with Close.
func Open(ref string, o Options) (keystore.Root, error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Keep == 0 {
		o.Keep = DefaultKeep
	}
	switch {
	case IsCredential(ref):
		path, err := credential(ref)
		if err != nil {
			return nil, fmt.Errorf("opening the root key: %w", err)
		}
		return keystore.OpenRootCredential(path)
	case Remote(ref):
		return openRemote(ref, o)
	}
	return openLocal(ref, o)
}

func openLocal(path string, o Options) (keystore.Root, error) {
	_, err := os.Lstat(path)
	create := o.Create && errors.Is(err, fs.ErrNotExist)
	if create {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("making the folder of the root key: %w", err)
		}
	}
	if o.PassphraseFrom == "" {
		if create {
			return keystore.CreateRootFile(path)
		}
		return keystore.OpenRootFile(path)
	}
	passphrase, err := readPassphrase(o.PassphraseFrom)
	if err != nil {
		return nil, err
	}
	if create {
		return keystore.CreatePassphraseRoot(path, passphrase)
	}
	return keystore.OpenPassphraseRoot(path, passphrase)
}

func readPassphrase(from string) (string, error) {
	in := os.Stdin
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return "", fmt.Errorf("reading the root passphrase: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, 64<<10))
	if err != nil {
		return "", fmt.Errorf("reading the root passphrase: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// credential is the path of a systemd credential.
func credential(ref string) (string, error) {
	name := strings.TrimPrefix(ref, credentialPrefix)
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return "", fmt.Errorf("%q names no credential: write credential:NAME", ref)
	}
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", fmt.Errorf("%s is handed over by systemd, and this process was not started with credentials: run it from a unit with LoadCredentialEncrypted=%s:FILE, or with systemd-run -p LoadCredentialEncrypted=%s:FILE",
			ref, name, name)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: add LoadCredentialEncrypted=%s:FILE to the unit", err, name)
	}
	return path, nil
}

// readSecret reads a small text such as a token or a PIN: from a file that others cannot read, or a systemd credential.
func readSecret(ref string) (string, error) {
	path := ref
	if IsCredential(ref) {
		var err error
		if path, err = credential(ref); err != nil {
			return "", err
		}
		b, err := os.ReadFile(path)
		return strings.TrimSpace(string(b)), err
	}
	const limit = 64 << 10
	b, err := keystore.ReadSecretFile(path, limit)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(b))
	if text == "" || len(b) > limit {
		return "", fmt.Errorf("%s is empty or longer than %d bytes", path, limit)
	}
	return text, nil
}
