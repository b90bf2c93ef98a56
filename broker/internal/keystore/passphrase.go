package keystore

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/crypto/argon2"
)

// ErrPassphrase says that a passphrase is not the one that a root key was made from.
var ErrPassphrase = errors.New("wrong passphrase")

// MinPassphrase is the least length in bytes of the passphrase of a root key: everything hangs on it.
const MinPassphrase = 12

// Argon2id parameters (RFC 9106, its second recommendation with a pass more): about a quarter second, 64 MiB.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 4
	saltBytes    = 16
)

// passphraseFile is what stands beside the database for a root key from a passphrase. None of it is secret, but who can
// change it could make the derivation cheap or impossible, so it is guarded like a key file.
type passphraseFile struct {
	Format    string `json:"format"`
	KDF       string `json:"kdf"`
	Time      uint32 `json:"time"`
	MemoryKiB uint32 `json:"memory_kib"`
	Threads   uint8  `json:"threads"`
	Salt      []byte `json:"salt"`
	KeyID     string `json:"key_id"`
}

const (
	passphraseFormat   = "keyward-root-passphrase-v1"
	maxPassphraseFile  = 4 << 10
	maxArgonTime       = 16
	minArgonMemory     = 19 << 10  // KiB; OWASP's least for Argon2id
	maxArgonMemory     = 512 << 10 // KiB
	maxArgonThreads    = 16
	maxPassphraseBytes = 1024
)

// CreatePassphraseRoot makes a root key from a passphrase and writes the parameters of its derivation to path. An
// existing file is never touched. Losing that file loses every key, as losing the passphrase does.
func CreatePassphraseRoot(path, passphrase string) (Root, error) {
	if len(passphrase) < MinPassphrase || len(passphrase) > maxPassphraseBytes {
		return nil, fmt.Errorf("a root passphrase has %d to %d bytes: choose another", MinPassphrase, maxPassphraseBytes)
	}
	p := passphraseFile{Format: passphraseFormat, KDF: "argon2id", Time: argonTime, MemoryKiB: argonMemory, Threads: argonThreads, Salt: make([]byte, saltBytes)}
	rand.Read(p.Salt)
	root, err := newMemoryRoot(p.derive(passphrase), ProviderPassphrase)
	if err != nil {
		return nil, err
	}
	p.KeyID = root.ID()
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := createSecretFile(path, append(data, '\n')); err != nil {
		return nil, fmt.Errorf("creating root passphrase parameters: %w", err)
	}
	return root, nil
}

// OpenPassphraseRoot derives the root key again. The error wraps ErrPassphrase when the passphrase is another.
func OpenPassphraseRoot(path, passphrase string) (Root, error) {
	data, err := ReadSecretFile(path, maxPassphraseFile)
	if err != nil {
		return nil, fmt.Errorf("opening root passphrase parameters: %w", err)
	}
	p, err := parsePassphraseFile(data)
	if err != nil {
		return nil, fmt.Errorf("opening root passphrase parameters %s: %w: restore the file from its backup", path, err)
	}
	if len(passphrase) > maxPassphraseBytes {
		return nil, ErrPassphrase
	}
	root, err := newMemoryRoot(p.derive(passphrase), ProviderPassphrase)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(root.ID()), []byte(p.KeyID)) != 1 {
		root.key.Wipe()
		return nil, fmt.Errorf("opening the root key of %s: %w: type it again", path, ErrPassphrase)
	}
	return root, nil
}

func parsePassphraseFile(data []byte) (passphraseFile, error) {
	if len(data) > maxPassphraseFile {
		return passphraseFile{}, fmt.Errorf("it is longer than %d bytes", maxPassphraseFile)
	}
	var p passphraseFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return passphraseFile{}, err
	}
	switch {
	case p.Format != passphraseFormat || p.KDF != "argon2id":
		return passphraseFile{}, fmt.Errorf("format %q with %q is not %q with argon2id", p.Format, p.KDF, passphraseFormat)
	case p.Time < 1 || p.Time > maxArgonTime || p.MemoryKiB < minArgonMemory || p.MemoryKiB > maxArgonMemory || p.Threads < 1 || p.Threads > maxArgonThreads:
		return passphraseFile{}, fmt.Errorf("its Argon2id parameters (time %d, memory %d KiB, threads %d) are out of range", p.Time, p.MemoryKiB, p.Threads)
	case len(p.Salt) < saltBytes || len(p.Salt) > 64:
		return passphraseFile{}, fmt.Errorf("its salt has %d bytes", len(p.Salt))
	}
	return p, nil
}

func (p passphraseFile) derive(passphrase string) Key {
	return argon(passphrase, p.Salt, p.Time, p.MemoryKiB, p.Threads)
}

// deriving lets one derivation run at a time: each takes 64 MiB, and ten exports at once must not take ten times that.
var deriving sync.Mutex

func argon(passphrase string, salt []byte, time, memoryKiB uint32, threads uint8) Key {
	deriving.Lock()
	defer deriving.Unlock()
	return KeyOf(argon2.IDKey([]byte(passphrase), salt, time, memoryKiB, threads, kekBytes))
}
