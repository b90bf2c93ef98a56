package nbd

import (
	"errors"
	"fmt"
	"io"
)

const (
	// cacheStep is how much a CACHE command reads at a time, bytes.
	cacheStep = 256 << 10
)

// errStopped ends a long command of a connection that is gone.
var errStopped = errors.New("stopped: the connection was closed")

// execute carries out a request that has been validated and loaded, and leaves its result in r.errno and r.data.
func (s *session) execute(r *request) {
	var err error
	switch r.cmd {
	case cmdRead:
		err = s.read(r)
	case cmdWrite:
		err = s.write(r)
	case cmdTrim:
		err = s.trim(r)
	case cmdWriteZeroes:
		err = s.writeZeroes(r)
	case cmdCache:
		err = s.cacheRange(r)
	case cmdBlockStatus:
		err = s.blockStatus(r)
	}
	// FUA on a command that changes nothing asks for nothing.
	if err == nil && (r.cmd == cmdFlush || r.flags&cmdFlagFUA != 0 && rules[r.cmd].writes) {
		err = s.target.sync.do()
	}
	if err == nil {
		return
	}
	r.errno = errnoOf(err, rules[r.cmd].writes)
	if r.errno != ENOTSUP && !errors.Is(err, errStopped) {
		s.report(r, err)
	}
}

// readPiece is the most that is read before it is sent: small enough to be still in the processor's cache.
const readPiece = 512 << 10

// pieceOf is how much of a READ is held in memory at a time. Structured replies may report an error after data, so with
// them a long read goes out in pieces, unless the client forbids it.
func (s *session) pieceOf(r *request) int {
	if s.structured && r.flags&cmdFlagDF == 0 {
		return int(min(r.length, readPiece))
	}
	return int(r.length)
}

// read fills r.data with the end of r's range, and sends what is before it.
func (s *session) read(r *request) error {
	piece := uint32(len(r.data))
	for ; r.length-r.sent > piece; r.sent += piece {
		if err := s.fill(r.data, int64(r.offset)+int64(r.sent)); err != nil {
			return err
		}
		s.encodeReply(r)
		if !s.out.stream(r) {
			return errStopped
		}
	}
	r.data = r.data[:r.length-r.sent]
	return s.fill(r.data, int64(r.offset)+int64(r.sent))
}

// fill reads all of p from the device.
func (s *session) fill(p []byte, off int64) error {
	meter := startMeter(len(p))
	n, err := s.target.Device.ReadAt(p, off)
	s.observe(meter.waited())
	if n == len(p) && err == io.EOF {
		err = nil
	}
	if err == nil && n != len(p) {
		// The rest of the buffer is somebody else's old data.
		err = fmt.Errorf("the device read %d of %d bytes: %w", n, len(p), io.ErrUnexpectedEOF)
	}
	if err == nil {
		s.srv.stats.bytesRead.Add(uint64(n))
	}
	return err
}

func (s *session) write(r *request) error {
	var n int
	var err error
	meter := startMeter(len(r.data))
	if s.target.inPlace != nil {
		n, err = s.target.inPlace.WriteAtInPlace(r.data, int64(r.offset))
	} else {
		n, err = s.target.Device.WriteAt(r.data, int64(r.offset))
	}
	s.observe(meter.waited())
	s.wrote()
	if err == nil && n != len(r.data) {
		err = fmt.Errorf("the device wrote %d of %d bytes: %w", n, len(r.data), io.ErrShortWrite)
	}
	if err == nil {
		s.srv.stats.bytesWritten.Add(uint64(n))
	}
	// The reply carries no data, and the payload's memory is needed elsewhere.
	s.dropBuffer(r)
	return err
}

// wrote notes that there is something to sync, also after an error: a part may have been written.
func (s *session) wrote() {
	if !s.target.unsynced.Load() {
		s.target.unsynced.Store(true)
	}
}

// trim passes a discard on. It is advice: a device that cannot has followed it by doing nothing.
func (s *session) trim(r *request) error {
	err := s.target.discard.Discard(int64(r.offset), int64(r.length))
	s.wrote()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

func (s *session) writeZeroes(r *request) error {
	off, n := int64(r.offset), int64(r.length)
	defer s.wrote()
	if s.target.zeroer != nil {
		mayUnmap := s.target.AllowTrim && r.flags&cmdFlagNoHole == 0
		err := s.target.zeroer.WriteZeroes(off, n, mayUnmap)
		if err == nil {
			s.srv.stats.bytesWritten.Add(uint64(n))
		}
		if err == nil || !errors.Is(err, errors.ErrUnsupported) || r.flags&cmdFlagFastZero != 0 {
			return err
		}
	}
	for n > 0 {
		if s.aborted.Load() {
			return errStopped
		}
		z := zeroes()
		z = z[:min(n, int64(len(z)))]
		m, err := s.target.Device.WriteAt(z, off)
		if err == nil && m != len(z) {
			err = fmt.Errorf("the device wrote %d of %d zeroes: %w", m, len(z), io.ErrShortWrite)
		}
		if err != nil {
			return err
		}
		off += int64(m)
		n -= int64(m)
		s.srv.stats.bytesWritten.Add(uint64(m))
	}
	return nil
}

// cacheRange reads the range and throws it away, unless the device knows better: what is below keeps it.
func (s *session) cacheRange(r *request) error {
	defer s.dropBuffer(r)
	off, n := int64(r.offset), int64(r.length)
	if s.target.cache != nil {
		return s.target.cache.Cache(off, n)
	}
	for n > 0 {
		if s.aborted.Load() {
			return errStopped
		}
		m := min(n, int64(len(r.data)))
		if _, err := s.target.Device.ReadAt(r.data[:m], off); err != nil && err != io.EOF {
			return err
		}
		off += m
		n -= m
	}
	return nil
}
