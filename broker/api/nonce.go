package api

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
)

// NonceLife is how long a nonce can be answered: from when the broker gave it, or from the start of the connection that it
// is made of.
const NonceLife = 5 * time.Minute

// A nonce that a machine makes of its connection is ConnectionNoncePrefix and, in unpadded base64url, its random bytes
// followed by what the connection exports for them (RFC 8446, section 7.5). No nonce that a broker gives has the prefix.
const (
	ConnectionNoncePrefix = "tls1."
	// ConnectionNonceLabel begins as RFC 5705, section 4 wants it of labels that are not registered.
	ConnectionNonceLabel = "EXPERIMENTAL-keyward-nonce-v1"
	// ConnectionNonceRandom and ConnectionNonceExport are lengths in bytes.
	ConnectionNonceRandom = 16
	ConnectionNonceExport = 32
)

// ConnectionNonce makes the nonce of a TLS connection for random bytes that the machine chose. Both ends of a connection
// make the same one, and no other connection does.
func ConnectionNonce(c *tls.ConnectionState, random [ConnectionNonceRandom]byte) (string, error) {
	if c == nil || !c.HandshakeComplete || c.Version < tls.VersionTLS13 {
		return "", errors.New("a nonce of the connection needs TLS 1.3; ask the broker for a nonce")
	}
	exported, err := c.ExportKeyingMaterial(ConnectionNonceLabel, random[:], ConnectionNonceExport)
	if err != nil {
		return "", fmt.Errorf("make a nonce of the connection: %w; ask the broker for a nonce", err)
	}
	return ConnectionNoncePrefix + base64.RawURLEncoding.EncodeToString(append(random[:], exported...)), nil
}
