package luks2

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"testing"
)

func TestKeyedHash_isHMACSHA256(t *testing.T) {
	t.Parallel()
	for _, keyLen := range []int{1, 31, 32, 48, 63, 64} {
		for _, msgLen := range []int{0, 1, 55, 56, 64, 65, 1000} {
			key, msg := bytes.Repeat([]byte{0xa7}, keyLen), bytes.Repeat([]byte{3}, msgLen)
			k, err := newKeyedHash(key)
			if err != nil {
				t.Fatal(err)
			}
			want := hmac.New(sha256.New, key)
			want.Write(msg)
			for range 2 { // reusable
				if got := k.sum(msg[:msgLen/2], msg[msgLen/2:]); !bytes.Equal(got[:], want.Sum(nil)) {
					t.Errorf("key of %d, message of %d: differs from crypto/hmac", keyLen, msgLen)
				}
			}
			k.wipe()
		}
	}
	for _, keyLen := range []int{0, 65} {
		if _, err := newKeyedHash(make([]byte, keyLen)); err == nil {
			t.Errorf("key of %d bytes accepted", keyLen)
		}
	}
}

func TestKeyDigest_isPBKDF2(t *testing.T) {
	t.Parallel()
	for _, keyLen := range []int{32, 48, 64} {
		for _, iterations := range []int{1, 2, 1000} {
			key, salt := bytes.Repeat([]byte{0x51}, keyLen), bytes.Repeat([]byte{9}, 32)
			want, err := pbkdf2.Key(sha256.New, string(key), salt, iterations, 32)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := keyDigest(key, salt, iterations); err != nil || !bytes.Equal(got, want) {
				t.Errorf("key of %d, %d iterations: differs from crypto/pbkdf2 (%v)", keyLen, iterations, err)
			}
		}
	}
}

func TestTokenMAC_isHMACUnderHKDF(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{0x33}, 64)
	derived, err := hkdf.Expand(sha256.New, key, tokenInfo+"some-uuid", 32)
	if err != nil {
		t.Fatal(err)
	}
	want := hmac.New(sha256.New, derived)
	want.Write([]byte("content"))
	if got, err := tokenMAC(key, "some-uuid", []byte("content")); err != nil || !bytes.Equal(got, want.Sum(nil)) {
		t.Errorf("differs from crypto/hkdf and crypto/hmac (%v)", err)
	}
}
