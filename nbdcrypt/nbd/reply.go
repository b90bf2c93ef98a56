package nbd

import (
	"bufio"
	"encoding/binary"
	"net"
	"sync"
	"time"
)

// replyHeadSize holds the longest header: a structured error with its message.
const replyHeadSize = structuredHeaderSize + 6 + 96

// encodeReply fills in r's reply header. What went wrong decides the form: with structured replies agreed, errors carry a
// message and data travels in chunks; a command without data is answered by a simple reply in both cases.
func (t *terms) encodeReply(r *request) {
	if r.errno != OK {
		r.data = nil
	}
	b := r.reply[:0]
	switch {
	case t.structured && r.errno != OK:
		message := r.errno.Error()
		b = appendChunk(b, chunkError, r.cookie, uint32(6+len(message)))
		b = binary.BigEndian.AppendUint32(b, uint32(r.errno))
		b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
		b = append(b, message...)
	case t.structured && r.cmd == cmdRead:
		b = appendChunk(b, chunkOffsetData, r.cookie, uint32(8+len(r.data)))
		b = binary.BigEndian.AppendUint64(b, r.offset)
	case t.structured && r.cmd == cmdBlockStatus:
		b = appendChunk(b, chunkBlockStatus, r.cookie, uint32(4+len(r.data)))
		b = binary.BigEndian.AppendUint32(b, baseAllocationID)
	default:
		b = binary.BigEndian.AppendUint32(b, magicSimple)
		b = binary.BigEndian.AppendUint32(b, uint32(r.errno))
		b = binary.BigEndian.AppendUint64(b, r.cookie)
	}
	r.replyLen = len(b)
}

// appendChunk appends the header of a chunk that is the whole reply.
func appendChunk(b []byte, kind uint16, cookie uint64, length uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, magicStructured)
	b = binary.BigEndian.AppendUint16(b, chunkFlagDone)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, length)
}

// replyWriter sends replies. Any goroutine may push; the one that finds nobody writing writes everything that is queued.
type replyWriter struct {
	conn net.Conn
	// vectored is false for a connection that has no writev, such as TLS: there small pieces are gathered in joined.
	vectored bool
	joined   *bufio.Writer
	// release is called with every request after its reply was written, or dropped because the connection is broken.
	release func(*request)
	// broken is called once, with the first error.
	broken func(error)
	stall  time.Duration

	mu      sync.Mutex
	queue   []*request
	spare   []*request
	writing bool
	err     error

	// iovecs and pending are for the one who writes; net.Buffers consumes the slice it is given.
	iovecs  [][]byte
	pending net.Buffers
}

func newReplyWriter(conn net.Conn, stall time.Duration) *replyWriter {
	w := &replyWriter{conn: conn, stall: stall}
	switch conn.(type) {
	case *net.UnixConn, *net.TCPConn:
		w.vectored = true
	default:
		w.joined = bufio.NewWriterSize(conn, 64<<10)
	}
	return w
}

// push queues r's reply and sees to it that it is written.
func (w *replyWriter) push(r *request) {
	w.mu.Lock()
	w.queue = append(w.queue, r)
	w.drainLocked()
}

// hold queues r's reply, to be written by the next push or flush. It returns the number of replies that are waiting.
func (w *replyWriter) hold(r *request) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, r)
	return len(w.queue)
}

// flush writes what hold has queued, unless somebody is writing and will do it.
func (w *replyWriter) flush() {
	w.mu.Lock()
	w.drainLocked()
}

// drainLocked writes until the queue is empty, and unlocks. It returns at once when somebody else is writing.
func (w *replyWriter) drainLocked() {
	if w.writing {
		w.mu.Unlock()
		return
	}
	w.writing = true
	for len(w.queue) > 0 {
		batch := w.queue
		w.queue = w.spare[:0]
		err := w.err
		w.mu.Unlock()

		if err == nil {
			if err = w.write(batch); err != nil {
				w.broken(err)
			}
		}
		for i, r := range batch {
			w.release(r)
			batch[i] = nil
		}

		w.mu.Lock()
		w.spare = batch
		w.err = err
	}
	w.writing = false
	w.mu.Unlock()
}

// write sends the replies of a batch in one go.
func (w *replyWriter) write(batch []*request) error {
	w.iovecs = w.iovecs[:0]
	total := 0
	for _, r := range batch {
		w.iovecs = append(w.iovecs, r.reply[:r.replyLen])
		total += r.replyLen + len(r.data)
		if len(r.data) > 0 {
			w.iovecs = append(w.iovecs, r.data)
		}
	}
	if w.stall > 0 {
		_ = w.conn.SetWriteDeadline(time.Now().Add(w.stall + time.Duration(total)*(time.Second/slowestRate)))
	}
	switch {
	case len(w.iovecs) == 1:
		_, err := w.conn.Write(w.iovecs[0])
		return err
	case w.vectored:
		w.pending = w.iovecs
		_, err := w.pending.WriteTo(w.conn)
		return err
	}
	for _, b := range w.iovecs {
		if _, err := w.joined.Write(b); err != nil {
			return err
		}
	}
	return w.joined.Flush()
}
