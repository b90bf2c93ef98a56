package keystore

import "fmt"

// RewrapAccountKey wraps an account's KEK under another root key: rotation of the root, or a change of its provider.
// The KEK stays, so device keys are untouched.
func RewrapAccountKey(from, to Root, a AccountKey) (AccountKey, error) {
	kek, err := a.open(from)
	if err != nil {
		return AccountKey{}, fmt.Errorf("rotating the root key: %w", err)
	}
	defer kek.Wipe()
	return sealAccountKey(to, a, kek)
}

// NextAccountKey makes an account's next KEK. The caller rewraps every device key with RewrapDeviceKey and stores all
// of it in one transaction: half a rotation would lose the other half's keys.
func NextAccountKey(root Root, a AccountKey) (AccountKey, error) {
	return newAccountKey(root, AccountKey{AccountID: a.AccountID, Generation: a.Generation + 1})
}

// RewrapDeviceKey moves a device key from one KEK of its account to the next. The volume key stays, so the volume does.
func RewrapDeviceKey(root Root, from, to AccountKey, d DeviceKey) (DeviceKey, error) {
	key, err := OpenDeviceKey(root, from, d)
	if err != nil {
		return DeviceKey{}, fmt.Errorf("rotating the account key: %w", err)
	}
	defer key.Wipe()
	return WrapDeviceKey(root, to, d, key)
}
