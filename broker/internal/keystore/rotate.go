package keystore

import (
	"crypto/subtle"
	"fmt"
)

// RewrapAccountKey wraps an account's KEK under another root key: rotation of the root, or a change of its provider.
// The KEK stays, so device keys are untouched.
//
// The result has been opened again with the new root key, and holds the same KEK: a place that takes keys and does not
// give them back is found out before anything depends on it.
func RewrapAccountKey(from, to Root, a AccountKey) (AccountKey, error) {
	kek, err := a.open(from)
	if err != nil {
		return AccountKey{}, fmt.Errorf("rotating the root key: %w", err)
	}
	defer kek.Wipe()
	out, err := sealAccountKey(to, a, kek)
	if err != nil {
		return AccountKey{}, fmt.Errorf("rotating the root key: %w", err)
	}
	back, err := out.open(to)
	if err != nil {
		return AccountKey{}, fmt.Errorf("rotating the root key: what the new one wrapped does not open: %w", err)
	}
	defer back.Wipe()
	if subtle.ConstantTimeCompare(back.Bytes(), kek.Bytes()) != 1 {
		return AccountKey{}, fmt.Errorf("rotating the root key: what the new one gives back for account %s is not what it was given: do not use it: %w", a.AccountID, ErrUnwrap)
	}
	return out, nil
}

// NextAccountKey makes an account's next KEK and keeps the present ones as Earlier. The caller rewraps every device key
// with RewrapDeviceKey and forgets the earlier KEKs only when nothing is wrapped by them any more.
func NextAccountKey(root Root, a AccountKey) (AccountKey, error) {
	earlier := append([]AccountKey{{AccountID: a.AccountID, Generation: a.Generation, RootKeyID: a.RootKeyID, Wrapped: a.Wrapped}}, a.Earlier...)
	return newAccountKey(root, AccountKey{AccountID: a.AccountID, Generation: a.Generation + 1, Earlier: earlier})
}

// RewrapDeviceKey moves a device key from an earlier KEK of its account to the present one. The volume key stays, so the
// volume does.
func RewrapDeviceKey(root Root, a AccountKey, d DeviceKey) (DeviceKey, error) {
	key, err := OpenDeviceKey(root, a, d)
	if err != nil {
		return DeviceKey{}, fmt.Errorf("rotating the account key: %w", err)
	}
	defer key.Wipe()
	return WrapDeviceKey(root, a, d, key)
}

// CheckAccountKey says whether a root key opens an account's key.
func CheckAccountKey(root Root, a AccountKey) error {
	kek, err := a.open(root)
	kek.Wipe()
	return err
}
