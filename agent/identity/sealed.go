package identity

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"keyward/agent/identity/tpm"
)

// GradeTPM names a private key that cannot leave the machine's TPM.
const GradeTPM = "TPM"

// WithTPM lets the store make keys in a TPM and use those that are there. With require it refuses a key in a file.
func (s *Store) WithTPM(d *tpm.Device, require bool) *Store {
	with := *s
	with.tpm, with.require = d, require
	return &with
}

// TPM returns the machine's TPM with its keys, and makes an attestation key on first use. The device is nil where none is
// used.
func (s *Store) TPM() (*tpm.Device, tpm.Keys, error) {
	if s.tpm == nil {
		return nil, tpm.Keys{}, nil
	}
	keys, err := s.tpmKeys()
	if errors.Is(err, fs.ErrNotExist) {
		keys, err = s.makeKeys(false)
	}
	return s.tpm, keys, err
}

// sealedKey makes the machine's key in the TPM.
func (s *Store) sealedKey() (crypto.Signer, error) {
	keys, err := s.makeKeys(true)
	if err != nil {
		return nil, err
	}
	return s.tpm.Signer(*keys.Identity)
}

func (s *Store) makeKeys(identity bool) (tpm.Keys, error) {
	keys, err := s.tpm.NewKeys(identity)
	if err != nil {
		return keys, fmt.Errorf("make the machine key: %w", err)
	}
	data, err := json.MarshalIndent(keys, "", "  ")
	if err != nil {
		return keys, fmt.Errorf("encode the machine key: %w", err)
	}
	return keys, s.write(tpmFile, data)
}

// tpmKeys reads the keys that the machine has in its TPM. An image has none there: its copies have other TPMs.
func (s *Store) tpmKeys() (keys tpm.Keys, err error) {
	if s.key != keyFile {
		return keys, fs.ErrNotExist
	}
	data, err := s.read(tpmFile)
	if err != nil {
		return keys, err
	}
	if err := json.Unmarshal(data, &keys); err != nil || len(keys.Attestation.Public) == 0 {
		return keys, fmt.Errorf("%s does not hold keys of a TPM; remove it and enrol the machine again", s.path(tpmFile))
	}
	return keys, nil
}
