package client

import (
	"fmt"

	"keyward/broker/api"
)

// The least and the greatest length of a volume key in bytes: AES-128-CBC and AES-256-XTS.
const (
	minVolumeKey = 16
	maxVolumeKey = 64
)

// VolumeKeyBytes is the length of the volume key of a cipher and an AES key size: XTS takes two AES keys (IEEE 1619), ESSIV
// one. An empty cipher means XTS, which volumes are encrypted with.
func VolumeKeyBytes(cipher string, bits int) (int, error) {
	if bits != 128 && bits != 192 && bits != 256 {
		return 0, fmt.Errorf("%d is not an AES key size: choose 128, 192 or 256 bits", bits)
	}
	switch cipher {
	case "", api.CipherXTS:
		return bits / 4, nil
	case api.CipherESSIV:
		return bits / 8, nil
	}
	return 0, fmt.Errorf("cipher %.64q is not known: volumes have %s or %s", cipher, api.CipherXTS, api.CipherESSIV)
}
