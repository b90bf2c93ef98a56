package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// goNBDGrace is how long the data of a GO option that claims to have none is waited for, see readGo.
const goNBDGrace = time.Second

// handshake is the first phase of a connection: the client asks questions and chooses an export.
type handshake struct {
	srv      *Server
	link     *link
	conn     net.Conn
	rd       *wireReader
	deadline time.Time
	// out collects replies until the server waits for the client again.
	out []byte

	secure     bool
	noZeroes   bool
	structured bool
	// metaExport is the export that SET_META_CONTEXT chose base:allocation for; nil when it did not.
	metaExport *target
}

// option is one question of the client.
type option struct {
	id   uint32
	data []byte
}

// refusal is a reply to an option that says no and why. The handshake goes on.
type refusal struct {
	reply   uint32
	message string
}

func (r *refusal) Error() string { return r.message }

func refuse(reply uint32, format string, args ...any) error {
	return &refusal{reply, fmt.Sprintf(format, args...)}
}

func newHandshake(srv *Server, l *link) *handshake {
	h := &handshake{srv: srv, link: l, conn: l.conn}
	h.rd = h.newReader()
	return h
}

func (h *handshake) newReader() *wireReader {
	return &wireReader{conn: h.conn, buf: make([]byte, readBufferSize), beforeBlock: func() {}}
}

// run returns the export that the client chose and what was agreed on, or no export when the client left without one.
func (h *handshake) run(ctx context.Context) (*target, terms, error) {
	// One deadline for all of it: a client that sends a byte now and then gains nothing.
	h.deadline = time.Now().Add(h.srv.opts.HandshakeTimeout)
	if err := h.conn.SetDeadline(h.deadline); err != nil {
		return nil, terms{}, fmt.Errorf("setting the time limit: %w", err)
	}
	if err := h.greet(); err != nil {
		if err == io.EOF {
			return nil, terms{}, nil
		}
		return nil, terms{}, err
	}
	for range maxOptions {
		o, err := h.readOption()
		if err == io.EOF {
			return nil, terms{}, nil
		}
		if err != nil {
			return nil, terms{}, err
		}
		t, agreed, end, err := h.answer(ctx, o)
		if err == nil {
			err = h.flush()
		}
		if err != nil || end {
			return nil, terms{}, err
		}
		if t != nil {
			if err := h.conn.SetDeadline(time.Time{}); err != nil {
				return nil, terms{}, fmt.Errorf("lifting the time limit: %w", err)
			}
			return t, agreed, nil
		}
	}
	return nil, terms{}, fmt.Errorf("the client sent %d options and chose no export", maxOptions)
}

// greet exchanges the first bytes.
func (h *handshake) greet() error {
	h.append(protocol.NegotiationNewstyleHeader{OldstyleMagic: magicInit, OptionMagic: magicOption,
		HandshakeFlags: flagFixedNewstyle | flagNoZeroes})
	if err := h.flush(); err != nil {
		return err
	}
	b, err := h.rd.header(4)
	if err != nil {
		return err
	}
	// The flag for the fixed newstyle is not insisted on: go-nbd's client does not set it and speaks it all the same.
	flags := binary.BigEndian.Uint32(b)
	if unknown := flags &^ (clientFixedNewstyle | clientNoZeroes); unknown != 0 {
		return fmt.Errorf("the client set handshake flags %#x, which it was not offered", unknown)
	}
	h.noZeroes = flags&clientNoZeroes != 0
	return nil
}

// readOption reads one option. Its data is valid until the next one is read.
func (h *handshake) readOption() (option, error) {
	b, err := h.rd.header(optionHeaderSize)
	if err != nil {
		return option{}, err
	}
	if magic := binary.BigEndian.Uint64(b); magic != magicOption {
		return option{}, fmt.Errorf("the client sent %#016x where an option begins", magic)
	}
	o := option{id: binary.BigEndian.Uint32(b[8:])}
	length := binary.BigEndian.Uint32(b[12:])
	if length > maxOptionLength {
		h.appendReply(o.id, repErrTooBig, []byte("the option is longer than 64 KiB"))
		_ = h.flush()
		return option{}, fmt.Errorf("option %d claims %d bytes, more than %d", o.id, length, maxOptionLength)
	}
	if o.id == optGo && length == 0 {
		o.data, err = h.readGo()
	} else {
		o.data, err = h.rd.header(int(length))
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return option{}, fmt.Errorf("reading option %d: %w", o.id, err)
	}
	return o, nil
}

// readGo reads the data of a GO option whose header says that there is none. That is never valid, as the data has at
// least 6 bytes, but go-nbd's client (v0.3.2) sends it so. What follows a GO without data can only be another option, and
// those begin with a magic number that no export name's length can be: so a short look is safe. It returns nothing when the
// client waits for an answer or goes on with an option.
func (h *handshake) readGo() ([]byte, error) {
	if err := h.conn.SetReadDeadline(earlier(time.Now().Add(goNBDGrace), h.deadline)); err != nil {
		return nil, err
	}
	length, ok := h.peek(4)
	if err := h.conn.SetReadDeadline(h.deadline); err != nil {
		return nil, err
	}
	if !ok || binary.BigEndian.Uint32(length) > maxNameLength {
		return nil, nil
	}
	fixed := 4 + int(binary.BigEndian.Uint32(length)) + 2
	b, err := h.rd.header(fixed)
	if err != nil {
		return nil, err
	}
	requests := 2 * int(binary.BigEndian.Uint16(b[fixed-2:]))
	if fixed+requests > maxOptionLength {
		return nil, fmt.Errorf("%d information requests are more than an option can hold", requests/2)
	}
	whole := slices.Clone(b)
	if b, err = h.rd.header(requests); err != nil {
		return nil, err
	}
	return append(whole, b...), nil
}

// peek looks at the next n bytes without taking them. A failed read shows again at the next one.
func (h *handshake) peek(n int) ([]byte, bool) {
	b, err := h.rd.header(n)
	if err != nil {
		return nil, false
	}
	h.rd.r -= n
	return b, true
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// answer replies to an option. It returns an export when the client chose one, and end when the client is done.
func (h *handshake) answer(ctx context.Context, o option) (t *target, agreed terms, end bool, err error) {
	if h.srv.opts.TLSRequired && !h.secure && o.id != optStartTLS && o.id != optAbort {
		if o.id == optExportName {
			return nil, terms{}, false, errors.New("the client asked for an export in clear, but TLS is required; use nbds://")
		}
		h.appendReply(o.id, repErrTLSReqd, []byte("this server requires TLS: send STARTTLS first, or use nbds://"))
		return nil, terms{}, false, nil
	}
	switch o.id {
	case optExportName:
		t, agreed, err = h.exportName(o)
	case optAbort:
		h.appendReply(o.id, repAck, nil)
		// The client may have gone already; the answer is a courtesy.
		_ = h.flush()
		return nil, terms{}, true, nil
	case optList:
		err = h.list(o)
	case optStartTLS:
		err = h.startTLS(ctx, o)
	case optInfo, optGo:
		t, agreed, err = h.info(o)
	case optStructuredReply:
		err = h.structuredReply(o)
	case optListMetaContext, optSetMetaContext:
		err = h.metaContext(o)
	default:
		err = refuse(repErrUnsup, "option %d is not supported by this server", o.id)
	}
	var no *refusal
	if errors.As(err, &no) {
		h.appendReply(o.id, no.reply, []byte(no.message))
		return nil, terms{}, false, nil
	}
	return t, agreed, false, err
}

// lookup finds an export. The empty name means the only export when none has that name.
func (h *handshake) lookup(name string) (*target, bool) {
	h.srv.mu.Lock()
	defer h.srv.mu.Unlock()
	if t, ok := h.srv.exports[name]; ok {
		return t, true
	}
	if name == "" && len(h.srv.exports) == 1 {
		for _, t := range h.srv.exports {
			return t, true
		}
	}
	return nil, false
}

// all is every export, ordered by name.
func (h *handshake) all() []*target {
	h.srv.mu.Lock()
	defer h.srv.mu.Unlock()
	list := make([]*target, 0, len(h.srv.exports))
	for _, t := range h.srv.exports {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *target) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// append adds a fixed-size structure of the wire to the replies.
func (h *handshake) append(v any) {
	// Only a type without a fixed size fails, and there is none among ours.
	h.out, _ = binary.Append(h.out, binary.BigEndian, v)
}

// appendReply adds a reply to an option.
func (h *handshake) appendReply(id, kind uint32, data []byte) {
	h.append(protocol.NegotiationReplyHeader{ReplyMagic: magicOptReply, ID: id, Type: kind, Length: uint32(len(data))})
	h.out = append(h.out, data...)
}

func (h *handshake) flush() error {
	if len(h.out) == 0 {
		return nil
	}
	_, err := h.conn.Write(h.out)
	h.out = h.out[:0]
	if err != nil {
		return fmt.Errorf("answering an option: %w", err)
	}
	return nil
}
