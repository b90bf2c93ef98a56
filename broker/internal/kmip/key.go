package kmip

import (
	"bytes"
	"fmt"
)

// tagBytes is the length of the authentication tag of AES-GCM.
const tagBytes = 16

// Locate returns the unique identifiers of the symmetric keys with the name.
func (c *Client) Locate(name string) ([]string, error) {
	payload, err := c.call(opLocate, nameAttribute(name),
		attribute("Object Type", Enumeration(tagAttributeValue, symmetricKey)))
	if err != nil {
		return nil, fmt.Errorf("looking for the key %q: %w", name, err)
	}
	var out []string
	for _, item := range payload.Items {
		if item.Tag == tagUniqueID && item.Type == TypeText {
			out = append(out, string(item.Value))
		}
	}
	return out, nil
}

// Create makes an AES-256 key for encryption with the name, activates it, and returns its unique identifier.
func (c *Client) Create(name string) (string, error) {
	payload, err := c.call(opCreate, Enumeration(tagObjectType, symmetricKey), Structure(tagTemplate,
		attribute("Cryptographic Algorithm", Enumeration(tagAttributeValue, aes)),
		attribute("Cryptographic Length", Integer(tagAttributeValue, 256)),
		attribute("Cryptographic Usage Mask", Integer(tagAttributeValue, useEncrypt|useDecrypt)),
		nameAttribute(name)))
	if err != nil {
		return "", fmt.Errorf("making the key %q: %w", name, err)
	}
	id, ok := payload.Find(tagUniqueID, TypeText)
	if !ok {
		return "", fmt.Errorf("making the key %q: %w", name, errAnswer)
	}
	if _, err := c.call(opActivate, Text(tagUniqueID, string(id.Value))); err != nil {
		return "", fmt.Errorf("activating the key %q: %w", name, err)
	}
	return string(id.Value), nil
}

// Encrypt has the server encrypt by AES-GCM with a key, bound to aad. nonce has 12 bytes and is used once; the tag follows
// the ciphertext in the result.
func (c *Client) Encrypt(key string, nonce, aad, plain []byte) ([]byte, error) {
	payload, err := c.call(opEncrypt, Text(tagUniqueID, key), parameters(), Bytes(tagData, plain), Bytes(tagNonce, nonce), Bytes(tagAAD, aad))
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	data, hasData := payload.Find(tagData, TypeBytes)
	tag, hasTag := payload.Find(tagAuthTag, TypeBytes)
	if !hasData || !hasTag || len(data.Value) != len(plain) || len(tag.Value) != tagBytes {
		return nil, fmt.Errorf("encrypting: %w", errAnswer)
	}
	// A server that chose its own nonce would have said so, and what it made could not be opened with ours.
	if other, has := payload.Find(tagNonce, TypeBytes); has && !bytes.Equal(other.Value, nonce) {
		return nil, fmt.Errorf("encrypting: the server used another nonce than it was given")
	}
	return append(bytes.Clone(data.Value), tag.Value...), nil
}

// Decrypt is the inverse of Encrypt.
func (c *Client) Decrypt(key string, nonce, aad, sealed []byte) ([]byte, error) {
	if len(sealed) < tagBytes {
		return nil, fmt.Errorf("decrypting: %d bytes hold no tag", len(sealed))
	}
	n := len(sealed) - tagBytes
	payload, err := c.call(opDecrypt, Text(tagUniqueID, key), parameters(), Bytes(tagData, sealed[:n]), Bytes(tagNonce, nonce),
		Bytes(tagAAD, aad), Bytes(tagAuthTag, sealed[n:]))
	if err != nil {
		return nil, fmt.Errorf("decrypting: %w", err)
	}
	data, ok := payload.Find(tagData, TypeBytes)
	if !ok || len(data.Value) != n {
		return nil, fmt.Errorf("decrypting: %w", errAnswer)
	}
	return data.Value, nil
}

func parameters() Item {
	return Structure(tagParameters, Enumeration(tagCipherMode, gcm), Enumeration(tagAlgorithm, aes), Integer(tagTagLength, tagBytes))
}

func attribute(name string, value Item) Item {
	return Structure(tagAttribute, Text(tagAttributeName, name), value)
}

func nameAttribute(name string) Item {
	return attribute("Name", Structure(tagAttributeValue, Text(tagNameValue, name), Enumeration(tagNameType, plainText)))
}
