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

// OpenAccountSecret is the reverse; a KEK of a generation before opens too, while a rotation goes on. The caller wipes the
// secret.
func OpenAccountSecret(root Root, a AccountKey, purpose, subject string, wrapped []byte) (Key, error) {
	secret, err := a.unwrap(root, 0, secretAAD(a, purpose, subject), wrapped)
	if err != nil {
		return Key{}, fmt.Errorf("opening the %s of %s: %w", purpose, subject, err)
	}
	return secret, nil
}

// RewrapAccountSecret moves a secret from an earlier KEK of its account to the present one; a rotation does it for all of
// them in the transaction that forgets the earlier ones.
func RewrapAccountSecret(root Root, a AccountKey, purpose, subject string, wrapped []byte) ([]byte, error) {
	secret, err := OpenAccountSecret(root, a, purpose, subject, wrapped)
	if err != nil {
		return nil, fmt.Errorf("rotating the account key: %w", err)
	}
	defer secret.Wipe()
	return WrapAccountSecret(root, a, purpose, subject, secret)
}

func secretAAD(a AccountKey, purpose, subject string) []byte {
	return aad("keyward account secret v1", a.AccountID, purpose, subject)
}
