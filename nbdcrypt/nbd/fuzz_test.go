package nbd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// tape is a client that has said everything it will ever say; what the server answers is kept.
type tape struct {
	mu  sync.Mutex
	in  *bytes.Reader
	out bytes.Buffer
}

func (c *tape) Read(p []byte) (int, error) { return c.in.Read(p) }

func (c *tape) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.Write(p)
}

func (c *tape) Close() error                     { return nil }
func (c *tape) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (c *tape) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

const fuzzBudget = 1 << 20

func fuzzServer(t testing.TB) (*Server, fullDevice) {
	dev := newFullDevice(64 << 10)
	srv := newServer(t, Options{MemoryBudget: fuzzBudget, MaxInFlight: 4, Exports: []Export{
		{Name: "disk", Description: "d", Device: dev, AllowTrim: true, MinBlock: 512, MaxBlock: 64 << 10},
		{Name: "ro", Device: newTestDevice(4096), ReadOnly: true, MaxBlock: 4096}}})
	srv.writePiece = 4096 // so that what fits a fuzzer's input is split
	return srv, dev
}

// Whatever a client sends as its handshake, the server ends, answers only in well-formed replies, and holds nothing.
func FuzzHandshake(f *testing.F) {
	hello := []byte{0, 0, 0, 3}
	opt := func(id uint32, data []byte) []byte { return append(optionHeader(id, uint32(len(data))), data...) }
	f.Add(slices.Concat(hello, opt(optGo, goData("disk", infoName, infoBlockSize)), requestBytes(cmdRead, 0, 1, 0, 512), requestBytes(cmdDisc, 0, 2, 0, 0)))
	f.Add(slices.Concat(hello, opt(optStructuredReply, nil), opt(optSetMetaContext, metaData("disk", "base:allocation")), opt(optGo, goData("disk"))))
	f.Add(slices.Concat(hello, opt(optListMetaContext, metaData("ro")), opt(optList, nil), opt(optAbort, nil)))
	f.Add(slices.Concat([]byte{0, 0, 0, 0}, optionHeader(optGo, 0), goData("disk")))
	f.Add(slices.Concat([]byte{0, 0, 0, 1}, opt(optExportName, []byte("ro")), requestBytes(cmdWrite, 0, 1, 0, 512)))
	f.Add(slices.Concat(hello, opt(optStartTLS, nil), optionHeader(optExportName, 0xffffffff)))
	f.Add(slices.Concat(hello, opt(77, []byte("what")), opt(optInfo, []byte{0, 0, 0, 255})))
	srv, _ := fuzzServer(f) // for all inputs: to make one takes longer than to serve most inputs
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &tape{in: bytes.NewReader(in)}
		_ = srv.ServeConn(context.Background(), c)
		checkOptionReplies(t, c.out.Bytes())
		if s := srv.Stats(); s.Connections != 0 || s.InFlight != 0 || s.BufferBytes != 0 {
			t.Errorf("left over: %+v", s)
		}
	})
}

// checkOptionReplies follows the replies up to the end of the handshake.
func checkOptionReplies(t *testing.T, out []byte) {
	if len(out) < 18 {
		t.Fatalf("greeting of %d bytes", len(out))
	}
	out = out[18:]
	for len(out) >= 20 && binary.BigEndian.Uint64(out) == magicOptReply {
		n := int(binary.BigEndian.Uint32(out[16:]))
		if n > len(out)-20 {
			t.Fatalf("reply %x claims %d bytes", out[:20], n)
		}
		out = out[20+n:]
	}
}

// Whatever a client sends as its requests, each one is answered once and in form, the errors are those of the protocol,
// nothing outside the device is touched and nothing stays behind.
func FuzzTransmission(f *testing.F) {
	data := pattern(512, 1)
	for _, structured := range []bool{false, true} {
		f.Add(structured, slices.Concat(requestBytes(cmdWrite, 0, 1, 512, 512), data, requestBytes(cmdRead, 0, 2, 512, 512), requestBytes(cmdFlush, 0, 3, 0, 0)))
		f.Add(structured, slices.Concat(requestBytes(cmdWriteZeroes, cmdFlagFUA, 1, 0, 65536), requestBytes(cmdTrim, 0, 2, 512, 1024), requestBytes(cmdCache, 0, 3, 0, 4096)))
		f.Add(structured, slices.Concat(requestBytes(cmdBlockStatus, cmdFlagReqOne, 1, 0, 65536), requestBytes(cmdRead, cmdFlagDF, 2, 1<<63, 512), requestBytes(99, 0xffff, 3, 0, 0xffffffff)))
		f.Add(structured, slices.Concat(requestBytes(cmdWrite, 0, 1, 0, 0xffffffff), data))
		f.Add(structured, slices.Concat(requestBytes(cmdWrite, cmdFlagFUA, 1, 512, 12288), pattern(12288, 2), requestBytes(cmdRead, 0, 2, 0, 16384)))
		f.Add(structured, slices.Concat(requestBytes(cmdWrite, 0, 1, 61440, 8192), pattern(8192, 2), requestBytes(cmdWrite, 0, 2, 4096, 8192), data))
		f.Add(structured, slices.Concat(requestBytes(cmdRead, 0, 1, 0, 512), []byte("not a request at all, really")))
		f.Add(structured, slices.Concat(requestBytes(cmdDisc, 0, 1, 0, 0), requestBytes(cmdRead, 0, 1, 0, 512)))
	}
	srv, dev := fuzzServer(f)
	f.Fuzz(func(t *testing.T, structured bool, in []byte) {
		clear(dev.data) // so that an input does the same by itself
		prelude := []byte{0, 0, 0, 3}
		if structured {
			prelude = slices.Concat(prelude, optionHeader(optStructuredReply, 0), optionHeader(optSetMetaContext, 31), metaData("disk", baseAllocation))
		}
		goes := goData("disk", infoBlockSize)
		prelude = slices.Concat(prelude, optionHeader(optGo, uint32(len(goes))), goes)
		in = slices.Clone(in)
		asked := number(in)
		c := &tape{in: bytes.NewReader(slices.Concat(prelude, in))}
		err := srv.ServeConn(context.Background(), c)
		replies := c.out.Bytes()
		// The handshake's replies come first; they end with GO's acknowledgement.
		ack := binary.BigEndian.AppendUint32(nil, optGo)
		ack = binary.BigEndian.AppendUint64(ack, uint64(repAck)<<32)
		at := bytes.Index(replies, ack)
		if at < 0 {
			t.Fatalf("no handshake: %v", err)
		}
		checkReplies(t, structured, replies[at+len(ack):], asked)
		if s := srv.Stats(); s.Connections != 0 || s.InFlight != 0 || s.BufferBytes != 0 || s.BufferWaits > s.Requests {
			t.Errorf("left over: %+v", s)
		}
		if len(dev.data) != 64<<10 {
			t.Error("the device changed its size")
		}
	})
}

// question is a request that deserves an answer.
type question struct {
	cmd    uint16
	length uint32
}

// number reads a client's bytes as the protocol says, gives every request a cookie of its own, and returns those that
// deserve an answer.
func number(in []byte) map[uint64]question {
	asked := map[uint64]question{}
	for len(in) >= requestHeaderSize && binary.BigEndian.Uint32(in) == magicRequest {
		cmd, length := binary.BigEndian.Uint16(in[6:]), binary.BigEndian.Uint32(in[24:])
		cookie := uint64(len(asked)) + 1<<40
		binary.BigEndian.PutUint64(in[8:], cookie)
		in = in[requestHeaderSize:]
		if cmd == cmdDisc {
			break
		}
		if cmd == cmdWrite {
			if uint64(length) > uint64(len(in)) {
				break
			}
			in = in[length:]
		}
		asked[cookie] = question{cmd, length}
	}
	return asked
}

var protocolErrors = []Errno{OK, EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN}

func checkReplies(t *testing.T, structured bool, out []byte, asked map[uint64]question) {
	r := bytes.NewReader(out)
	number := func() uint32 {
		var n uint32
		if err := binary.Read(r, binary.BigEndian, &n); err != nil {
			t.Fatalf("half a reply: %v", err)
		}
		return n
	}
	for r.Len() > 0 {
		var head [16]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			t.Fatalf("half a reply: %v", err)
		}
		cookie := binary.BigEndian.Uint64(head[8:])
		q, ok := asked[cookie]
		if !ok {
			t.Fatalf("cookie %#x was not asked for, or answered twice", cookie)
		}
		delete(asked, cookie)
		errno, n := OK, int64(0)
		switch magic := binary.BigEndian.Uint32(head[:]); {
		case magic == magicSimple:
			errno = Errno(binary.BigEndian.Uint32(head[4:]))
			if structured && q.cmd == cmdRead {
				t.Fatal("a simple reply to a READ, with structured replies agreed on")
			}
			if errno == OK && q.cmd == cmdRead {
				n = int64(q.length)
			}
		case magic == magicStructured && structured:
			n = int64(number())
			if binary.BigEndian.Uint16(head[6:]) == chunkError {
				errno, n = Errno(number()), n-4
			}
		default:
			t.Fatalf("reply begins with %x", head)
		}
		if !slices.Contains(protocolErrors, errno) {
			t.Errorf("error %d", errno)
		}
		if n < 0 || n > int64(r.Len()) {
			t.Fatalf("reply of %d bytes, %d are there", n, r.Len())
		}
		_, _ = r.Seek(n, io.SeekCurrent)
	}
	if len(asked) > 0 {
		t.Errorf("not answered: %+v", asked)
	}
}

// Every answer has a text for people, and none of them is longer than a reply has room for.
func TestErrno_messages(t *testing.T) {
	t.Parallel()
	for _, e := range append(protocolErrors, 77) {
		if text := e.Error(); text == "" || len(text) > replyHeadSize-structuredHeaderSize-6 || strings.ContainsAny(text, "\n") {
			t.Errorf("%d: %q", uint32(e), text)
		}
	}
}
