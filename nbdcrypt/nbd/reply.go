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
		b = appendChunk(b, true, chunkError, r.cookie, uint32(6+len(message)))
		b = binary.BigEndian.AppendUint32(b, uint32(r.errno))
		b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
		b = append(b, message...)
	case t.structured && r.cmd == cmdRead:
		last := uint64(r.sent)+uint64(len(r.data)) == uint64(r.length)
		b = appendChunk(b, last, chunkOffsetData, r.cookie, uint32(8+len(r.data)))
		b = binary.BigEndian.AppendUint64(b, r.offset+uint64(r.sent))
	case t.structured && r.cmd == cmdBlockStatus:
		b = appendChunk(b, true, chunkBlockStatus, r.cookie, uint32(4+len(r.data)))
		b = binary.BigEndian.AppendUint32(b, baseAllocationID)
	default:
		b = binary.BigEndian.AppendUint32(b, magicSimple)
		b = binary.BigEndian.AppendUint32(b, uint32(r.errno))
		b = binary.BigEndian.AppendUint64(b, r.cookie)
	}
	r.replyLen = len(b)
}

// appendChunk appends the header of a chunk; last is the one that ends the reply.
func appendChunk(b []byte, last bool, kind uint16, cookie uint64, length uint32) []byte {
	flags := uint16(0)
	if last {
		flags = chunkFlagDone
	}
	b = binary.BigEndian.AppendUint32(b, magicStructured)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint64(b, cookie)
	return binary.BigEndian.AppendUint32(b, length)
}

// replyWriter sends replies. Any goroutine may push; the one that finds nobody writing writes everything that is queued.
type replyWriter struct {
	conn transport
	// vectored is nil for a connection that has no writev, such as TLS: there small pieces are gathered in joined.
	vectored vectorWriter
	joined   *bufio.Writer
	// release is called with every request after its reply was written, or dropped because the connection is broken.
	release func(*request)
	// broken is called once, with the first error.
	broken func(error)
	stall  time.Duration

	mu    sync.Mutex
	queue []*request
	spare []*request
	// held is the data in the queue, bytes.
	held    int
	writing bool
	// idle is signalled when writing becomes false and streaming goroutines wait for that.
	idle      sync.Cond
	streaming int
	err       error

	// iovecs are the total bytes that the one who writes is about to send.
	iovecs [][]byte
	total  int
}

func newReplyWriter(conn transport, stall time.Duration) *replyWriter {
	w := &replyWriter{conn: conn, stall: stall}
	w.idle.L = &w.mu
	switch c := conn.(type) {
	case vectorWriter:
		w.vectored = c
	case *net.UnixConn:
		w.vectored = &gather{conn: c}
	case *net.TCPConn:
		w.vectored = &gather{conn: c}
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

// hold queues r's reply, to be written by the next push or flush, or now when that makes enough for one writev.
func (w *replyWriter) hold(r *request) {
	w.mu.Lock()
	w.queue = append(w.queue, r)
	w.held += len(r.data)
	if len(w.queue) >= heldReplies || w.held >= heldBytes {
		w.drainLocked()
		return
	}
	w.mu.Unlock()
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
		w.writeQueued(nil)
	}
	w.writing = false
	if w.streaming > 0 {
		w.idle.Signal()
	}
	w.mu.Unlock()
}

// stream writes what is queued and then a piece of r's reply, which stays with the caller. It returns false when the
// connection is broken.
func (w *replyWriter) stream(r *request) bool {
	w.mu.Lock()
	w.streaming++
	for w.writing {
		w.idle.Wait()
	}
	w.streaming--
	w.writing = true
	w.writeQueued(r)
	ok := w.err == nil
	w.writing = false
	w.drainLocked()
	return ok
}

// writeQueued writes the queue and a piece of another reply, nil for none. The lock, which is held, is released meanwhile.
func (w *replyWriter) writeQueued(piece *request) {
	batch := w.queue
	w.queue = w.spare[:0]
	w.held = 0
	err := w.err
	w.mu.Unlock()

	if err == nil {
		if err = w.write(batch, piece); err != nil {
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

// gather adds a reply to what write sends.
func (w *replyWriter) gather(r *request) {
	w.iovecs = append(w.iovecs, r.reply[:r.replyLen])
	w.total += r.replyLen + len(r.data)
	if len(r.data) > 0 {
		w.iovecs = append(w.iovecs, r.data)
	}
}

// write sends the replies of a batch, and a piece of another, in one go.
func (w *replyWriter) write(batch []*request, piece *request) error {
	w.iovecs, w.total = w.iovecs[:0], 0
	for _, r := range batch {
		w.gather(r)
	}
	if piece != nil {
		w.gather(piece)
	}
	if w.stall > 0 {
		_ = w.conn.SetWriteDeadline(time.Now().Add(w.stall + time.Duration(w.total)*(time.Second/slowestRate)))
	}
	switch {
	case len(w.iovecs) == 1:
		_, err := w.conn.Write(w.iovecs[0])
		return err
	case w.vectored != nil:
		return w.vectored.writeAll(w.iovecs)
	}
	for _, b := range w.iovecs {
		if _, err := w.joined.Write(b); err != nil {
			return err
		}
	}
	return w.joined.Flush()
}
