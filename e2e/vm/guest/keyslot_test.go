package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/luks2"
)

const passphrase = "correct horse battery staple"

// A volume that cryptsetup made and dm-crypt wrote is opened by our code with the key that its passphrase gives, byte for
// byte, and dm-crypt reads what we write to it.
func TestKeyslot_volumesOfCryptsetupAreAdoptedByPassphrase(t *testing.T) {
	needGuest(t)
	for _, tc := range []struct{ keyBits, sector, kdf string }{
		{"256", "512", "pbkdf2"}, {"256", "4096", "argon2id"}, {"512", "512", "argon2id"}, {"512", "4096", "pbkdf2"},
	} {
		t.Run(tc.keyBits+"-bit key, sectors of "+tc.sector+", "+tc.kdf, func(t *testing.T) {
			dir := t.TempDir()
			image, secret := filepath.Join(dir, "disk"), filepath.Join(dir, "passphrase")
			if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, luks2.DataOffset+payload),
				os.WriteFile(secret, []byte(passphrase), 0o600)); err != nil {
				t.Fatal(err)
			}
			args := []string{"luksFormat", "--batch-mode", "--type", "luks2", "--key-size", tc.keyBits, "--sector-size", tc.sector, "--key-file", secret,
				"--pbkdf", tc.kdf, "--pbkdf-force-iterations", map[string]string{"pbkdf2": "1000", "argon2id": "4"}[tc.kdf]}
			if tc.kdf == "argon2id" {
				args = append(args, "--pbkdf-memory", "32768")
			}
			tool(t, "cryptsetup", append(args, image)...)
			theirs := func(use func(path string)) {
				t.Helper()
				tool(t, "cryptsetup", "open", "--disable-keyring", "--key-file", secret, image, "adopted")
				defer tool(t, "cryptsetup", "close", "adopted")
				use("/dev/mapper/adopted")
			}
			data, next := noise(t, payload), noise(t, payload)
			theirs(func(path string) { writeAll(t, path, data) })

			dev, err := blockdev.OpenFile(image, blockdev.FileOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := luks2.OpenKeyslot(dev, []byte(strings.ToUpper(passphrase))); !errors.Is(err, luks2.ErrPassphrase) {
				t.Errorf("a wrong passphrase: %v", err)
			}
			key, _, err := luks2.OpenKeyslot(dev, []byte(passphrase))
			if err != nil {
				t.Fatal(err)
			}
			rec, err := luks2.Adopt(dev, luks2.Params{Device: "device-1", Account: "account-1", Broker: "broker-1"}, key)
			if err != nil {
				t.Fatal(err)
			}
			vol, err := nbdcrypt.Open(dev, rec, key, nbdcrypt.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(readAll(t, vol), data) {
				t.Error("we read other bytes than dm-crypt wrote")
			}
			if _, err := vol.WriteAt(next, 0); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(vol.Sync(), vol.Close()); err != nil {
				t.Fatal(err)
			}
			theirs(func(path string) {
				if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, next) {
					t.Errorf("dm-crypt reads %d bytes (%v), other than the %d that we wrote", len(got), err, len(next))
				}
			})
		})
	}
}

// writeAll writes a block device from its start and flushes it.
func writeAll(t *testing.T, path string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(data, 0)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}
