package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// needGuest skips outside the virtual machine, where there is no device mapper to ask.
func needGuest(t *testing.T) {
	t.Helper()
	if os.Getenv("KEYWARD_VM") == "" {
		t.Skip("needs the kernel of the virtual machine: run the tests of e2e/vm")
	}
}

// volume is one of ours in a file, with its key.
type volume struct {
	t     *testing.T
	image string
	rec   luks2.Record
	key   []byte
}

const payload = 6 << 20

func newVolume(t *testing.T, keyBits, sectorSize int) *volume {
	t.Helper()
	v := &volume{t: t, image: filepath.Join(t.TempDir(), "volume.img"), key: make([]byte, keyBits/4)}
	if _, err := rand.Read(v.key); err != nil {
		t.Fatal(err)
	}
	dev, err := blockdev.CreateFile(v.image, luks2.DataOffset+payload)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	key := v.newKey()
	defer key.Wipe()
	v.rec, err = luks2.Format(dev, luks2.Params{Device: "device-1", Account: "account-1", Broker: "broker-1", KeyBits: keyBits, SectorSize: sectorSize}, key)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *volume) newKey() *keymem.Key {
	v.t.Helper()
	key, err := keymem.FromBytes(bytes.Clone(v.key))
	if err != nil {
		v.t.Fatal(err)
	}
	return key
}

// ours opens the volume with our code, runs use and closes it.
func (v *volume) ours(use func(blockdev.Device)) {
	v.t.Helper()
	dev, err := blockdev.OpenFile(v.image, blockdev.FileOptions{})
	if err != nil {
		v.t.Fatal(err)
	}
	vol, err := nbdcrypt.Open(dev, v.rec, v.newKey(), nbdcrypt.Options{})
	if err != nil {
		dev.Close()
		v.t.Fatal(err)
	}
	use(vol)
	if err := errors.Join(vol.Sync(), vol.Close()); err != nil {
		v.t.Fatal(err)
	}
}

// theirs opens the volume with cryptsetup and the kernel's dm-crypt, runs use on the block device and closes it.
func (v *volume) theirs(use func(path string)) {
	v.t.Helper()
	keyFile := filepath.Join(v.t.TempDir(), "key")
	if err := os.WriteFile(keyFile, v.key, 0o600); err != nil {
		v.t.Fatal(err)
	}
	name := fmt.Sprintf("kw%x", v.key[:4])
	tool(v.t, "cryptsetup", "open", "--type", "luks2", "--disable-keyring", "--volume-key-file", keyFile, "--key-size", fmt.Sprint(len(v.key)*8), v.image, name)
	defer tool(v.t, "cryptsetup", "close", name)
	use("/dev/mapper/" + name)
}

func tool(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return out
}

func noise(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func readAll(t *testing.T, dev blockdev.Device) []byte {
	t.Helper()
	b := make([]byte, dev.Size())
	if _, err := dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDMCrypt_everyByteBothWays(t *testing.T) {
	needGuest(t)
	for _, keyBits := range []int{128, 192, 256} {
		for _, sector := range []int{512, 4096} {
			t.Run(fmt.Sprintf("aes-xts-plain64 AES-%d sectors of %d", keyBits, sector), func(t *testing.T) {
				v := newVolume(t, keyBits, sector)
				data := noise(t, payload)
				v.ours(func(dev blockdev.Device) {
					if _, err := dev.WriteAt(data, 0); err != nil {
						t.Fatal(err)
					}
				})
				next := noise(t, payload)
				v.theirs(func(path string) {
					got, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, data) {
						t.Errorf("dm-crypt reads %d bytes that differ from the %d that we wrote", len(got), len(data))
					}
					f, err := os.OpenFile(path, os.O_WRONLY, 0)
					if err != nil {
						t.Fatal(err)
					}
					_, err = f.WriteAt(next, 0)
					if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
						t.Fatal(err)
					}
				})
				v.ours(func(dev blockdev.Device) {
					if !bytes.Equal(readAll(t, dev), next) {
						t.Error("we read other bytes than dm-crypt wrote")
					}
				})
			})
		}
	}
}

func TestDMCrypt_refusesAnotherKey(t *testing.T) {
	needGuest(t)
	v := newVolume(t, 256, 4096)
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, noise(t, len(v.key)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cryptsetup", "open", "--disable-keyring", "--volume-key-file", keyFile, "--key-size", "512", v.image, "wrong").CombinedOutput(); err == nil {
		tool(t, "cryptsetup", "close", "wrong")
		t.Errorf("opened with a wrong key: %s", out)
	}
}

func TestDMCrypt_fileSystemMadeByTheKernelIsReadByUs(t *testing.T) {
	needGuest(t)
	v := newVolume(t, 256, 4096)
	want := noise(t, 1<<20)
	v.theirs(func(path string) {
		tool(t, "mkfs.ext4", "-q", "-F", path)
		mp := t.TempDir()
		if err := unix.Mount(path, mp, "ext4", 0, ""); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(mp, "file"), want, 0o600); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(mp, 0); err != nil {
			t.Fatal(err)
		}
	})
	clear := filepath.Join(t.TempDir(), "clear.img")
	v.ours(func(dev blockdev.Device) {
		if err := os.WriteFile(clear, readAll(t, dev), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	tool(t, "e2fsck", "-f", "-n", clear)
	got, err := exec.Command("debugfs", "-R", "cat /file", clear).Output()
	if err != nil || sha256.Sum256(got) != sha256.Sum256(want) {
		t.Errorf("we read %d bytes of the file (%v), other than the %d written", len(got), err, len(want))
	}
}

func TestDMCrypt_fileSystemMadeByUsIsReadByTheKernel(t *testing.T) {
	needGuest(t)
	v := newVolume(t, 256, 4096)
	want := noise(t, 1<<20)
	dir := t.TempDir()
	clear, file := filepath.Join(dir, "clear.img"), filepath.Join(dir, "file")
	if err := os.WriteFile(clear, make([]byte, payload), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.ext4", "-q", "-F", "-b", "4096", clear) // as large as the volume's sectors
	tool(t, "debugfs", "-w", "-R", "write "+file+" file", clear)
	v.ours(func(dev blockdev.Device) {
		b, err := os.ReadFile(clear)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := dev.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
	})
	v.theirs(func(path string) {
		tool(t, "e2fsck", "-f", "-n", path)
		mp := t.TempDir()
		if err := unix.Mount(path, mp, "ext4", unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(mp, "file"))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("the kernel reads %d bytes of the file (%v), other than the %d written", len(got), err, len(want))
		}
		if err := unix.Unmount(mp, 0); err != nil {
			t.Fatal(err)
		}
	})
}
