package api

// Paths of the import of a volume that was not encrypted by this broker's word. {id} is the device's.
const (
	PathImportOffer = "/agent/v1/devices/{id}/import-offer"
	PathImport      = "/agent/v1/devices/{id}/import"
)

// HPKEImportInfo is the info string of the HPKE context by which a machine sends a volume key to its broker.
const HPKEImportInfo = "keyward key import v1"

// ImportOfferRequest asks whether a volume may be imported, and for the key to seal its volume key to.
type ImportOfferRequest struct {
	// Nonce is one of this machine's that was not used; the import uses it.
	Nonce string `json:"nonce" minLength:"1" maxLength:"128"`
}

// ImportOffer is the broker's answer.
type ImportOffer struct {
	// PublicKey (MLKEM768-X25519) belongs to this machine, device and nonce, and lives as long as the nonce.
	PublicKey []byte `json:"public_key"`
	// Broker and AccountID go into the volume's header.
	Broker    string `json:"broker"`
	AccountID string `json:"account_id"`
	// Device is what a person has configured; the volume must be that.
	Device AssignedDevice `json:"device"`
}

// ImportKey hands a volume key over: HPKE ciphertext (the suite of KeyDelivery), sealed with the canonical JSON of an
// ImportBinding as AAD.
type ImportKey struct {
	Nonce           string `json:"nonce" minLength:"1" maxLength:"128"`
	EncapsulatedKey []byte `json:"encapsulated_key"`
	SealedKey       []byte `json:"sealed_key"`
	// Volume is what the header says since it was adopted.
	Volume VolumeRecord `json:"volume"`
}

// ImportBinding is what an imported key is bound to.
type ImportBinding struct {
	AccountID  string `json:"account_id"`
	DeviceID   string `json:"device_id"`
	InstanceID string `json:"instance_id"`
	Nonce      string `json:"nonce"`
	// VolumeSHA256 is as in DeliveryBinding.
	VolumeSHA256 string `json:"volume_sha256"`
}
