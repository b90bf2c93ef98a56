package client

import (
	"testing"

	"keyward/broker/api"
)

func TestVolumeKeyBytes_isTwiceTheAESKeyForXTSAndOneForESSIV(t *testing.T) {
	t.Parallel()
	for bits, xts := range map[int]int{128: 32, 192: 48, 256: 64} {
		for cipher, want := range map[string]int{"": xts, api.CipherXTS: xts, api.CipherESSIV: xts / 2} {
			if n, err := VolumeKeyBytes(cipher, bits); n != want || err != nil {
				t.Errorf("%s with %d bits: %d, %v", cipher, bits, n, err)
			}
		}
	}
	for _, bits := range []int{-256, 0, 1, 64, 512, 1 << 40} {
		if _, err := VolumeKeyBytes(api.CipherXTS, bits); err == nil {
			t.Errorf("%d bits accepted", bits)
		}
	}
	for _, cipher := range []string{"cipher_null-ecb", "aes-cbc-plain", "AES-XTS-PLAIN64"} {
		if _, err := VolumeKeyBytes(cipher, 256); err == nil {
			t.Errorf("cipher %s accepted", cipher)
		}
	}
}
