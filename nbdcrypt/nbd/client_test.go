package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen; no test waits that long unless it fails.
const patience = 20 * time.Second

// quiet is a logger for tests that break things on purpose.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func newServer(t testing.TB, o Options) *Server {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet()
	}
	srv, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

// socketPair is a connected pair of Unix stream sockets, as the kernel's NBD client uses them.
func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Cleanup(func() { conns[0].Close() })
	return conns[0], conns[1]
}

// client speaks the protocol byte by byte, so that it can also speak it wrongly.
type client struct {
	t          testing.TB
	conn       net.Conn
	structured bool
	// parts are structured replies of which chunks have come, by cookie.
	parts map[uint64]answer
	// ended delivers what ServeConn returned.
	ended chan error
	hdr   [requestHeaderSize]byte
}

// connect starts a connection to srv; the server's greeting is not read yet.
func connect(t testing.TB, srv *Server) *client {
	t.Helper()
	near, far := socketPair(t)
	c := &client{t: t, conn: near, ended: make(chan error, 1)}
	go func() { c.ended <- srv.ServeConn(context.Background(), far) }()
	c.patience()
	return c
}

// attach starts a connection without a handshake, as the kernel does.
func attach(t testing.TB, srv *Server, e *Export) *client {
	t.Helper()
	near, far := socketPair(t)
	c := &client{t: t, conn: near, ended: make(chan error, 1)}
	go func() { c.ended <- srv.ServeTransmission(context.Background(), far, e) }()
	c.patience()
	return c
}

func (c *client) patience() { _ = c.conn.SetDeadline(time.Now().Add(patience)) }

// wait returns what the server's side ended with.
func (c *client) wait() error {
	c.t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(patience):
		c.t.Fatal("the server did not end the connection")
		return nil
	}
}

func (c *client) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatalf("writing to the server: %v", err)
	}
}

func (c *client) read(n int) []byte {
	c.t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(c.conn, b); err != nil {
		c.t.Fatalf("reading %d bytes from the server: %v", n, err)
	}
	return b
}

// readEnd checks that the server has closed the connection without another byte.
func (c *client) readEnd() {
	c.t.Helper()
	n, err := c.conn.Read(make([]byte, 1))
	if n != 0 || !(err == io.EOF || errors.Is(err, syscall.ECONNRESET)) {
		c.t.Fatalf("read %d bytes, %v; want a closed connection", n, err)
	}
}

// hello reads the greeting and sends the client's flags.
func (c *client) hello(flags uint32) *client {
	c.t.Helper()
	b := c.read(18)
	if binary.BigEndian.Uint64(b) != magicInit || binary.BigEndian.Uint64(b[8:]) != magicOption {
		c.t.Fatalf("greeting %x", b)
	}
	if got := binary.BigEndian.Uint16(b[16:]); got != 3 {
		c.t.Fatalf("handshake flags %#x, want 3", got)
	}
	c.write(binary.BigEndian.AppendUint32(nil, flags))
	return c
}

// rep is a reply to an option.
type rep struct {
	kind uint32
	data []byte
}

func optionHeader(id, length uint32) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, id)
	return binary.BigEndian.AppendUint32(b, length)
}

// option sends an option and returns the replies up to the last one.
func (c *client) option(id uint32, data []byte) []rep {
	c.t.Helper()
	c.write(append(optionHeader(id, uint32(len(data))), data...))
	return c.replies(id)
}

func (c *client) replies(id uint32) []rep {
	c.t.Helper()
	var out []rep
	for {
		b := c.read(20)
		if binary.BigEndian.Uint64(b) != magicOptReply || binary.BigEndian.Uint32(b[8:]) != id {
			c.t.Fatalf("reply header %x to option %d", b, id)
		}
		r := rep{kind: binary.BigEndian.Uint32(b[12:])}
		r.data = c.read(int(binary.BigEndian.Uint32(b[16:])))
		out = append(out, r)
		if r.kind == repAck || r.kind&(1<<31) != 0 {
			return out
		}
	}
}

// goData is the data of INFO and GO.
func goData(name string, infos ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(infos)))
	for _, i := range infos {
		b = binary.BigEndian.AppendUint16(b, i)
	}
	return b
}

// metaData is the data of LIST_META_CONTEXT and SET_META_CONTEXT.
func metaData(name string, queries ...string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(queries)))
	for _, q := range queries {
		b = binary.BigEndian.AppendUint32(b, uint32(len(q)))
		b = append(b, q...)
	}
	return b
}

// enter shakes hands for an export: with structured replies and base:allocation, or without.
func (c *client) enter(name string, structured bool, infos ...uint16) *client {
	c.t.Helper()
	c.hello(clientFixedNewstyle | clientNoZeroes)
	if structured {
		c.mustAck(c.option(optStructuredReply, nil))
		c.mustAck(c.option(optSetMetaContext, metaData(name, baseAllocation)))
		c.structured = true
	}
	c.mustAck(c.option(optGo, goData(name, infos...)))
	return c
}

func (c *client) mustAck(replies []rep) []rep {
	c.t.Helper()
	if last := replies[len(replies)-1]; last.kind != repAck {
		c.t.Fatalf("reply %#x %q, want an acknowledgement", last.kind, last.data)
	}
	return replies
}

// send sends a request and its payload.
func (c *client) send(cmd, flags uint16, cookie, off uint64, length uint32, payload []byte) {
	c.t.Helper()
	c.write(append(requestBytes(cmd, flags, cookie, off, length), payload...))
}

func requestBytes(cmd, flags uint16, cookie, off uint64, length uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, off)
	return binary.BigEndian.AppendUint32(b, length)
}

// answer is a reply to a request.
type answer struct {
	cookie uint64
	errno  Errno
	// chunk is the type of a structured reply's last chunk, 0 for a simple reply; chunks is how many there were.
	chunk  uint16
	chunks int
	data   []byte
	// end is the offset behind data.
	end     uint64
	message string
}

// receive reads a reply; n is the length of the data in a simple reply without an error.
func (c *client) receive(n int) answer {
	c.t.Helper()
	b := c.read(16)
	switch binary.BigEndian.Uint32(b) {
	case magicSimple:
		a := answer{cookie: binary.BigEndian.Uint64(b[8:]), errno: Errno(binary.BigEndian.Uint32(b[4:]))}
		if a.errno == OK {
			a.data = c.read(n)
		}
		return a
	case magicStructured:
		if !c.structured {
			c.t.Fatal("structured reply to a client that did not ask for them")
		}
	default:
		c.t.Fatalf("reply begins with %x", b)
	}
	if a, done := c.receiveChunk(b); done {
		return a
	}
	return c.receive(n)
}

// receiveChunk reads the rest of a chunk that begins with b, and adds it to those before it. It reports whether that was
// the last. Data must come in order and without gaps, and none after an error.
func (c *client) receiveChunk(b []byte) (a answer, done bool) {
	c.t.Helper()
	cookie, flags := binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint16(b[4:])
	a = c.parts[cookie]
	a.cookie, a.chunk = cookie, binary.BigEndian.Uint16(b[6:])
	a.chunks++
	body := c.read(int(binary.BigEndian.Uint32(c.read(4))))
	switch a.chunk {
	case chunkError:
		a.errno = Errno(binary.BigEndian.Uint32(body))
		a.message = string(body[6:])
		if int(binary.BigEndian.Uint16(body[4:])) != len(a.message) {
			c.t.Fatalf("error chunk %x: wrong length of the message", body)
		}
	case chunkOffsetData:
		off := binary.BigEndian.Uint64(body)
		if len(a.data) > 0 && off != a.end {
			c.t.Fatalf("a chunk begins at %d, the one before it ended at %d", off, a.end)
		}
		a.data = append(a.data, body[8:]...)
		a.end = off + uint64(len(body)-8)
	default:
		a.data = body
	}
	if flags == chunkFlagDone {
		delete(c.parts, cookie)
		return a, true
	}
	if flags != 0 || a.errno != OK {
		c.t.Fatalf("chunk of type %d with flags %#x and error %d", a.chunk, flags, uint32(a.errno))
	}
	if c.parts == nil {
		c.parts = map[uint64]answer{}
	}
	c.parts[cookie] = a
	return a, false
}

// do sends one request and waits for its reply.
func (c *client) do(cmd, flags uint16, off uint64, length uint32, payload []byte) answer {
	c.t.Helper()
	const cookie = 0x0123456789abcdef
	c.send(cmd, flags, cookie, off, length, payload)
	n := 0
	if cmd == cmdRead {
		n = int(length)
	}
	a := c.receive(n)
	if a.cookie != cookie {
		c.t.Fatalf("cookie %#x", a.cookie)
	}
	return a
}

// mustDo is do for a request that has to succeed.
func (c *client) mustDo(cmd, flags uint16, off uint64, length uint32, payload []byte) []byte {
	c.t.Helper()
	a := c.do(cmd, flags, off, length, payload)
	if a.errno != OK {
		c.t.Fatalf("%s %d+%d: error %d", commandName(cmd), off, length, uint32(a.errno))
	}
	return a.data
}

// leave ends the connection properly.
func (c *client) leave() {
	c.t.Helper()
	c.send(cmdDisc, 0, 0, 0, 0, nil)
	c.readEnd()
	if err := c.wait(); err != nil {
		c.t.Fatalf("the server ended with %v", err)
	}
}

// pattern fills n bytes that differ from their neighbours and from other seeds.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7+i>>8) ^ seed
	}
	return b
}

func mustEqual(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s: %d bytes differ from the %d wanted", what, len(got), len(want))
	}
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// logBuffer collects a logger's output.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newTextLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
