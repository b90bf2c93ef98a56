package keystore

import (
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"keyward/broker/api"
	"keyward/broker/client"
)

// The purposes of a delivery.
const (
	PurposeKeyRequest = "key-request"
	PurposeEncryptJob = "encrypt-job"
)

// ErrPublicKey says that an agent's public key cannot be sealed to.
var ErrPublicKey = errors.New("the public key is not an MLKEM768-X25519 key: update the agent")

// CheckPublicKey refuses, with ErrPublicKey, what SealFor could not seal to, so that a request fails when it is made and
// not when it is approved.
func CheckPublicKey(publicKey []byte) error {
	_, err := parsePublicKey(publicKey)
	return err
}

func parsePublicKey(publicKey []byte) (hpke.PublicKey, error) {
	kem, _, _ := client.DeliverySuite()
	key, err := kem.NewPublicKey(publicKey)
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrPublicKey, err)
	}
	return key, nil
}

// Sealer is an encapsulation to the public key of one request, made before the transaction that delivers: it is most of
// what a delivery computes, and nobody should wait for it.
type Sealer struct {
	publicKey []byte
	mu        sync.Mutex
	// read is the public key until it is used: it is large, and thousands of requests may wait for their transactions.
	read  hpke.PublicKey
	ready *encapsulation
}

type encapsulation struct {
	key    []byte
	sender *hpke.Sender
}

// NewSealer encapsulates to a public key, which it keeps; an error wraps ErrPublicKey when the key is at fault.
func NewSealer(publicKey []byte) (*Sealer, error) {
	s, err := ParseSealer(publicKey)
	if err != nil {
		return nil, err
	}
	return s, s.Encapsulate()
}

// ParseSealer is NewSealer without the encapsulation, which costs most and is made by Encapsulate, or else by the first
// Seal: a key that nothing may be sealed to need only be read.
func ParseSealer(publicKey []byte) (*Sealer, error) {
	public, err := parsePublicKey(publicKey)
	if err != nil {
		return nil, err
	}
	return &Sealer{publicKey: publicKey, read: public}, nil
}

// Encapsulate makes what the next Seal needs.
func (s *Sealer) Encapsulate() error {
	e, err := s.take()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.ready = e
	s.mu.Unlock()
	return nil
}

// take returns an encapsulation that was never used: a second seal under the same one would not open.
func (s *Sealer) take() (*encapsulation, error) {
	s.mu.Lock()
	e, public := s.ready, s.read
	s.ready, s.read = nil, nil
	s.mu.Unlock()
	if e != nil {
		return e, nil
	}
	if public == nil {
		var err error
		if public, err = parsePublicKey(s.publicKey); err != nil {
			return nil, err
		}
	}
	_, kdf, aead := client.DeliverySuite()
	key, sender, err := hpke.NewSender(public, kdf, aead, []byte(api.HPKEInfo))
	if err != nil {
		return nil, fmt.Errorf("encapsulating to the public key of a request: %w", err)
	}
	return &encapsulation{key, sender}, nil
}

// SealFor seals a device key, or the keys of all members of a RAID set one after the other, and the volume record v and the
// device as its machine knows it, which belong to it, to the public key of one request. The first of keys is the device's of
// the binding; the others are named by device.Set, which the binding covers. It fills the binding's two hashes; every other
// field of the binding is needed. v is empty for a device that is to be encrypted. The plain keys exist only inside this call.
func SealFor(root Root, publicKey []byte, b api.DeliveryBinding, a AccountKey, keys []DeviceKey, v api.VolumeRecord, device api.AssignedDevice) (api.KeyDelivery, error) {
	s, err := NewSealer(publicKey)
	if err != nil {
		return api.KeyDelivery{}, fmt.Errorf("sealing the key of device %s: %w", b.DeviceID, err)
	}
	return s.Seal(root, b, a, keys, v, device)
}

// Seal is SealFor. It may be called again, when the transaction around it is repeated.
func (s *Sealer) Seal(root Root, b api.DeliveryBinding, a AccountKey, keys []DeviceKey, v api.VolumeRecord, device api.AssignedDevice) (api.KeyDelivery, error) {
	err := checkBinding(b, keys, device)
	if err != nil {
		return api.KeyDelivery{}, fmt.Errorf("sealing the key of device %s: %w", b.DeviceID, err)
	}
	if b.VolumeSHA256, err = client.VolumeSHA256(v); err != nil {
		return api.KeyDelivery{}, fmt.Errorf("sealing the key of device %s: %w", b.DeviceID, err)
	}
	if b.DeviceSHA256, err = client.DeviceSHA256(device); err != nil {
		return api.KeyDelivery{}, fmt.Errorf("sealing the key of device %s: %w", b.DeviceID, err)
	}
	binding, err := json.Marshal(b)
	if err != nil {
		return api.KeyDelivery{}, err
	}
	// The largest key beforehand, so that nothing of a key is left where append has moved it from.
	plain := make([]byte, 0, len(keys)*maxKeyBytes)
	defer func() { clear(plain[:cap(plain)]) }()
	for _, d := range keys {
		key, err := OpenDeviceKey(root, a, d)
		if err != nil {
			return api.KeyDelivery{}, err
		}
		plain = append(plain, key.Bytes()...)
		key.Wipe()
	}
	e, err := s.take()
	if err != nil {
		return api.KeyDelivery{}, fmt.Errorf("sealing the key of device %s: %w", b.DeviceID, err)
	}
	sealed, err := e.sender.Seal(binding, plain)
	if err != nil {
		return api.KeyDelivery{}, fmt.Errorf("sealing the key of device %s: %w", b.DeviceID, err)
	}
	return api.KeyDelivery{Binding: binding, EncapsulatedKey: e.key, SealedKey: sealed, LeaseSeconds: b.LeaseSeconds, Volume: v, Device: device}, nil
}

// maxKeyBytes is the longest volume key: two AES keys of 256 bits.
const maxKeyBytes = 64

func checkBinding(b api.DeliveryBinding, keys []DeviceKey, device api.AssignedDevice) error {
	if len(keys) == 0 {
		return errors.New("there is no key")
	}
	d := keys[0]
	if err := checkMembers(keys, device); err != nil {
		return err
	}
	switch {
	case b.Purpose != PurposeKeyRequest && b.Purpose != PurposeEncryptJob:
		return fmt.Errorf("%q is no purpose of a delivery", b.Purpose)
	case b.AccountID != d.AccountID || b.DeviceID != d.DeviceID:
		return fmt.Errorf("the delivery is for device %s of account %s", b.DeviceID, b.AccountID)
	case b.AccountID == "" || b.DeviceID == "" || b.RequestID == "" || b.InstanceID == "" || b.Nonce == "":
		return errors.New("a delivery is bound to account, device, request, instance and nonce, and one is missing")
	case b.LeaseSeconds <= 0:
		return fmt.Errorf("a lease of %d s cannot be delivered", b.LeaseSeconds)
	}
	return nil
}

// checkMembers compares the keys with the RAID set that they are delivered for: all of its members, in their order.
func checkMembers(keys []DeviceKey, device api.AssignedDevice) error {
	if device.Set == nil {
		if len(keys) != 1 {
			return fmt.Errorf("%d keys for one device", len(keys))
		}
		return nil
	}
	if len(keys) != len(device.Set.Members) {
		return fmt.Errorf("%d keys for %d members of RAID set %s", len(keys), len(device.Set.Members), device.Set.ID)
	}
	for i, k := range keys {
		if k.DeviceID != device.Set.Members[i].ID || k.AccountID != keys[0].AccountID {
			return fmt.Errorf("the key at place %d is of device %s, member %d of RAID set %s is %s", i, k.DeviceID, i, device.Set.ID, device.Set.Members[i].ID)
		}
	}
	return nil
}
