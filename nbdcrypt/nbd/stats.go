package nbd

import "sync/atomic"

// Stats is what a server has done since it began and what it is doing.
type Stats struct {
	// Connections counts clients, those in their handshake included, and ServeTransmission calls.
	Connections int
	// Requests counts requests read, Errors those answered with an error.
	Requests, Errors uint64
	// BytesRead and BytesWritten count what was moved from and to devices for READ, WRITE and WRITE_ZEROES.
	BytesRead, BytesWritten uint64
	// InFlight is the number of requests read and not yet answered.
	InFlight int
	// BufferBytes is the memory that requests hold at this moment, BufferWaits how often one had to wait for some.
	BufferBytes int64
	BufferWaits uint64
}

// counters are updated by all connections.
type counters struct {
	requests, errors, bytesRead, bytesWritten atomic.Uint64
	inFlight                                  atomic.Int64
}

// Stats returns the server's counters. They are read one after the other, not in one instant.
func (s *Server) Stats() Stats {
	used, waits := s.buffers.inUse()
	s.mu.Lock()
	connections := len(s.links)
	s.mu.Unlock()
	return Stats{
		Connections: connections,
		Requests:    s.stats.requests.Load(), Errors: s.stats.errors.Load(),
		BytesRead: s.stats.bytesRead.Load(), BytesWritten: s.stats.bytesWritten.Load(),
		InFlight: int(s.stats.inFlight.Load()), BufferBytes: used, BufferWaits: waits,
	}
}
