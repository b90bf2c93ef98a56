package client

import (
	"context"
	"crypto/hpke"
	"encoding/json"
	"fmt"
	"net/http"

	"keyward/broker/api"
)

// ImportOffer asks whether a device's volume may be imported, and for the key to seal its volume key to.
func (a *Agent) ImportOffer(ctx context.Context, deviceID string, in api.ImportOfferRequest) (out api.ImportOffer, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: withID(api.PathImportOffer, deviceID), in: in, out: &out})
}

// Import hands a volume key over; the device is Encrypted afterwards.
func (a *Agent) Import(ctx context.Context, deviceID string, in api.ImportKey) (out api.AssignedDevice, err error) {
	return out, a.call.do(ctx, call{method: http.MethodPost, path: withID(api.PathImport, deviceID), in: in, out: &out})
}

// SealImport seals a volume key to the public key of an offer. b.VolumeSHA256 is filled in. key is only read.
func SealImport(publicKey []byte, b api.ImportBinding, v api.VolumeRecord, key []byte) (api.ImportKey, error) {
	kem, kdf, aead := DeliverySuite()
	public, err := kem.NewPublicKey(publicKey)
	if err != nil {
		return api.ImportKey{}, fmt.Errorf("reading the broker's key for the import: %w", err)
	}
	if b.VolumeSHA256, err = VolumeSHA256(v); err != nil {
		return api.ImportKey{}, err
	}
	binding, err := json.Marshal(b)
	if err != nil {
		return api.ImportKey{}, err
	}
	encapsulated, sender, err := hpke.NewSender(public, kdf, aead, []byte(api.HPKEImportInfo))
	if err != nil {
		return api.ImportKey{}, fmt.Errorf("sealing the volume key to the broker: %w", err)
	}
	sealed, err := sender.Seal(binding, key)
	if err != nil {
		return api.ImportKey{}, fmt.Errorf("sealing the volume key to the broker: %w", err)
	}
	return api.ImportKey{Nonce: b.Nonce, EncapsulatedKey: encapsulated, SealedKey: sealed, Volume: v}, nil
}
