package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"keyward/agent/identity/tpm"
	"keyward/broker/api"
)

const (
	keyFile       = "machine.key"
	enrolmentFile = "enrolment.json"
	imageKeyFile  = "image.key"
	imageFile     = "image.json"
	tpmFile       = "tpm.json"
	maxFileBytes  = 1 << 20
)

// Store is the folder that holds a machine's identity, or its image's.
type Store struct {
	dir, key, enrolment string
	// tpm is where keys are made; require refuses a machine's key in a file.
	tpm     *tpm.Device
	require bool
}

// NewStore names the folder; nothing is read or made yet.
func NewStore(dir string) *Store { return &Store{dir: dir, key: keyFile, enrolment: enrolmentFile} }

// NewImageStore names the folder of the identity that all machines made from one image share. It is there to enrol them,
// and nothing else.
func NewImageStore(dir string) *Store {
	return &Store{dir: dir, key: imageKeyFile, enrolment: imageFile}
}

// Load returns the identity of an enrolled machine, or an error that wraps ErrNotEnrolled. It refuses files that others
// than their owner can read or change.
func (s *Store) Load() (*Identity, error) {
	data, err := s.read(s.enrolment)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", s.dir, ErrNotEnrolled)
	}
	if err != nil {
		return nil, err
	}
	key, err := s.loadKey()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: the machine key is gone while the certificate is still there: %w", s.dir, ErrNotEnrolled)
	}
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read %s: %w; enrol the machine again", s.path(s.enrolment), err)
	}
	id, err := r.assemble(key)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.path(s.enrolment), err)
	}
	return id, nil
}

// Key returns the machine's private key and makes it on first use, in the TPM where there is one. It stays the same over
// later enrolments, so that replacing the certificate is one rename.
func (s *Store) Key() (crypto.Signer, error) {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state folder: %w", err)
	}
	if err := private(s.dir, true); err != nil {
		return nil, err
	}
	signer, err := s.loadKey()
	if !errors.Is(err, fs.ErrNotExist) {
		return signer, err
	}
	if s.tpm != nil {
		return s.sealedKey()
	}
	return s.softwareKey()
}

func (s *Store) softwareKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the machine key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the machine key: %w", err)
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	defer clear(text)
	if err := s.write(s.key, text); err != nil {
		return nil, err
	}
	return key, nil
}

// CSR is a PEM certificate request for key. The broker takes nothing from it but the public key.
func CSR(key crypto.Signer) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "keyward-agent"}, SignatureAlgorithm: x509.ECDSAWithSHA256}, key)
	if err != nil {
		return "", fmt.Errorf("make the certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// Save checks the broker's answer against the machine's key and keeps it. It replaces an earlier enrolment at once or
// not at all. machine is the provider's name for the machine, by which a copy of its disk is told from it.
func (s *Store) Save(a api.EnrolResponse, url, machine string) (*Identity, error) {
	r := fromResponse(a, url)
	r.Machine = machine
	return s.keep(r)
}

// Renewed keeps a certificate that follows the one that the machine has.
func (s *Store) Renewed(id *Identity, certificate string) (*Identity, error) {
	r := record{InstanceID: id.InstanceID, ImageID: id.ImageID, AccountID: id.AccountID, AccountName: id.AccountName, Broker: id.Broker,
		URL: id.URL, Machine: id.Machine, Certificate: certificate, CA: string(id.CA)}
	return s.keep(r)
}

// Discard removes the identity of another machine, of which this one's disk is a copy.
func (s *Store) Discard() error {
	for _, name := range []string{s.enrolment, s.key, tpmFile} {
		if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the identity of the machine that this one was copied from: %w", err)
		}
	}
	return nil
}

func (s *Store) keep(r record) (*Identity, error) {
	key, err := s.loadKey()
	if err != nil {
		return nil, fmt.Errorf("keep the enrolment: %w", err)
	}
	id, err := r.assemble(key)
	if err != nil {
		return nil, fmt.Errorf("the broker's answer to the enrolment is not usable: %w", err)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the enrolment: %w", err)
	}
	return id, s.write(s.enrolment, data)
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// loadKey returns the key in the TPM, or the one in the file.
func (s *Store) loadKey() (crypto.Signer, error) {
	keys, err := s.tpmKeys()
	if err == nil && keys.Identity != nil {
		if s.tpm == nil {
			return nil, errors.New("this machine's key lives in its TPM, which is not there: set tpm and tpm_device, or remove " +
				s.path(tpmFile) + " and enrol the machine again")
		}
		return s.tpm.Signer(*keys.Identity)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err := s.loadFile()
	if err != nil {
		return nil, err
	}
	if s.require {
		return nil, fmt.Errorf("tpm: require is set, and this machine's key is the file %s; remove it and enrol the machine again", s.path(s.key))
	}
	return key, nil
}

func (s *Store) loadFile() (*ecdsa.PrivateKey, error) {
	data, err := s.read(s.key)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("%s holds no PEM private key; restore it or remove it and enrol again", s.path(s.key))
	}
	defer clear(block.Bytes)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.path(s.key), err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s is not an ECDSA P-256 key; remove it and enrol again", s.path(s.key))
	}
	return key, nil
}

// read returns a file that belongs to this user alone.
func (s *Store) read(name string) ([]byte, error) {
	if err := private(s.dir, true); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(name))
	if err != nil {
		return nil, fmt.Errorf("open the machine's identity: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open the machine's identity: %w", err)
	}
	if err := privateInfo(s.path(name), info, false); err != nil {
		return nil, err
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are expected", s.path(name), info.Size(), maxFileBytes)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil, fmt.Errorf("read the machine's identity: %w", err)
	}
	return data, nil
}

func (s *Store) write(name string, data []byte) error {
	if err := renameio.WriteFile(s.path(name), data, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("keep the machine's identity: %w", err)
	}
	return nil
}
