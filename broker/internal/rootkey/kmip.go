package rootkey

import (
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"keyward/broker/internal/keystore"
	"keyward/broker/internal/kmip"
)

// What a wrapped key is on a KMIP server: the nonce, the ciphertext, the tag of AES-GCM.
const (
	kmipNonce = 12
	kmipTag   = 16
)

// kmipKey is a key that a KMIP server encrypts and decrypts with.
type kmipKey struct {
	d      Description
	client *kmip.Client
	object string
}

func newKMIP(d Description, create bool) (place, error) {
	host, _, err := net.SplitHostPort(d.Address)
	if err != nil {
		return nil, fmt.Errorf("address %q is not HOST:PORT: %w", d.Address, err)
	}
	roots, err := authorities(d.CAFile)
	if err != nil {
		return nil, err
	}
	// The file's mode is looked at as that of the root key is: who has it may use the key.
	if _, err := readSecret(d.KeyFile); err != nil {
		return nil, fmt.Errorf("reading the key of the client certificate: %w", err)
	}
	certificate, err := tls.LoadX509KeyPair(d.CertFile, d.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the client certificate: %w", err)
	}
	k := &kmipKey{d: d, client: &kmip.Client{Address: d.Address, Timeout: d.Timeout,
		TLS: &tls.Config{RootCAs: roots, ServerName: host, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}}}
	if err := k.find(create); err != nil {
		return nil, errors.Join(err, k.client.Close())
	}
	return k, nil
}

// find looks the key up by its name, and makes it when there is none and create is set.
func (k *kmipKey) find(create bool) error {
	found, err := k.client.Locate(k.d.Key)
	if err != nil {
		return k.failed(err)
	}
	switch {
	case len(found) == 1:
		k.object = found[0]
		return nil
	case len(found) > 1:
		return fmt.Errorf("the KMIP server %s has %d keys with the name %q: give the broker's a name of its own", k.d.Address, len(found), k.d.Key)
	case !create:
		return fmt.Errorf("%w: the KMIP server %s has no key with the name %q that this client may use: keyward-broker init makes one", keystore.ErrUnreachable, k.d.Address, k.d.Key)
	}
	if k.object, err = k.client.Create(k.d.Key); err != nil {
		return k.failed(err)
	}
	return nil
}

func (k *kmipKey) id() string { return k.d.id(k.d.Key, k.object) }

func (k *kmipKey) close() error { return k.client.Close() }

func (k *kmipKey) encrypt(aad, plain []byte) ([]byte, error) {
	nonce := make([]byte, kmipNonce)
	rand.Read(nonce)
	sealed, err := k.client.Encrypt(k.object, nonce, aad, plain)
	if err != nil {
		return nil, k.failed(err)
	}
	return append(nonce, sealed...), nil
}

func (k *kmipKey) decrypt(aad, sealed []byte) ([]byte, error) {
	if len(sealed) <= kmipNonce+kmipTag {
		return nil, fmt.Errorf("%d bytes were wrapped by no KMIP server: %w", len(sealed), keystore.ErrUnwrap)
	}
	plain, err := k.client.Decrypt(k.object, sealed[:kmipNonce], aad, sealed[kmipNonce:])
	var refused *kmip.Refusal
	if errors.As(err, &refused) && (refused.Reason == kmip.ReasonCryptographicFailure || refused.Reason == kmip.ReasonGeneralFailure && k.works()) {
		return nil, fmt.Errorf("%w: %w", keystore.ErrUnwrap, err)
	}
	if err != nil {
		return nil, k.failed(err)
	}
	return plain, nil
}

// works says whether the server does anything with the key: some, such as PyKMIP, have one word for a ciphertext that does
// not open and for everything else that goes wrong.
func (k *kmipKey) works() bool {
	_, err := k.encrypt([]byte("works"), []byte("works"))
	return err == nil
}

func (k *kmipKey) failed(err error) error {
	return fmt.Errorf("%w: %w: is the server up, and does it know this broker's certificate and let it use key %q?", keystore.ErrUnreachable, err, k.d.Key)
}
