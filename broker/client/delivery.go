package client

import (
	"bytes"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"keyward/broker/api"
)

// DeliverySuite is the HPKE suite (RFC 9180) of every key delivery: MLKEM768-X25519 as of draft-ietf-hpke-pq, so a
// recording of today's traffic stays closed to tomorrow's quantum computer, with HKDF-SHA256 and AES-256-GCM.
func DeliverySuite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// ErrDelivery says that a delivery is not the one that was asked for, or was changed on the way.
var ErrDelivery = errors.New("the delivered key is refused")

const (
	encapsulatedBytes = 1120 // ML-KEM-768 ciphertext and X25519 share
	maxBinding        = 4096
	tagBytes          = 16
	maxMembers        = 64 // of a RAID set
)

// DeliveryKey is the private half of one request's HPKE key. It opens what is sealed to PublicKey; make a fresh one for
// every request.
type DeliveryKey struct {
	private hpke.PrivateKey
	public  []byte
}

// NewDeliveryKey makes a fresh key.
func NewDeliveryKey() (*DeliveryKey, error) {
	kem, _, _ := DeliverySuite()
	private, err := kem.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making the key of a key request: %w", err)
	}
	return &DeliveryKey{private, private.PublicKey().Bytes()}, nil
}

// PublicKey is what goes into the request.
func (k *DeliveryKey) PublicKey() []byte { return bytes.Clone(k.public) }

// String says REDACTED.
func (k *DeliveryKey) String() string { return "REDACTED" }

// GoString says REDACTED.
func (k *DeliveryKey) GoString() string { return "REDACTED" }

// LogValue says REDACTED.
func (k *DeliveryKey) LogValue() slog.Value { return slog.StringValue("REDACTED") }

// Open returns the volume key of a delivery, or the keys of all members of a RAID set one after the other as
// MemberKeyBytes says, which the caller owns and wipes. It refuses, with an error that wraps
// ErrDelivery, a delivery whose binding differs from want in any field: another account, request, device, instance or
// nonce. want.LeaseSeconds 0 takes the broker's lease as it is, and the hashes in want are not looked at: the binding must
// name the volume record and the device that came with it. Open may be called again after a lost answer.
func (k *DeliveryKey) Open(d api.KeyDelivery, want api.DeliveryBinding) ([]byte, error) {
	key, err := k.open(d, want)
	if err != nil {
		return nil, fmt.Errorf("%w: %w: ask for the key again; if it happens twice, check what stands between this machine and the broker", ErrDelivery, err)
	}
	return key, nil
}

func (k *DeliveryKey) open(d api.KeyDelivery, want api.DeliveryBinding) ([]byte, error) {
	got, err := parseBinding(d.Binding)
	if err != nil {
		return nil, err
	}
	if err := compareBinding(got, want); err != nil {
		return nil, err
	}
	if d.LeaseSeconds != got.LeaseSeconds {
		return nil, fmt.Errorf("its lease of %d s is not the %d s that the key is bound to", d.LeaseSeconds, got.LeaseSeconds)
	}
	if err := compareRecords(got, d); err != nil {
		return nil, err
	}
	if len(d.EncapsulatedKey) != encapsulatedBytes {
		return nil, fmt.Errorf("its encapsulation has %d bytes, not %d", len(d.EncapsulatedKey), encapsulatedBytes)
	}
	if err := checkKeyBytes(d); err != nil {
		return nil, err
	}
	_, kdf, aead := DeliverySuite()
	recipient, err := hpke.NewRecipient(d.EncapsulatedKey, k.private, kdf, aead, []byte(api.HPKEInfo))
	if err != nil {
		return nil, fmt.Errorf("its encapsulation does not open: %w", err)
	}
	key, err := recipient.Open(d.Binding, d.SealedKey)
	if err != nil {
		return nil, fmt.Errorf("it is not sealed to this request: %w", err)
	}
	return key, nil
}

// checkKeyBytes compares the length of the sealed keys with what they are for, before anything is opened.
func checkKeyBytes(d api.KeyDelivery) error {
	keyBytes := len(d.SealedKey) - tagBytes
	if d.Device.Set != nil {
		lengths, err := MemberKeyBytes(d.Device, d.Volume)
		if err != nil {
			return err
		}
		total := 0
		for _, n := range lengths {
			total += n
		}
		if keyBytes != total {
			return fmt.Errorf("it holds %d bytes of keys, the members of RAID set %.64q have %d", keyBytes, d.Device.Set.ID, total)
		}
		return nil
	}
	if keyBytes < minVolumeKey || keyBytes > maxVolumeKey {
		return fmt.Errorf("a sealed key of %d bytes is no volume key", len(d.SealedKey))
	}
	if bits := d.Volume.KeyBits; bits != 0 {
		if n, err := VolumeKeyBytes(d.Volume.Cipher, bits); err != nil || n != keyBytes {
			return fmt.Errorf("it holds a key of %d bytes, which is none of %s with %d bits, as its volume record says", keyBytes, d.Volume.Cipher, bits)
		}
	} else if keyBytes != 32 && keyBytes != 48 && keyBytes != 64 {
		return fmt.Errorf("a key of %d bytes is none of XTS", keyBytes)
	}
	return nil
}

// MemberKeyBytes are the lengths of the keys in a delivery for a device: one, or for a RAID set one for each member in its
// order. volume is the delivery's record, empty for a device that is to be encrypted; that of a set is its first member's.
func MemberKeyBytes(device api.AssignedDevice, volume api.VolumeRecord) ([]int, error) {
	length := func(v api.VolumeRecord) (int, error) {
		if v.KeyBits == 0 {
			return VolumeKeyBytes(api.CipherXTS, device.KeyBits)
		}
		return VolumeKeyBytes(v.Cipher, v.KeyBits)
	}
	if device.Set == nil {
		n, err := length(volume)
		return []int{n}, err
	}
	if n := len(device.Set.Members); n < 2 || n > maxMembers {
		return nil, fmt.Errorf("a RAID set of %d members; expected are 2 to %d", n, maxMembers)
	}
	var out []int
	for i, m := range device.Set.Members {
		if (m.Volume == nil) != (volume.KeyBits == 0) {
			return nil, fmt.Errorf("member %d (%.64q) of RAID set %.64q lacks its volume record, or should have none", i, m.Name, device.Set.Name)
		}
		v := api.VolumeRecord{}
		if m.Volume != nil {
			v = *m.Volume
		}
		n, err := length(v)
		if err != nil {
			return nil, fmt.Errorf("member %d (%.64q) of RAID set %.64q: %w", i, m.Name, device.Set.Name, err)
		}
		if i == 0 && m.ID != device.ID {
			return nil, fmt.Errorf("the first member of RAID set %.64q is %.64q, not the device %.64q", device.Set.Name, m.ID, device.ID)
		}
		out = append(out, n)
	}
	return out, nil
}

// compareRecords checks that the volume record and the device of a delivery are those that its key is bound to.
func compareRecords(b api.DeliveryBinding, d api.KeyDelivery) error {
	volume, err := VolumeSHA256(d.Volume)
	if err != nil {
		return err
	}
	if b.VolumeSHA256 != volume {
		return fmt.Errorf("its volume record is not the one that the key is bound to (SHA-256 %s, bound to %.64q)", volume, b.VolumeSHA256)
	}
	device, err := DeviceSHA256(d.Device)
	if err != nil {
		return err
	}
	if b.DeviceSHA256 != device {
		return fmt.Errorf("its device, with mount point and access, is not the one that the key is bound to (SHA-256 %s, bound to %.64q)", device, b.DeviceSHA256)
	}
	return nil
}

// VolumeSHA256 is the hash of a volume record that a delivery is bound to.
func VolumeSHA256(v api.VolumeRecord) (string, error) { return jsonSHA256("volume record", v) }

// DeviceSHA256 is the hash of a device that a delivery is bound to.
func DeviceSHA256(d api.AssignedDevice) (string, error) { return jsonSHA256("device", d) }

func jsonSHA256(what string, v any) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encoding the %s: %w", what, err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// parseBinding reads a binding and accepts only its canonical encoding, so that no two byte strings mean the same.
func parseBinding(data []byte) (api.DeliveryBinding, error) {
	if len(data) > maxBinding {
		return api.DeliveryBinding{}, fmt.Errorf("its binding has %d bytes, at most %d are expected", len(data), maxBinding)
	}
	var b api.DeliveryBinding
	if err := json.Unmarshal(data, &b); err != nil {
		return api.DeliveryBinding{}, fmt.Errorf("its binding cannot be read: %w", err)
	}
	if canonical, err := json.Marshal(b); err != nil || !bytes.Equal(canonical, data) {
		return api.DeliveryBinding{}, errors.New("its binding is not in canonical form")
	}
	return b, nil
}

func compareBinding(got, want api.DeliveryBinding) error {
	fields := []struct{ name, got, want string }{
		{"purpose", got.Purpose, want.Purpose},
		{"account", got.AccountID, want.AccountID},
		{"request", got.RequestID, want.RequestID},
		{"device", got.DeviceID, want.DeviceID},
		{"instance", got.InstanceID, want.InstanceID},
		{"nonce", got.Nonce, want.Nonce},
	}
	for _, f := range fields {
		if f.want == "" {
			return fmt.Errorf("no %s was given to compare it with", f.name)
		}
		if f.got != f.want {
			return fmt.Errorf("it is bound to another %s (%.64q, asked for %q)", f.name, f.got, f.want)
		}
	}
	if want.LeaseSeconds != 0 && got.LeaseSeconds != want.LeaseSeconds {
		return fmt.Errorf("it is bound to a lease of %d s, asked for %d s", got.LeaseSeconds, want.LeaseSeconds)
	}
	if got.LeaseSeconds <= 0 {
		return fmt.Errorf("it has a lease of %d s", got.LeaseSeconds)
	}
	return nil
}
