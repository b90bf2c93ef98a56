// Package recovery is break glass: a key pair whose private half exists only as shares in the hands of k of n people, and
// envelopes of device keys that are sealed to its public half. Brokers seal, machines keep what is sealed, people open. All
// formats are text, stay readable for ever, and are described in docs/operations/recovery.md.
package recovery

import (
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"keyward/broker/client"
)

const (
	publicType = "KEYWARD RECOVERY PUBLIC KEY"
	version    = "1"

	publicBytes  = 1216 // ML-KEM-768 encapsulation key and X25519 share
	privateBytes = 32   // the seed of both
	maxText      = 16 << 10
	maxHolder    = 64 // characters
)

// PublicKey is what envelopes are sealed to, with who can open them.
type PublicKey struct {
	// ID is SHA-256 of Bytes, its first 16 bytes in hexadecimal.
	ID    string
	Bytes []byte
	// Threshold of Holders together open an envelope.
	Threshold int
	Holders   []string
}

func idOf(public []byte) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:16])
}

// PEM is the key as text, for the broker.
func (k PublicKey) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicType, Bytes: k.Bytes, Headers: map[string]string{
		"Version": version, "Key-ID": k.ID, "Threshold": strconv.Itoa(k.Threshold), "Holders": strings.Join(k.Holders, ", ")}})
}

// ParsePublicKey reads a public key as text.
func ParsePublicKey(text []byte) (PublicKey, error) {
	k, err := parsePublicKey(text)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading the recovery public key: %w; give the file recovery-key.pub as it was made", err)
	}
	return k, nil
}

func parsePublicKey(text []byte) (PublicKey, error) {
	block, err := only(text, publicType)
	if err != nil {
		return PublicKey{}, err
	}
	k := PublicKey{ID: block.Headers["Key-ID"], Bytes: block.Bytes, Holders: strings.Split(block.Headers["Holders"], ", ")}
	if k.Threshold, err = strconv.Atoi(block.Headers["Threshold"]); err != nil {
		return PublicKey{}, errors.New("its threshold is no number")
	}
	return k, k.check()
}

func (k PublicKey) check() error {
	if len(k.Bytes) != publicBytes || k.ID != idOf(k.Bytes) {
		return errors.New("its ID is not that of its key")
	}
	kem, _, _ := client.DeliverySuite()
	if _, err := kem.NewPublicKey(k.Bytes); err != nil {
		return err
	}
	return checkHolders(k.Holders, k.Threshold)
}

// checkHolders refuses names that could not be told apart on paper.
func checkHolders(holders []string, threshold int) error {
	if len(holders) < 2 || len(holders) > MaxHolders || threshold < 2 || threshold > len(holders) {
		return fmt.Errorf("%d of %d holders: choose 2 to %d, and two or more of them to agree", threshold, len(holders), MaxHolders)
	}
	seen := map[string]bool{}
	for _, h := range holders {
		odd := func(r rune) bool { return !unicode.IsPrint(r) || r == ',' || r == ':' }
		if h == "" || len([]rune(h)) > maxHolder || strings.TrimSpace(h) != h || strings.IndexFunc(h, odd) >= 0 || seen[strings.ToLower(h)] {
			return fmt.Errorf("holder %.80q: names are different, of 1 to %d characters, without comma and colon", h, maxHolder)
		}
		seen[strings.ToLower(h)] = true
	}
	return nil
}

// PrivateKey is the private half, for as long as people have put it together. The caller wipes it.
type PrivateKey struct{ seed func() []byte }

// Wipe forgets it.
func (k PrivateKey) Wipe() {
	if k.seed != nil {
		clear(k.seed())
	}
}

// String says REDACTED.
func (PrivateKey) String() string { return "REDACTED" }

// GoString says REDACTED.
func (PrivateKey) GoString() string { return "REDACTED" }

func (k PrivateKey) hpke() (hpke.PrivateKey, error) {
	kem, _, _ := client.DeliverySuite()
	return kem.NewPrivateKey(k.seed())
}

// only is the one PEM block of a text.
func only(text []byte, kind string) (*pem.Block, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("it is longer than %d bytes", maxText)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("it has no %q", kind)
	}
	if len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("something follows it")
	}
	if block.Headers["Version"] != version {
		return nil, fmt.Errorf("its version is %.16q, this program reads %s", block.Headers["Version"], version)
	}
	return block, nil
}
