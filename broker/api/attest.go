package api

import (
	"crypto/sha256"
	"encoding/json"
	"time"
)

// TPMRegistration shows a machine's TPM 2.0 to its broker. Structures are as the TPM writes them (TCG TPM 2.0 Library,
// part 2): the two public areas TPMT_PUBLIC, CertifyInfo TPMS_ATTEST, signatures TPMT_SIGNATURE.
type TPMRegistration struct {
	// EndorsementKey has the default template of the TCG EK Credential Profile, RSA 2048 or ECC P-256.
	EndorsementKey []byte `json:"endorsement_key"`
	// EndorsementCertificate is the maker's, DER; empty when the TPM holds none.
	EndorsementCertificate []byte `json:"endorsement_certificate,omitempty"`
	// AttestationKey is a restricted ECDSA P-256 signing key that never leaves the TPM.
	AttestationKey []byte `json:"attestation_key"`
	// IdentityKey is the key of the client certificate when it lives in the TPM; CertifyInfo, signed by the attestation
	// key, shows that it does. All three are empty when the key is in a file.
	IdentityKey      []byte `json:"identity_key,omitempty"`
	CertifyInfo      []byte `json:"certify_info,omitempty"`
	CertifySignature []byte `json:"certify_signature,omitempty"`
}

// TPMChallenge is a secret that only the TPM with both keys can read (TPM2_ActivateCredential), for five minutes.
type TPMChallenge struct {
	CredentialBlob  []byte `json:"credential_blob"`
	EncryptedSecret []byte `json:"encrypted_secret"`
}

// TPMActivation answers a TPMChallenge.
type TPMActivation struct {
	Secret []byte `json:"secret"`
}

// TPMInfo is a machine's TPM as its broker knows it.
type TPMInfo struct {
	// EndorsementSHA256 is of the endorsement key, lower-case hexadecimal.
	EndorsementSHA256 string `json:"endorsement_sha256"`
	// Maker is who issued the endorsement certificate, when it leads to one of the broker's TPM roots; empty when the key
	// was only pinned at first sight.
	Maker string `json:"maker,omitempty"`
	// HoldsKey says that the key of the client certificate lives in the TPM.
	HoldsKey     bool      `json:"holds_key"`
	RegisteredAt time.Time `json:"registered_at"`
}

// TPMEvidence is a TPM2_Quote over SHA-256 PCRs. Its extra data is the Digest of a QuoteBinding.
type TPMEvidence struct {
	Quote     []byte   `json:"quote"`     // TPMS_ATTEST
	Signature []byte   `json:"signature"` // TPMT_SIGNATURE
	PCRs      []TPMPCR `json:"pcrs"`      // in ascending order
	// Nonce is a challenge of its own that a heartbeat's quote was made for; a request's is made for the request's nonce.
	Nonce string `json:"nonce,omitempty"`
}

// TPMPCR is the value of one platform configuration register.
type TPMPCR struct {
	Index int    `json:"index"`
	Value []byte `json:"value"`
}

// The purposes of a quote.
const (
	QuoteForRequest   = "key-request"
	QuoteForHeartbeat = "heartbeat"
)

// QuoteBinding is what a quote is made for: one nonce, and the HPKE key of one request.
type QuoteBinding struct {
	Purpose    string `json:"purpose"`
	AccountID  string `json:"account_id"`
	InstanceID string `json:"instance_id"`
	Nonce      string `json:"nonce"`
	// PublicKey is the request's; empty on heartbeats.
	PublicKey []byte `json:"public_key"`
}

// Digest is the SHA-256 of the binding's JSON in the member order above, without white space.
func (b QuoteBinding) Digest() [sha256.Size]byte {
	text, err := json.Marshal(b)
	if err != nil {
		panic("api: a struct of strings and bytes did not become JSON: " + err.Error())
	}
	return sha256.Sum256(text)
}

// CloudDocument is a provider's signed statement about an instance.
type CloudDocument struct {
	// Kind is "aws-rsa2048": the PKCS #7 of EC2's instance identity document, DER.
	Kind     string `json:"kind"`
	Document []byte `json:"document"`
}

// CloudAWS is the kind of EC2's instance identity documents.
const CloudAWS = "aws-rsa2048"
