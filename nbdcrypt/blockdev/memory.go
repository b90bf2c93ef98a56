package blockdev

import "sync"

// Memory is a Device in the process's memory, for tests and benchmarks. A new one reads as zeroes.
type Memory struct {
	mu     sync.RWMutex
	data   []byte
	size   int64
	closed bool
}

// NewMemory makes a Memory of size bytes. It panics if size is negative.
func NewMemory(size int64) *Memory {
	return &Memory{data: make([]byte, size), size: size}
}

// NewMemoryFrom makes a Memory that holds a copy of image.
func NewMemoryFrom(image []byte) *Memory {
	return &Memory{data: append([]byte(nil), image...), size: int64(len(image))}
}

// Snapshot is a copy of the whole content, also of a closed device.
func (m *Memory) Snapshot() []byte {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return append([]byte(nil), m.data...)
}

func (m *Memory) check(off, n int64) error {
	if m.closed {
		return ErrClosed
	}
	return CheckRange(off, n, m.size)
}

// ReadAt implements Device.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if err := m.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	return copy(p, m.data[off:]), nil
}

// WriteAt implements Device.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(off, int64(len(p))); err != nil {
		return 0, err
	}
	return copy(m.data[off:], p), nil
}

// WriteZeroes implements Zeroer.
func (m *Memory) WriteZeroes(off, n int64, _ bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check(off, n); err != nil {
		return err
	}
	clear(m.data[off : off+n])
	return nil
}

// Discard implements Discarder: the range reads as zeroes afterwards.
func (m *Memory) Discard(off, n int64) error { return m.WriteZeroes(off, n, true) }

// Size implements Device.
func (m *Memory) Size() int64 { return m.size }

// Sync implements Device. Memory has nothing more stable to go to.
func (m *Memory) Sync() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return ErrClosed
	}
	return nil
}

// Close implements Device. The content stays readable through Snapshot.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
