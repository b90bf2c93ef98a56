package recovery

import (
	"bytes"
	"crypto/hpke"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"keyward/broker/api"
	"keyward/broker/client"
)

const (
	envelopeFormat = "keyward-recovery-envelope"
	envelopeInfo   = "keyward recovery envelope v1"
	// MaxEnvelope is the longest envelope in bytes; maxDevices the most keys in one.
	MaxEnvelope = 16 << 20
	maxDevices  = 10_000
	// maxVolumeKey is the length of the longest volume key, AES-256-XTS.
	maxVolumeKey = 64
)

// ErrEnvelope says that an envelope does not open with a key that is the right one.
var ErrEnvelope = errors.New("the envelope was changed or cut")

// Header is what everybody may read of an envelope. None of it can be changed without the keys in it being lost.
type Header struct {
	Format      string    `json:"format"`
	Version     int       `json:"version"`
	KeyID       string    `json:"key_id"`
	Threshold   int       `json:"threshold"`
	Holders     []string  `json:"holders"`
	Broker      string    `json:"broker"`
	AccountID   string    `json:"account_id"`
	AccountName string    `json:"account_name"`
	Scope       string    `json:"scope"` // "account", or "instance" with InstanceID
	InstanceID  string    `json:"instance_id,omitempty"`
	MadeAt      time.Time `json:"made_at"`
	// Revision changes when the devices, their keys or the recovery key do.
	Revision string   `json:"revision"`
	Devices  []Device `json:"devices"`
}

// Device is a volume whose key is in the envelope.
type Device struct {
	ID         string           `json:"id"`
	Name       string           `json:"name"`
	FileSystem string           `json:"file_system,omitempty"`
	MountPoint string           `json:"mount_point,omitempty"`
	Volume     api.VolumeRecord `json:"volume"`
}

// envelope is the file. Header is kept as it was written, because the keys are bound to its bytes.
type envelope struct {
	Header          []byte `json:"header"`
	EncapsulatedKey []byte `json:"encapsulated_key"`
	// SealedKeys are the volume keys one behind the other, in the order of the header's devices, their lengths as the
	// records say: HPKE, the suite of key deliveries, info envelopeInfo, AAD the bytes of Header.
	SealedKeys []byte `json:"sealed_keys"`
}

// Seal makes an envelope. It fills format and version, what belongs to the key, and nothing else of the header. The keys are
// those of h.Devices, in their order; they are only read.
func Seal(k PublicKey, h Header, keys [][]byte) ([]byte, error) {
	if len(keys) != len(h.Devices) || len(keys) > maxDevices {
		return nil, fmt.Errorf("sealing a recovery envelope: %d keys for %d devices", len(keys), len(h.Devices))
	}
	plain := make([]byte, 0, len(keys)*maxVolumeKey) // never grown: a copy left behind would not be wiped
	defer func() { clear(plain) }()
	for i, d := range h.Devices {
		n, err := client.VolumeKeyBytes(d.Volume.Cipher, d.Volume.KeyBits)
		if err != nil || len(keys[i]) != n {
			return nil, fmt.Errorf("sealing a recovery envelope: the key of device %s has %d bytes, which its volume record does not say", d.ID, len(keys[i]))
		}
		plain = append(plain, keys[i]...)
	}
	h.Format, h.Version, h.KeyID, h.Threshold, h.Holders = envelopeFormat, 1, k.ID, k.Threshold, k.Holders
	header, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	kem, kdf, aead := client.DeliverySuite()
	public, err := kem.NewPublicKey(k.Bytes)
	if err != nil {
		return nil, fmt.Errorf("sealing a recovery envelope: %w", err)
	}
	encapsulated, sender, err := hpke.NewSender(public, kdf, aead, []byte(envelopeInfo))
	if err != nil {
		return nil, fmt.Errorf("sealing a recovery envelope: %w", err)
	}
	sealed, err := sender.Seal(header, plain)
	if err != nil {
		return nil, fmt.Errorf("sealing a recovery envelope: %w", err)
	}
	return json.Marshal(envelope{header, encapsulated, sealed})
}

// ReadHeader reads what an envelope says of itself. Nothing of it is proved before it opens.
func ReadHeader(data []byte) (Header, error) {
	h, _, err := parseEnvelope(data)
	if err != nil {
		return Header{}, fmt.Errorf("reading the recovery envelope: %w; take another copy", err)
	}
	return h, nil
}

func parseEnvelope(data []byte) (Header, envelope, error) {
	if len(data) > MaxEnvelope {
		return Header{}, envelope{}, fmt.Errorf("it is longer than %d bytes", MaxEnvelope)
	}
	var e envelope
	if err := strict(data, &e); err != nil {
		return Header{}, envelope{}, err
	}
	var h Header
	if err := json.Unmarshal(e.Header, &h); err != nil {
		return Header{}, envelope{}, fmt.Errorf("its header: %w", err)
	}
	if h.Format != envelopeFormat || h.Version != 1 {
		return Header{}, envelope{}, fmt.Errorf("%.40q of version %d is not %s of version 1", h.Format, h.Version, envelopeFormat)
	}
	if len(h.Devices) > maxDevices {
		return Header{}, envelope{}, fmt.Errorf("it names %d devices", len(h.Devices))
	}
	return h, e, nil
}

func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows it")
	}
	return nil
}

// Open returns the header, and the volume keys in the order of its devices, which the caller wipes. The error wraps
// ErrEnvelope when anything was changed.
func Open(k PrivateKey, data []byte) (Header, [][]byte, error) {
	h, e, err := parseEnvelope(data)
	if err != nil {
		return Header{}, nil, fmt.Errorf("opening the recovery envelope: %w", err)
	}
	private, err := k.hpke()
	if err != nil {
		return Header{}, nil, err
	}
	if id := idOf(private.PublicKey().Bytes()); id != h.KeyID {
		return Header{}, nil, fmt.Errorf("opening the recovery envelope: it is sealed to recovery key %.40s, and the shares make %s: take the shares of that key", h.KeyID, id)
	}
	_, kdf, aead := client.DeliverySuite()
	recipient, err := hpke.NewRecipient(e.EncapsulatedKey, private, kdf, aead, []byte(envelopeInfo))
	if err != nil {
		return Header{}, nil, fmt.Errorf("opening the recovery envelope: %w (%w): take another copy", ErrEnvelope, err)
	}
	plain, err := recipient.Open(e.Header, e.SealedKeys)
	if err != nil {
		return Header{}, nil, fmt.Errorf("opening the recovery envelope: %w: take another copy", ErrEnvelope)
	}
	defer clear(plain)
	var keys [][]byte
	rest := plain
	for _, d := range h.Devices {
		n, err := client.VolumeKeyBytes(d.Volume.Cipher, d.Volume.KeyBits)
		if err != nil || n > len(rest) {
			return Header{}, nil, fmt.Errorf("opening the recovery envelope: the key of device %s is not whole", d.ID)
		}
		keys = append(keys, bytes.Clone(rest[:n]))
		rest = rest[n:]
	}
	return h, keys, nil
}
