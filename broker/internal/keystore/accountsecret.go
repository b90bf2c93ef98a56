package keystore

import (
	"errors"
	"fmt"
)

// WrapAccountSecret wraps a secret of an account, such as a person's second factor, by the account's KEK. purpose and
// subject, the ID of the row that keeps it, are bound to it.
func WrapAccountSecret(root Root, a AccountKey, purpose, subject string, secret Key) ([]byte, error) {
	if purpose == "" || subject == "" {
		return nil, errors.New("keystore: a secret of an account needs a purpose and a subject")
	}
	kek, err := a.open(root)
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	wrapped, err := wrap(kek, secretAAD(a, purpose, subject), secret)
	if err != nil {
		return nil, fmt.Errorf("wrapping the %s of %s: %w", purpose, subject, err)
	}
	return wrapped, nil
}

// OpenAccountSecret is the reverse. The caller wipes the secret.
func OpenAccountSecret(root Root, a AccountKey, purpose, subject string, wrapped []byte) (Key, error) {
	kek, err := a.open(root)
	if err != nil {
		return Key{}, err
	}
	defer kek.Wipe()
	secret, err := unwrap(kek, secretAAD(a, purpose, subject), wrapped)
	if err != nil {
		return Key{}, fmt.Errorf("opening the %s of %s: %w", purpose, subject, err)
	}
	return secret, nil
}

// RewrapAccountSecret moves a secret from one KEK of its account to the next; a rotation does it for all of them in the
// transaction that stores the new KEK.
func RewrapAccountSecret(root Root, from, to AccountKey, purpose, subject string, wrapped []byte) ([]byte, error) {
	secret, err := OpenAccountSecret(root, from, purpose, subject, wrapped)
	if err != nil {
		return nil, fmt.Errorf("rotating the account key: %w", err)
	}
	defer secret.Wipe()
	return WrapAccountSecret(root, to, purpose, subject, secret)
}

func secretAAD(a AccountKey, purpose, subject string) []byte {
	return aad("keyward account secret v1", a.AccountID, purpose, subject)
}
