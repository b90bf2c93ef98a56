package nbdcrypt

import (
	"bytes"
	"crypto/aes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	oracle "golang.org/x/crypto/xts"

	"keyward/nbdcrypt/blockdev"
	"keyward/nbdcrypt/keymem"
	"keyward/nbdcrypt/luks2"
)

const payload = 1 << 20

func rawKey(bits int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 9))
	raw := make([]byte, bits/4)
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	return raw
}

func newKey(t testing.TB, bits int, seed uint64) *keymem.Key {
	t.Helper()
	key, err := keymem.FromBytes(rawKey(bits, seed))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return key
}

// fresh is a formatted memory device and its record. Its key is newKey(t, bits, 1).
func fresh(t testing.TB, bits, sector int) (*blockdev.Memory, luks2.Record) {
	t.Helper()
	dev := blockdev.NewMemory(luks2.DataOffset + payload)
	rec, err := luks2.Format(dev, luks2.Params{Device: "dev", Account: "acc", Broker: "broker", KeyBits: bits, SectorSize: sector}, newKey(t, bits, 1))
	if err != nil {
		t.Fatal(err)
	}
	return dev, rec
}

func open(t testing.TB, dev blockdev.Device, rec luks2.Record, opts Options) *Volume {
	t.Helper()
	v, err := Open(dev, rec, newKey(t, rec.KeyBits, 1), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

func TestVolume_diskHoldsWhatTheOracleSays(t *testing.T) {
	t.Parallel()
	for _, bits := range []int{128, 192, 256} {
		for _, sector := range []int{512, 4096} {
			dev, rec := fresh(t, bits, sector)
			v := open(t, dev, rec, Options{})
			plain := make([]byte, payload)
			r := rand.New(rand.NewPCG(1, 1))
			for i := range plain {
				plain[i] = byte(r.Uint32())
			}
			if n, err := v.WriteAt(plain, 0); n != payload || err != nil {
				t.Fatalf("wrote %d: %v", n, err)
			}
			c, err := oracle.NewCipher(aes.NewCipher, rawKey(bits, 1))
			if err != nil {
				t.Fatal(err)
			}
			disk := dev.Snapshot()[luks2.DataOffset:]
			for off := 0; off < payload; off += sector {
				c.Decrypt(disk[off:off+sector], disk[off:off+sector], uint64(off/512)) // plain64 counts 512-byte units
			}
			if !bytes.Equal(disk, plain) {
				t.Errorf("%d bits, %d-byte sectors: the oracle decrypts something else", bits, sector)
			}
			back := make([]byte, payload)
			if n, err := v.ReadAt(back, 0); n != payload || err != nil || !bytes.Equal(back, plain) {
				t.Errorf("%d bits, %d-byte sectors: read %d differs: %v", bits, sector, n, err)
			}
		}
	}
}

// Every request at any offset and length, by every way of writing, against a plain model.
func TestVolume_behavesAsAPlainDiskAtAnyAlignment(t *testing.T) {
	t.Parallel()
	for _, sector := range []int{512, 4096} {
		dev, rec := fresh(t, 256, sector)
		v := open(t, dev, rec, Options{AllowDiscard: true})
		if err := v.WriteZeroes(0, payload, true); err != nil {
			t.Fatal(err)
		}
		model := make([]byte, payload)
		r := rand.New(rand.NewPCG(2, uint64(sector)))
		lengths := []int{0, 1, 2, 15, 16, 17, sector - 1, sector, sector + 1, 3*sector + 5, maxChunk - 1, maxChunk, maxChunk + 1, maxChunk + sector, 2*maxChunk + 77}
		for step := range 1500 {
			n := lengths[r.IntN(len(lengths))]
			off := int64(r.IntN(payload - n + 1))
			if r.IntN(2) == 0 {
				off = off / int64(sector) * int64(sector)
			}
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(step + i)
			}
			var err error
			var done int
			switch r.IntN(4) {
			case 0:
				copy(model[off:], p)
				done, err = v.WriteAt(p, off)
				for i := range p {
					if p[i] != byte(step+i) {
						t.Fatal("WriteAt changed the caller's buffer")
					}
				}
			case 1:
				copy(model[off:], p)
				done, err = v.WriteAtInPlace(p, off)
			case 2:
				clear(model[off : off+int64(n)])
				done, err = n, v.WriteZeroes(off, int64(n), true)
			case 3:
				if done, err = v.ReadAt(p, off); !bytes.Equal(p, model[off:off+int64(n)]) {
					t.Fatalf("step %d: %d bytes at %d read differently", step, n, off)
				}
			}
			if err != nil || done != n {
				t.Fatalf("step %d: %d of %d at %d: %v", step, done, n, off, err)
			}
		}
		back := make([]byte, payload)
		if _, err := v.ReadAt(back, 0); err != nil || !bytes.Equal(back, model) {
			t.Errorf("%d-byte sectors: the whole differs (%v)", sector, err)
		}
		if bytes.Contains(dev.Snapshot()[luks2.DataOffset:], make([]byte, 64)) {
			t.Error("zeroes stand on the disk in clear")
		}
	}
}

// Writers own interleaved bytes of the same sectors: each read-modify-write must keep what the others wrote.
func TestVolume_concurrentPartialWritesLoseNothing(t *testing.T) {
	t.Parallel()
	const writers, rounds, span = 8, 40, 8 * 4096
	dev, rec := fresh(t, 128, 4096)
	v := open(t, dev, rec, Options{})
	if err := v.WriteZeroes(0, span+4096, true); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg, reader sync.WaitGroup
	reader.Go(func() { // one byte beside the last writes is never written: it must always read as zero
		one := make([]byte, 1)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := v.ReadAt(one, span+1); err != nil || one[0] != 0 {
				t.Errorf("a byte that nobody wrote reads as %d (%v)", one[0], err)
				return
			}
		}
	})
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 3))
			const piece = span / writers / 32
			for round := range rounds {
				for i := range 32 {
					p := bytes.Repeat([]byte{byte(w*rounds + round + 1)}, piece)
					off := int64((i*writers + w) * piece)
					var err error
					if r.IntN(2) == 0 {
						_, err = v.WriteAt(p, off)
					} else {
						_, err = v.WriteAtInPlace(p, off)
					}
					if err != nil {
						t.Error(err)
					}
					back := make([]byte, piece)
					if _, err := v.ReadAt(back, off); err != nil || back[0] != byte(w*rounds+round+1) || back[piece-1] != back[0] {
						t.Errorf("writer %d lost its write at %d", w, off)
						return
					}
					if _, err := v.WriteAt([]byte{byte(round)}, span+2); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	reader.Wait()
}

func TestVolume_refusesRequestsOutside(t *testing.T) {
	t.Parallel()
	dev, rec := fresh(t, 256, 4096)
	v := open(t, dev, rec, Options{AllowDiscard: true})
	before := dev.Snapshot()
	buf := make([]byte, 4096)
	for _, off := range []int64{-1, -1 << 63, payload - 4095, payload, payload + 1, 1<<63 - 1, 1<<63 - 4096} {
		if _, err := v.ReadAt(buf, off); !errors.Is(err, blockdev.ErrOutOfRange) {
			t.Errorf("read at %d: %v", off, err)
		}
		if _, err := v.WriteAt(buf, off); !errors.Is(err, blockdev.ErrOutOfRange) {
			t.Errorf("write at %d: %v", off, err)
		}
		if _, err := v.WriteAtInPlace(buf, off); !errors.Is(err, blockdev.ErrOutOfRange) {
			t.Errorf("write in place at %d: %v", off, err)
		}
		if err := v.WriteZeroes(off, 4096, false); !errors.Is(err, blockdev.ErrOutOfRange) {
			t.Errorf("zeroes at %d: %v", off, err)
		}
		if err := v.Discard(off, 4096); !errors.Is(err, blockdev.ErrOutOfRange) {
			t.Errorf("discard at %d: %v", off, err)
		}
	}
	if err := v.WriteZeroes(4096, -1, false); !errors.Is(err, blockdev.ErrOutOfRange) {
		t.Errorf("negative length: %v", err)
	}
	if err := v.WriteZeroes(0, 1<<63-1, false); !errors.Is(err, blockdev.ErrOutOfRange) {
		t.Errorf("huge length: %v", err)
	}
	if !bytes.Equal(dev.Snapshot(), before) {
		t.Error("a refused request wrote")
	}
	if v.Size() != payload || v.BlockSize() != 4096 {
		t.Errorf("size %d, block size %d", v.Size(), v.BlockSize())
	}
}

func TestVolume_readOnlyWritesNothing(t *testing.T) {
	t.Parallel()
	mem, rec := fresh(t, 256, 4096)
	dev := blockdev.NewFault(mem)
	dev.Add(blockdev.Rule{Ops: blockdev.OpMutate})
	v := open(t, dev, rec, Options{ReadOnly: true, AllowDiscard: true})
	buf := make([]byte, 4096)
	_, atErr := v.WriteAt(buf, 0)
	_, ownedErr := v.WriteAtInPlace(buf, 0)
	for name, err := range map[string]error{
		"WriteAt": atErr, "WriteAtInPlace": ownedErr, "WriteZeroes": v.WriteZeroes(0, 4096, true), "Discard": v.Discard(0, 4096),
	} {
		if !errors.Is(err, blockdev.ErrReadOnly) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := v.ReadAt(buf, 0); err != nil || !v.ReadOnly() {
		t.Error(err)
	}
	if err := errors.Join(v.Suspend(), v.Resume(newKey(t, 256, 1)), v.Close()); err != nil {
		t.Error(err)
	}
	if dev.Hits() != 0 {
		t.Error("a read-only volume wrote to its device")
	}
}

func TestVolume_discardOnlyWhereAllowed(t *testing.T) {
	t.Parallel()
	dev, rec := fresh(t, 256, 4096)
	v := open(t, dev, rec, Options{})
	data := bytes.Repeat([]byte{7}, 3*4096)
	if _, err := v.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := v.Discard(0, 4096); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v", err)
	}
	allowed := open(t, dev, rec, Options{AllowDiscard: true})
	// Half a sector on each side: only the whole one between is discarded.
	if err := allowed.Discard(2048, 2*4096); err != nil {
		t.Fatal(err)
	}
	if err := allowed.Discard(100, 200); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(data))
	if _, err := allowed.ReadAt(back, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back[:4096], data[:4096]) || !bytes.Equal(back[8192:], data[:4096]) {
		t.Error("a sector discarded in part was lost")
	}
	if bytes.Equal(back[4096:8192], data[:4096]) {
		t.Error("the whole sector was not discarded")
	}
}

func TestVolume_deviceErrorsReachTheCaller(t *testing.T) {
	t.Parallel()
	mem, rec := fresh(t, 256, 4096)
	dev := blockdev.NewFault(mem)
	v := open(t, dev, rec, Options{})
	data := bytes.Repeat([]byte{7}, maxChunk*2)
	if _, err := v.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	dev.Add(blockdev.Rule{Ops: blockdev.OpRead, Off: luks2.DataOffset + 8192, Len: 1})
	buf := make([]byte, 100)
	if _, err := v.ReadAt(buf, 8192+50); !errors.Is(err, blockdev.ErrInjected) {
		t.Errorf("read: %v", err)
	}
	if !bytes.Equal(buf, make([]byte, 100)) {
		t.Error("a failed read gave data")
	}
	// The read half of a read-modify-write fails: nothing may be written, the data must survive.
	if _, err := v.WriteAt(buf, 8192+50); !errors.Is(err, blockdev.ErrInjected) {
		t.Errorf("partial write: %v", err)
	}
	dev.Clear()
	back := make([]byte, len(data))
	if _, err := v.ReadAt(back, 0); err != nil || !bytes.Equal(back, data) {
		t.Errorf("a failed partial write destroyed data (%v)", err)
	}
	dev.Add(blockdev.Rule{Ops: blockdev.OpWrite, Off: luks2.DataOffset + maxChunk, Len: 1, Err: blockdev.ErrNoSpace})
	if n, err := v.WriteAt(data, 0); n != maxChunk || !errors.Is(err, blockdev.ErrNoSpace) {
		t.Errorf("second chunk fails: %d, %v", n, err)
	}
	if n, err := v.WriteAtInPlace(bytes.Clone(data), 0); n != maxChunk || !errors.Is(err, blockdev.ErrNoSpace) {
		t.Errorf("second chunk in place fails: %d, %v", n, err)
	}
	dev.Clear()
	dev.Add(blockdev.Rule{Ops: blockdev.OpSync, Err: io.ErrClosedPipe})
	if err := v.Sync(); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("sync: %v", err)
	}
}

func TestOpen_refusesOnMismatchAndLeavesKeyAndDevice(t *testing.T) {
	t.Parallel()
	dev, rec := fresh(t, 256, 4096)
	before := dev.Snapshot()
	other := rec
	other.Device = "someone-else"
	null := rec
	null.Cipher = "cipher_null-ecb"
	for name, c := range map[string]struct {
		dev  blockdev.Device
		rec  luks2.Record
		seed uint64
		want func(error) bool
	}{
		"wrong key":     {dev, rec, 2, func(err error) bool { return errors.Is(err, luks2.ErrWrongKey) }},
		"other record":  {dev, other, 1, func(err error) bool { return errors.As(err, new(*luks2.MismatchError)) }},
		"null cipher":   {dev, null, 1, func(err error) bool { return errors.As(err, new(*luks2.FieldError)) }},
		"blank device":  {blockdev.NewMemory(1 << 20), rec, 1, func(err error) bool { return errors.Is(err, luks2.ErrNotLUKS2) }},
		"device cut":    {blockdev.NewMemoryFrom(before[:len(before)-4096]), rec, 1, func(err error) bool { return err != nil }},
		"no key at all": {dev, rec, 0, func(err error) bool { return errors.Is(err, luks2.ErrWrongKey) }},
	} {
		var key *keymem.Key
		if c.seed > 0 {
			key = newKey(t, 256, c.seed)
		}
		v, err := Open(c.dev, c.rec, key, Options{})
		if !c.want(err) || v != nil {
			t.Errorf("%s: error %v", name, err)
		}
		if key != nil && key.Len() == 0 {
			t.Errorf("%s: the key was wiped on failure", name)
		}
	}
	if !bytes.Equal(dev.Snapshot(), before) {
		t.Error("a refused open wrote")
	}
	key := newKey(t, 256, 1)
	v, err := Open(dev, rec, key, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if key.Len() != 0 {
		t.Error("the key was not consumed")
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	if _, err := dev.ReadAt(make([]byte, 1), 0); !errors.Is(err, blockdev.ErrClosed) {
		t.Error("Close did not close the device")
	}
}

func TestOpen_worksFromTheSecondaryHeader(t *testing.T) {
	t.Parallel()
	dev, rec := fresh(t, 256, 4096)
	if _, err := dev.WriteAt(make([]byte, luks2.HeaderSize), 0); err != nil {
		t.Fatal(err)
	}
	v := open(t, dev, rec, Options{})
	if _, err := v.WriteAt([]byte("x"), 9); err != nil {
		t.Error(err)
	}
}

func FuzzVolumeWrite(f *testing.F) {
	f.Add(int64(0), uint32(4096), false)
	f.Add(int64(4095), uint32(2), true)
	f.Add(int64(payload-1), uint32(1), false)
	f.Add(int64(100), uint32(maxChunk*2), true)
	dev, rec := fresh(f, 256, 4096)
	v := open(f, dev, rec, Options{})
	if err := v.WriteZeroes(0, payload, true); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, off int64, length uint32, owned bool) {
		n := int(length % (2 * payload))
		p := bytes.Repeat([]byte{0xEE}, n)
		write := v.WriteAt
		if owned {
			write = v.WriteAtInPlace
		}
		_, err := write(p, off)
		if inside := off >= 0 && off <= payload && int64(n) <= payload-off; inside != (err == nil) {
			t.Fatalf("%d bytes at %d: %v", n, off, err)
		}
		if err != nil {
			return
		}
		whole := make([]byte, payload)
		if _, err := v.ReadAt(whole, 0); err != nil {
			t.Fatal(err)
		}
		for i, b := range whole {
			if want := int64(i) >= off && int64(i) < off+int64(n); want != (b == 0xEE) {
				t.Fatalf("%d bytes at %d: byte %d reads %x", n, off, i, b)
			}
		}
		if err := v.WriteZeroes(off, int64(n), true); err != nil {
			t.Fatal(err)
		}
	})
}
