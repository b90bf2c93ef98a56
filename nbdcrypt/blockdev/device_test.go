package blockdev

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
)

func TestCheckRange_everyBorder(t *testing.T) {
	const most = 1<<63 - 1
	for _, c := range []struct {
		off, n, size int64
		ok           bool
	}{
		{0, 0, 0, true}, {0, 1, 0, false}, {0, 100, 100, true}, {99, 1, 100, true}, {100, 0, 100, true},
		{100, 1, 100, false}, {99, 2, 100, false}, {101, 0, 100, false}, {-1, 1, 100, false}, {0, -1, 100, false},
		{most, most, most, false}, {most, 0, most, true}, {1, most, most, false}, {-most - 1, most, 100, false},
	} {
		err := CheckRange(c.off, c.n, c.size)
		if (err == nil) != c.ok || (err != nil && !errors.Is(err, ErrOutOfRange)) {
			t.Errorf("%d bytes at %d of %d: %v", c.n, c.off, c.size, err)
		}
	}
}

// behaves is what every Device of 1 MiB does that starts with zeroes.
func behaves(t *testing.T, dev Device) {
	t.Helper()
	const size = 1 << 20
	if dev.Size() != size {
		t.Fatalf("size %d", dev.Size())
	}
	data := bytes.Repeat([]byte("keyward."), 1024)
	if n, err := dev.WriteAt(data, 4001); n != len(data) || err != nil {
		t.Fatalf("wrote %d: %v", n, err)
	}
	if !bytes.Equal(data, bytes.Repeat([]byte("keyward."), 1024)) {
		t.Error("WriteAt changed the caller's buffer")
	}
	back := make([]byte, len(data)+2)
	if n, err := dev.ReadAt(back, 4000); n != len(back) || err != nil {
		t.Fatalf("read %d: %v", n, err)
	}
	if back[0] != 0 || back[len(back)-1] != 0 || !bytes.Equal(back[1:len(back)-1], data) {
		t.Error("what was written reads differently")
	}
	if n, err := dev.ReadAt(make([]byte, 16), size-16); n != 16 || err != nil {
		t.Errorf("the last bytes: %d, %v", n, err)
	}
	if n, err := WriteAtInPlace(dev, bytes.Clone(data), 100_000); n != len(data) || err != nil {
		t.Errorf("wrote in place %d: %v", n, err)
	}
	for _, off := range []int64{-1, size - 1, size, 1<<63 - 1} {
		if _, err := dev.ReadAt(make([]byte, 2), off); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("read at %d: %v", off, err)
		}
		if _, err := dev.WriteAt(make([]byte, 2), off); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("write at %d: %v", off, err)
		}
		for name, err := range map[string]error{"discard": Discard(dev, off, 2), "zeroes": WriteZeroes(dev, off, 2, true)} {
			if !errors.Is(err, ErrOutOfRange) && !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s at %d: %v", name, off, err)
			}
		}
	}
	if err := WriteZeroes(dev, 4096, 4096, true); err == nil {
		zero := make([]byte, 4096)
		if _, err := dev.ReadAt(zero, 4096); err != nil || !bytes.Equal(zero, make([]byte, 4096)) {
			t.Errorf("zeroes read differently: %v", err)
		}
	} else if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("zeroes: %v", err)
	}
	if list, err := Extents(dev, 0, size); err != nil {
		t.Errorf("extents: %v", err)
	} else if total := lengths(list); total < 1 || total > size {
		t.Errorf("extents cover %d bytes", total)
	}
	if b := BlockSize(dev); b < 512 || b&(b-1) != 0 {
		t.Errorf("block size %d", b)
	}
	if err := dev.Sync(); err != nil {
		t.Errorf("sync: %v", err)
	}
	if err := dev.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := dev.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	_, readErr := dev.ReadAt(back, 0)
	_, writeErr := dev.WriteAt(back, 0)
	if !errors.Is(readErr, ErrClosed) {
		t.Errorf("read after close: %v", readErr)
	}
	if _, delayed := dev.(*Volatile); !delayed && !errors.Is(writeErr, ErrClosed) {
		t.Errorf("write after close: %v", writeErr)
	}
	if err := dev.Sync(); !errors.Is(err, ErrClosed) {
		t.Errorf("sync after close: %v", err)
	}
}

func lengths(list []Extent) (total int64) {
	for _, e := range list {
		total += e.Length
	}
	return total
}

func TestDevices_keepTheContract(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func() Device{
		"Memory":   func() Device { return NewMemory(1 << 20) },
		"File":     func() Device { return newFile(t, 1<<20) },
		"Fault":    func() Device { return NewFault(NewMemory(1 << 20)) },
		"Volatile": func() Device { return NewVolatile(NewMemory(1<<20), 512) },
		"Delay":    func() Device { return NewDelay(NewMemory(1<<20), Delays{}) },
		"Stats":    func() Device { return NewStats(newFile(t, 1<<20), nil) },
		"Stripe": func() Device {
			s, err := NewStripe([]Member{{newFile(t, 1<<19), "a"}, {NewMemory(1<<19 + 4095), "b"}}, 4096)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			behaves(t, make())
		})
	}
}

func newFile(t *testing.T, size int64) *File {
	t.Helper()
	f, err := CreateFile(filepath.Join(t.TempDir(), "disk"), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
