package nbdcrypt

import (
	"crypto/rand"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/keymem/memsearch"
	"keyward/nbdcrypt/luks2"
)

// The first round keys of AES are the key itself. Signals that hit a running cipher leave the registers, and so the key,
// on signal stacks.
func TestVolume_keyIsGoneFromSignalStacksAfterClose(t *testing.T) {
	raw := make([]byte, 64)
	rand.Read(raw)
	data, tweak := memsearch.NewPattern(raw[:32]), memsearch.NewPattern(raw[32:])
	key, err := keymem.FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	dev := blockdev.NewMemory(32 << 20)
	record, err := luks2.Format(dev, luks2.Params{Device: "d", Account: "a", Broker: "b", KeyBits: 256}, key)
	if err != nil {
		t.Fatal(err)
	}
	volume, err := Open(dev, record, key, Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Encrypt on every processor while signals rain.
	stop := make(chan struct{})
	var work sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		work.Go(func() {
			buffer := make([]byte, 1<<20)
			for {
				select {
				case <-stop:
					return
				default:
					volume.WriteAt(buffer, 0)
				}
			}
		})
	}
	caught := false
	for range 2000 {
		unix.Kill(os.Getpid(), unix.SIGURG)
		time.Sleep(50 * time.Microsecond)
	}
	close(stop)
	work.Wait()
	for _, pattern := range []memsearch.Pattern{data, tweak} {
		found, err := memsearch.Search(0, pattern)
		if err != nil {
			t.Fatal(err)
		}
		caught = caught || len(found) > 0
	}
	if err := volume.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("a key was on a signal stack before Close: %v", caught)
	for name, pattern := range map[string]memsearch.Pattern{"data key": data, "tweak key": tweak} {
		if found, err := memsearch.Search(0, pattern); err != nil || len(found) > 0 {
			t.Errorf("the %s is still in memory after Close: %q, error %v", name, found, err)
		}
	}
}
