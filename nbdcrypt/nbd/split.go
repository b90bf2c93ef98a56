package nbd

import (
	"fmt"
	"sync/atomic"
)

// writePiece is how much of a WRITE is received before it is carried out, bytes, a multiple of every sector size. A piece is still in the processor's cache
// when it is encrypted and written, and the client fills its socket again meanwhile.
const writePiece = 256 << 10

// partCount is the state of a long WRITE that is carried out in parts, in any order, while it arrives.
type partCount struct {
	// open is the number of parts under way, and one more while the rest is still to arrive.
	open atomic.Int32
	// errno is the first error of them all.
	errno atomic.Uint32
}

// splits says whether r is carried out in parts. The parts are requests too, so there must be some.
func (s *session) splits(r *request) bool {
	return r.errno == OK && r.cmd == cmdWrite && r.length > s.srv.writePiece && cap(s.free) >= 4
}

// split receives r's payload part by part and has each carried out. The reply goes out after the last of them. Parts end
// at multiples of the piece, so that a split tears no sector.
func (s *session) split(r *request) error {
	r.parts.open.Store(1)
	r.parts.errno.Store(uint32(OK))
	s.srv.stats.inFlight.Add(1)
	end, piece := r.offset+uint64(r.length), uint64(s.srv.writePiece)
	for at := r.offset; at < end; {
		if Errno(r.parts.errno.Load()) != OK {
			if err := s.rd.discard(int64(end - at)); err != nil {
				return s.cutOff(r, err)
			}
			break
		}
		next := min(at-at%piece+piece, end)
		part := s.take()
		part.cmd, part.flags, part.cookie, part.offset, part.length = r.cmd, 0, r.cookie, at, uint32(next-at)
		part.whole, part.sent, part.errno = r, 0, OK
		if err := s.load(part); err != nil {
			s.dropBuffer(part)
			return s.cutOff(r, err)
		}
		r.parts.open.Add(1)
		s.dispatch(part)
		at = next
	}
	s.endOne(r, OK)
	return nil
}

// cutOff gives up a WRITE whose payload does not arrive. It has no reply; parts that did arrive may be written.
func (s *session) cutOff(r *request, err error) error {
	s.srv.stats.inFlight.Add(-1)
	return payloadError(r, err)
}

func payloadError(r *request, err error) error {
	return fmt.Errorf("reading the payload of %s of %d bytes at %d: %w", commandName(r.cmd), r.length, r.offset, err)
}

// endPart gives a part back that has been carried out.
func (s *session) endPart(part *request) {
	r, errno := part.whole, part.errno
	part.whole = nil
	s.dropBuffer(part)
	s.free <- part
	s.endOne(r, errno)
}

// endOne takes one from what is open of r, and answers r if that was the last.
func (s *session) endOne(r *request, errno Errno) {
	if errno != OK {
		r.parts.errno.CompareAndSwap(uint32(OK), uint32(errno))
	}
	if r.parts.open.Add(-1) > 0 {
		return
	}
	r.errno = Errno(r.parts.errno.Load())
	if r.errno == OK && r.flags&cmdFlagFUA != 0 {
		if err := s.target.sync.do(); err != nil {
			r.errno = errnoOf(err, true)
			s.report(r, err)
		}
	}
	if r.errno != OK {
		s.srv.stats.errors.Add(1)
	}
	s.encodeReply(r)
	s.out.push(r)
}
