package keystore

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"keyward/broker/api"
	"keyward/broker/client"
)

// importKey derives the private key of one import from the account's key and what the import is bound to. It is kept
// nowhere: who has the account's key can make it again, for as long as the nonce lives.
func importKey(root Root, a AccountKey, b api.ImportBinding) (hpke.PrivateKey, error) {
	kek, err := a.open(root)
	if err != nil {
		return nil, err
	}
	defer kek.Wipe()
	identity := aad("keyward import key v1", b.AccountID, b.InstanceID, b.DeviceID, b.Nonce)
	seed, err := hkdf.Key(sha256.New, kek.Bytes(), nil, string(identity), kekBytes)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	kem, _, _ := client.DeliverySuite()
	return kem.DeriveKeyPair(seed)
}

// ImportPublicKey is the key that a machine seals a volume key to, in the import that b describes. b.VolumeSHA256 is not
// looked at.
func ImportPublicKey(root Root, a AccountKey, b api.ImportBinding) ([]byte, error) {
	private, err := importKey(root, a, b)
	if err != nil {
		return nil, fmt.Errorf("making the key of the import of device %s: %w", b.DeviceID, err)
	}
	return private.PublicKey().Bytes(), nil
}

// OpenImport returns the volume key of an import, which the caller owns and wipes. It fails when the machine sealed it for
// another import, or for another volume record than v.
func OpenImport(root Root, a AccountKey, b api.ImportBinding, in api.ImportKey) (Key, error) {
	private, err := importKey(root, a, b)
	if err != nil {
		return Key{}, fmt.Errorf("opening the imported key of device %s: %w", b.DeviceID, err)
	}
	if b.VolumeSHA256, err = client.VolumeSHA256(in.Volume); err != nil {
		return Key{}, err
	}
	binding, err := json.Marshal(b)
	if err != nil {
		return Key{}, err
	}
	_, kdf, aead := client.DeliverySuite()
	recipient, err := hpke.NewRecipient(in.EncapsulatedKey, private, kdf, aead, []byte(api.HPKEImportInfo))
	if err != nil {
		return Key{}, fmt.Errorf("opening the imported key of device %s: %w", b.DeviceID, err)
	}
	key, err := recipient.Open(binding, in.SealedKey)
	if err != nil {
		return Key{}, fmt.Errorf("opening the imported key of device %s: it is not sealed to this import: %w", b.DeviceID, err)
	}
	return KeyOf(key), nil
}
