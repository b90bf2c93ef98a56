package keystore

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"

	"keyward/broker/api"
	"keyward/broker/client"
)

// AccountKey is an account's KEK as its row keeps it.
type AccountKey struct {
	AccountID string
	// Generation counts the account's rotations from 1.
	Generation int64
	RootKeyID  string
	Wrapped    []byte
	// Earlier are the KEKs of generations before that still wrap something, while a rotation goes on.
	Earlier []AccountKey
}

// DeviceKey is a device's DEK as its row keeps it.
type DeviceKey struct {
	AccountID string
	DeviceID  string
	// Bits is the AES key size; the volume key is twice as long for XTS.
	Bits int
	// Cipher is the volume's, as api.VolumeRecord has it; empty means XTS.
	Cipher string
	// Generation counts the keys that the device has had, from 1. It is not the account key's.
	Generation int64
	// AccountGeneration is that of the KEK that wraps it; 0 where the row does not say.
	AccountGeneration int64
	Wrapped           []byte
}

func (a AccountKey) aad() []byte {
	return aad("keyward account key v1", a.AccountID, strconv.FormatInt(a.Generation, 10))
}

func (d DeviceKey) aad() []byte {
	fields := []string{d.AccountID, d.DeviceID, strconv.FormatInt(d.Generation, 10), strconv.Itoa(d.Bits)}
	if d.Cipher != "" && d.Cipher != api.CipherXTS { // keys of XTS volumes were wrapped before there was another cipher
		fields = append(fields, d.Cipher)
	}
	return aad("keyward device key v1", fields...)
}

// NewAccountKey makes the first KEK of an account.
func NewAccountKey(root Root, accountID string) (AccountKey, error) {
	if accountID == "" {
		return AccountKey{}, errors.New("keystore: an account key needs its account's ID")
	}
	return newAccountKey(root, AccountKey{AccountID: accountID, Generation: 1})
}

func newAccountKey(root Root, a AccountKey) (AccountKey, error) {
	kek := randomKey(kekBytes)
	defer kek.Wipe()
	return sealAccountKey(root, a, kek)
}

func sealAccountKey(root Root, a AccountKey, kek Key) (AccountKey, error) {
	root = Active(root) // one and the same for the key and for its name
	wrapped, err := root.Wrap(a.aad(), kek)
	if err != nil {
		return AccountKey{}, fmt.Errorf("wrapping the key of account %s: %w", a.AccountID, err)
	}
	a.RootKeyID, a.Wrapped = root.ID(), wrapped
	return a, nil
}

// open unwraps an account's KEK; the caller wipes it.
func (a AccountKey) open(root Root) (Key, error) {
	from, ok := byID(root, a.RootKeyID)
	if !ok {
		return Key{}, fmt.Errorf("the key of account %s was wrapped by root key %s, and this broker runs with %s: start it with the root key it was set up with, or rotate: %w",
			a.AccountID, a.RootKeyID, root.ID(), ErrUnwrap)
	}
	kek, err := from.Unwrap(a.aad(), a.Wrapped)
	if err != nil {
		return Key{}, fmt.Errorf("opening the key of account %s: %w", a.AccountID, err)
	}
	return kek, nil
}

// unwrap opens what a KEK of the account wrapped: the one of the generation, or whichever does where that is 0.
func (a AccountKey) unwrap(root Root, generation int64, aad, wrapped []byte) (Key, error) {
	err := error(ErrUnwrap)
	for _, k := range append([]AccountKey{a}, a.Earlier...) {
		if generation != 0 && k.Generation != generation {
			continue
		}
		var kek, key Key
		if kek, err = k.open(root); err != nil {
			return Key{}, err
		}
		key, err = unwrap(kek, aad, wrapped)
		kek.Wipe()
		if err == nil {
			return key, nil
		}
	}
	return Key{}, err
}

// NewDeviceKey makes a DEK for a device. generation is 1 for its first key and one more for each that follows.
func NewDeviceKey(root Root, a AccountKey, deviceID string, bits int, generation int64) (DeviceKey, error) {
	if deviceID == "" || generation < 1 {
		return DeviceKey{}, errors.New("keystore: a device key needs its device's ID and a generation from 1")
	}
	key, err := newVolumeKey(bits)
	if err != nil {
		return DeviceKey{}, err
	}
	defer key.Wipe()
	return WrapDeviceKey(root, a, DeviceKey{AccountID: a.AccountID, DeviceID: deviceID, Bits: bits, Generation: generation}, key)
}

// NextDeviceKey makes another DEK for a device, of the cipher and size of the one that it has.
func NextDeviceKey(root Root, a AccountKey, now DeviceKey, generation int64) (DeviceKey, error) {
	if generation <= now.Generation {
		return DeviceKey{}, fmt.Errorf("keystore: the key that follows number %d of device %s cannot be number %d", now.Generation, now.DeviceID, generation)
	}
	n, err := client.VolumeKeyBytes(now.Cipher, now.Bits)
	if err != nil {
		return DeviceKey{}, err
	}
	key := randomKey(n)
	defer key.Wipe()
	now.Generation = generation
	return WrapDeviceKey(root, a, now, key)
}

// WrapDeviceKey wraps a volume key for the row d; d.Wrapped is ignored. It serves clones, which share their source's
// volume key: OpenDeviceKey of the source, WrapDeviceKey for the clone.
func WrapDeviceKey(root Root, a AccountKey, d DeviceKey, key Key) (DeviceKey, error) {
	if err := d.check(a, key); err != nil {
		return DeviceKey{}, err
	}
	kek, err := a.open(root)
	if err != nil {
		return DeviceKey{}, err
	}
	defer kek.Wipe()
	if d.Wrapped, err = wrap(kek, d.aad(), key); err != nil {
		return DeviceKey{}, fmt.Errorf("wrapping the key of device %s: %w", d.DeviceID, err)
	}
	d.AccountGeneration = a.Generation
	return d, nil
}

// OpenDeviceKey unwraps a device's volume key. The caller wipes it as soon as it can.
func OpenDeviceKey(root Root, a AccountKey, d DeviceKey) (Key, error) {
	if a.AccountID != d.AccountID {
		return Key{}, fmt.Errorf("opening the key of device %s: it belongs to account %s, not %s: %w", d.DeviceID, d.AccountID, a.AccountID, ErrUnwrap)
	}
	key, err := a.unwrap(root, d.AccountGeneration, d.aad(), d.Wrapped)
	if err != nil {
		return Key{}, fmt.Errorf("opening the key of device %s: %w", d.DeviceID, err)
	}
	if err := d.check(a, key); err != nil {
		key.Wipe()
		return Key{}, err
	}
	return key, nil
}

func (d DeviceKey) check(a AccountKey, key Key) error {
	if a.AccountID != d.AccountID {
		return fmt.Errorf("keystore: device %s belongs to account %s, not %s", d.DeviceID, d.AccountID, a.AccountID)
	}
	n, err := client.VolumeKeyBytes(d.Cipher, d.Bits)
	if err != nil {
		return err
	}
	if key.Len() != n {
		return fmt.Errorf("keystore: the volume key of device %s has %d bytes, %s with %d bits takes %d: restore the row from a backup",
			d.DeviceID, key.Len(), cmp.Or(d.Cipher, api.CipherXTS), d.Bits, n)
	}
	return nil
}
