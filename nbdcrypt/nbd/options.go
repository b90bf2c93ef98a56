package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pojntfx/go-nbd/pkg/protocol"
)

// fields takes an option's data apart. After a field that is not there, bad stays true.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if n < 0 || n > len(f.b) {
		f.bad = true
		f.b = nil
		return nil
	}
	b := f.b[:n]
	f.b = f.b[n:]
	return b
}

func (f *fields) uint16() uint16 {
	if b := f.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (f *fields) uint32() uint32 {
	if b := f.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// text is a string with its length before it; one longer than the protocol allows is bad.
func (f *fields) text() string {
	n := f.uint32()
	if n > maxNameLength {
		f.bad = true
		return ""
	}
	return string(f.take(int(n)))
}

// exportName serves EXPORT_NAME, which ends the handshake and has no way to say no.
func (h *handshake) exportName(o option) (*target, terms, error) {
	if len(o.data) > maxNameLength {
		return nil, terms{}, fmt.Errorf("an export name of %d bytes, more than %d", len(o.data), maxNameLength)
	}
	t, ok := h.lookup(string(o.data))
	if !ok {
		return nil, terms{}, fmt.Errorf("the client asked for %q: %w", o.data, ErrUnknownExport)
	}
	agreed := h.terms(t)
	h.append(t.size)
	h.append(agreed.flags)
	if !h.noZeroes {
		h.out = append(h.out, make([]byte, 124)...)
	}
	return t, agreed, nil
}

// terms are those of a client that does not negotiate block sizes.
func (h *handshake) terms(t *target) terms {
	agreed := terms{flags: t.flags, minBlock: 1, structured: h.structured, baseAllocation: h.metaExport == t}
	if h.structured {
		agreed.flags |= flagSendDF
	}
	return agreed
}

// list serves LIST: one reply for each export.
func (h *handshake) list(o option) error {
	if len(o.data) != 0 {
		return refuse(repErrInvalid, "LIST has no data")
	}
	for _, t := range h.all() {
		b := binary.BigEndian.AppendUint32(nil, uint32(len(t.Name)))
		b = append(b, t.Name...)
		h.appendReply(o.id, repServer, append(b, t.Description...))
	}
	h.appendReply(o.id, repAck, nil)
	return nil
}

// info serves INFO and GO, which differ in what comes next.
func (h *handshake) info(o option) (*target, terms, error) {
	f := fields{b: o.data}
	name := f.text()
	var wantName, wantDescription, wantBlockSize bool
	for n := f.uint16(); n > 0 && !f.bad; n-- {
		switch f.uint16() {
		case infoName:
			wantName = true
		case infoDescription:
			wantDescription = true
		case infoBlockSize:
			wantBlockSize = true
		}
	}
	if f.bad || len(f.b) != 0 {
		return nil, terms{}, refuse(repErrInvalid, "the option's length does not fit its contents")
	}
	t, ok := h.lookup(name)
	if !ok {
		return nil, terms{}, refuse(repErrUnknown, "there is no export %q here; LIST shows those there are", name)
	}
	agreed := h.terms(t)
	if wantBlockSize {
		agreed.minBlock = t.MinBlock
	}
	h.appendInfo(o.id, protocol.NegotiationReplyInfo{Type: infoExport, Size: t.size, TransmissionFlags: agreed.flags}, "")
	if wantName {
		h.appendInfo(o.id, protocol.NegotiationReplyNameHeader{Type: infoName}, t.Name)
	}
	if wantDescription && t.Description != "" {
		h.appendInfo(o.id, protocol.NegotiationReplyDescriptionHeader{Type: infoDescription}, t.Description)
	}
	// The block sizes are sent unasked as well, as qemu's server does: go-nbd's client does not ask and needs them. One
	// that did not ask has promised nothing, so it is not held to the minimum.
	h.appendInfo(o.id, protocol.NegotiationReplyBlockSize{Type: infoBlockSize, MinimumBlockSize: agreed.minBlock,
		PreferredBlockSize: t.PreferredBlock, MaximumBlockSize: t.MaxBlock}, "")
	h.appendReply(o.id, repAck, nil)
	if o.id == optInfo {
		return nil, terms{}, nil
	}
	return t, agreed, nil
}

// appendInfo adds an INFO reply of a fixed-size part and a text.
func (h *handshake) appendInfo(id uint32, fixed any, text string) {
	// Only a type without a fixed size fails, and there is none among ours.
	b, _ := binary.Append(nil, binary.BigEndian, fixed)
	h.appendReply(id, repInfo, append(b, text...))
}

func (h *handshake) structuredReply(o option) error {
	if len(o.data) != 0 {
		return refuse(repErrInvalid, "STRUCTURED_REPLY has no data")
	}
	h.structured = true
	h.appendReply(o.id, repAck, nil)
	return nil
}

// metaContext serves LIST_META_CONTEXT and SET_META_CONTEXT. A set replaces what an earlier one chose.
func (h *handshake) metaContext(o option) error {
	set := o.id == optSetMetaContext
	if set {
		h.metaExport = nil
		if !h.structured {
			return refuse(repErrInvalid, "metadata contexts need structured replies; send STRUCTURED_REPLY first")
		}
	}
	f := fields{b: o.data}
	name := f.text()
	queries := f.uint32()
	// A list without queries asks for everything, a set without queries for nothing.
	match := !set && queries == 0
	for ; queries > 0 && !f.bad; queries-- {
		query := f.text()
		match = match || query == baseAllocation || !set && query == "base:"
	}
	if f.bad || len(f.b) != 0 {
		return refuse(repErrInvalid, "the option's length does not fit its contents")
	}
	t, ok := h.lookup(name)
	if !ok {
		return refuse(repErrUnknown, "there is no export %q here; LIST shows those there are", name)
	}
	if match {
		if set {
			h.metaExport = t
		}
		b := binary.BigEndian.AppendUint32(nil, baseAllocationID)
		h.appendReply(o.id, repMetaContext, append(b, baseAllocation...))
	}
	h.appendReply(o.id, repAck, nil)
	return nil
}

// startTLS serves STARTTLS. What was agreed on in clear is forgotten, because anybody could have said it.
func (h *handshake) startTLS(ctx context.Context, o option) error {
	switch {
	case len(o.data) != 0:
		return refuse(repErrInvalid, "STARTTLS has no data")
	case h.secure:
		return refuse(repErrInvalid, "TLS is in use already")
	case h.srv.opts.TLS == nil:
		return refuse(repErrUnsup, "this server has no TLS certificate; use nbd:// instead of nbds://")
	}
	// A client waits for the answer before it speaks TLS: more bytes in clear are somebody's attempt to have them taken
	// for the client's, once the connection is trusted.
	if h.rd.buffered() > 0 {
		return errors.New("the client sent more in clear after STARTTLS")
	}
	h.appendReply(o.id, repAck, nil)
	if err := h.flush(); err != nil {
		return err
	}
	secure := tls.Server(h.conn, h.srv.opts.TLS)
	if err := secure.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	h.conn = secure
	h.rd = h.newReader()
	h.secure, h.structured, h.metaExport = true, false, nil
	return nil
}
