package attach

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"keyward/nbdcrypt"
	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

// encrypted is a volume of ours in a file.
type encrypted struct {
	image  string
	rec    luks2.Record
	secret []byte
}

func newEncrypted(t *testing.T, size int64) *encrypted {
	t.Helper()
	return newEncryptedAt(t, filepath.Join(t.TempDir(), "volume.img"), size)
}

func newEncryptedAt(t *testing.T, image string, size int64) *encrypted {
	t.Helper()
	e := &encrypted{image: image, secret: make([]byte, 64)}
	if _, err := rand.Read(e.secret); err != nil {
		t.Fatal(err)
	}
	dev, err := blockdev.CreateFile(e.image, luks2.DataOffset+size)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	key := e.key(t)
	defer key.Wipe()
	e.rec, err = luks2.Format(dev, luks2.Params{Device: "d", Account: "a", Broker: "b", KeyBits: 256, SectorSize: 4096}, key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *encrypted) key(t *testing.T) *keymem.Key {
	t.Helper()
	key, err := keymem.FromBytes(bytes.Clone(e.secret))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// attach opens the volume and makes a block device of it.
func (e *encrypted) attach(t *testing.T, kind string, readOnly bool) (Attachment, *nbdcrypt.Volume) {
	t.Helper()
	dev, err := blockdev.OpenFile(e.image, blockdev.FileOptions{ReadOnly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
	vol, err := nbdcrypt.Open(dev, e.rec, e.key(t), nbdcrypt.Options{ReadOnly: readOnly})
	if err != nil {
		t.Fatal(errors.Join(err, dev.Close()))
	}
	t.Cleanup(func() {
		if err := vol.Close(); err != nil {
			t.Error(err)
		}
	})
	o := Options{VolumeUUID: e.rec.UUID, SectorSize: e.rec.SectorSize, ReadOnly: readOnly, Timeout: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)}
	if kind == KindNBD {
		return attachNBDForTest(t, vol, o), vol
	}
	return attachForTest(t, vol, o), vol
}

func TestAttach_encryptedVolumeHoldsAFileSystem(t *testing.T) {
	for _, kind := range []string{KindFUSE, KindNBD} {
		t.Run(kind, func(t *testing.T) {
			if kind == KindNBD {
				needNBD(t)
			} else {
				needFUSE(t)
			}
			e := newEncrypted(t, 48<<20)
			a, vol := e.attach(t, kind, false)
			mkfs(t, a.Path())
			mp := mountForTest(t, a.Path())
			sums := fill(t, mp, 60, 200<<10)
			secret := bytes.Repeat([]byte("plain text to look for on the disk "), 1000)
			if err := os.WriteFile(filepath.Join(mp, "secret"), secret, 0o600); err != nil {
				t.Fatal(err)
			}
			unmount(t, mp)
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			if err := vol.Close(); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(e.image)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(raw, secret[:35]) {
				t.Error("plain text is on the disk")
			}
			b, _ := e.attach(t, kind, true)
			mp = mountReadOnly(t, b.Path())
			verify(t, mp, sums)
			unmount(t, mp)
		})
	}
}

func TestAttach_suspendedVolumeMakesRequestsWaitAndLosesNone(t *testing.T) {
	for _, kind := range []string{KindFUSE, KindNBD} {
		t.Run(kind, func(t *testing.T) {
			if kind == KindNBD {
				needNBD(t)
			} else {
				needFUSE(t)
			}
			e := newEncrypted(t, 48<<20)
			a, vol := e.attach(t, kind, false)
			f := openDirect(t, a.Path())
			buf := aligned(t, 64<<10)
			if _, err := io.ReadFull(rand.Reader, buf); err != nil {
				t.Fatal(err)
			}
			if err := vol.Suspend(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				_, err := f.WriteAt(buf, 1<<20)
				done <- errors.Join(err, f.Sync())
			}()
			select {
			case err := <-done:
				t.Fatalf("a write to a suspended volume ended: %v", err)
			case <-time.After(3 * time.Second): // longer than the kernel waits for a connection
			}
			if err := vol.Resume(e.key(t)); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(90 * time.Second):
				t.Fatal("the write still waits after the volume was resumed")
			}
			got := make([]byte, len(buf))
			if _, err := vol.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, buf) {
				t.Errorf("the volume holds other bytes than were written (%v)", err)
			}
			f.Close()
		})
	}
}
